"""Simulated int8 rounds as int8 does, leaves out what a recipe leaves out, and its agreement is printed."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_models import make_roberta

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def int8(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("int8_simulated")


def test_every_way_is_printed_and_written(tmp_path: Path) -> None:
    sentences, figures = tmp_path / "sentences.txt", tmp_path / "figures.json"
    sentences.write_text("The actor used a tool to encrypt the files of all hosts.\nToo short\n" * 3)
    model = make_roberta(tmp_path / "model")
    command = [sys.executable, str(BENCHMARKS / "int8_agreement.py"), str(model), "--sentences", str(sentences)]
    done = subprocess.run([*command, "--json", str(figures)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert found["sentences"] == 6
    ways = {line["way"]: line for line in found["lines"]}
    assert len(ways) == 10 and "bfloat16" in ways and "int8, symmetric activations" in ways
    assert all(line["share"] == line["same"] / 6 for line in ways.values())
    assert all(f"{name} " in done.stdout for name in ways)


def test_values_are_rounded_to_8_bits_a_row(int8: ModuleType) -> None:
    values = torch.randn(20, 3000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 20)[:, None]
    for rounded, most in ((int8.symmetric(values), 255), (int8.asymmetric(values), 256)):
        steps = [len(row.unique()) for row in rounded]
        assert max(steps) <= most and min(steps) > 150
        width = (values.amax(1) - values.amin(1)) / 255
        assert ((rounded - values).abs().amax(1) <= 0.6 * width).all()
    one_sided = values.abs()  # asymmetric steps are half as wide there
    errors = [(rounded - one_sided).abs().mean() for rounded in (int8.symmetric(one_sided), int8.asymmetric(one_sided))]
    assert errors[1] < 0.6 * errors[0]


def test_a_layer_of_a_recipe_gives_what_integers_give(int8: ModuleType) -> None:
    torch.manual_seed(0)
    modules, x = [torch.nn.Linear(16, 8), torch.nn.Linear(16, 4)], torch.randn(5, 16)
    layer = int8.SimulatedInt8(modules, int8.Recipe("plain"))
    weight = torch.cat([module.weight.detach() for module in modules])
    by_token, by_channel = x.abs().amax(1, keepdim=True) / 127, weight.abs().amax(1, keepdim=True) / 127
    sums = (x / by_token).round().to(torch.int32) @ (weight / by_channel).round().to(torch.int32).T
    wanted = sums * by_token * by_channel.T + torch.cat([module.bias.detach() for module in modules])
    assert torch.allclose(layer(x), wanted, atol=1e-6)
