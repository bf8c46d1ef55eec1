"""Simulated int8 rounds as int8 does, leaves out what a recipe leaves out, and its agreement is printed."""

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from secbatch.models.device import _cpu_flags
from secbatch.models.resolved import ResolvedModel

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Imported = Callable[[str], ModuleType]


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Imported:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_every_way_is_printed_and_written(
    benchmark: Callable[..., None],
    tiny: Callable[[str], ResolvedModel],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sentences, figures = tmp_path / "sentences.txt", tmp_path / "figures.json"
    plain = "The actor used a tool to encrypt the files of all hosts.\nToo short\n"
    sentences.write_text(plain * 3 + "Taken as it <mask> is, with its one mask.\n")
    benchmark("int8_agreement.py", tiny("roberta").folder, "--sentences", sentences, "--json", figures)
    found, said = json.loads(figures.read_text()), capsys.readouterr().out
    assert found["sentences"] == 7
    ways = {line["way"]: line for line in found["lines"]}
    assert len(ways) == len(found["lines"]) == 24 and "bfloat16" in ways and "int8, symmetric activations" in ways
    assert all(line["share"] == line["same"] / 7 for line in ways.values())
    assert all(f"{name} " in said for name in ways)


def test_a_way_is_in_force_while_its_words_are_found(
    imported: Imported, tiny: Callable[[str], ResolvedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    agreement = imported("int8_agreement")
    in_force: list[str] = []
    found: list[tuple[str, ...]] = []

    @contextmanager
    def simulated(recipe: Any, layers: int, inputs: Any) -> Iterator[None]:
        in_force.append(recipe.name)
        yield
        in_force.pop()

    def best_words(model: str, sentences: list[str], device: str, precision: str) -> tuple[list[str], float]:
        found.append((precision, *in_force))
        return ["word"], 1.0

    monkeypatch.setattr(agreement, "recorded", lambda layers, inputs: nullcontext())
    monkeypatch.setattr(agreement, "simulated", simulated)
    monkeypatch.setattr(agreement, "best_words", best_words)
    recipes = agreement.RECIPES[:2]
    agreement.compare(str(tiny("roberta").folder), ["A <mask>"], recipes)
    assert found[-3:] == [("bfloat16",), *(("float32", recipe.name) for recipe in recipes)]


def test_values_are_rounded_to_8_bits_a_row(imported: Imported) -> None:
    int8 = imported("int8_rounding")
    values = torch.randn(20, 3000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 20)[:, None]
    width = (values.amax(1) - values.amin(1)) / 255
    for rounded, most in ((int8.symmetric(values), 255), (int8.asymmetric(values), 256)):
        steps = [len(row.unique()) for row in rounded]
        assert max(steps) <= most and min(steps) > 150
        assert ((rounded - values).abs().amax(1) <= 0.6 * width).all()
    assert ((int8.in_two_parts(values) - values).abs().amax(1) <= 0.01 * width).all()
    one_sided = values.abs()  # asymmetric steps are half as wide there
    errors = [(rounded - one_sided).abs().mean() for rounded in (int8.symmetric(one_sided), int8.asymmetric(one_sided))]
    assert errors[1] < 0.6 * errors[0]


def test_errors_of_weights_are_made_good_by_other_weights(imported: Imported) -> None:
    int8 = imported("int8_rounding")
    torch.manual_seed(0)
    inputs = torch.randn(500, 20) @ torch.randn(20, 150) + 0.1 * torch.randn(500, 150)  # alike, as activations are
    weight = torch.randn(30, 150)
    nearest, compensated = int8.symmetric(weight), int8.compensated(weight, inputs)
    scale = weight.abs().amax(1, keepdim=True) / 127
    numbers = compensated / scale
    assert torch.allclose(numbers, numbers.round(), atol=1e-3) and numbers.abs().max() < 127.5
    errors = [(inputs @ (rounded - weight).T).square().mean() for rounded in (nearest, compensated)]
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("change", [{}, {"smoothing": 0.7}, {"float32_channels": 3}])
def test_a_layer_whose_operands_are_not_rounded_is_exact(imported: Imported, change: dict[str, float]) -> None:
    int8 = imported("int8_simulated")
    torch.manual_seed(0)
    module, x = torch.nn.Linear(16, 8), torch.randn(5, 16)
    layer = int8.SimulatedInt8([module], int8.Recipe("all of it", "exact", "exact", **change), torch.randn(50, 16))
    assert torch.allclose(layer(x), module(x), atol=1e-6)
    assert torch.allclose(layer.gelu(x), torch.nn.functional.gelu(module(x)), atol=1e-6)


def test_channels_left_in_float32_are_the_widest(imported: Imported) -> None:
    int8 = imported("int8_simulated")
    torch.manual_seed(0)
    module, x = torch.nn.Linear(64, 8), torch.randn(200, 64)
    x[:, [5, 40]] *= 100
    errors = []
    for channels in (0, 2):
        layer = int8.SimulatedInt8([module], int8.Recipe("few", float32_channels=channels), x)
        errors.append((layer(x) - module(x)).abs().mean())
    assert errors[1] < 0.1 * errors[0]


def test_a_layer_of_a_recipe_gives_what_integers_give(imported: Imported) -> None:
    int8 = imported("int8_simulated")
    torch.manual_seed(0)
    modules, x = [torch.nn.Linear(16, 8), torch.nn.Linear(16, 4)], torch.randn(5, 16)
    layer = int8.SimulatedInt8(modules, int8.Recipe("plain", "symmetric"))
    weight = torch.cat([module.weight.detach() for module in modules])
    by_token, by_channel = x.abs().amax(1, keepdim=True) / 127, weight.abs().amax(1, keepdim=True) / 127
    sums = (x / by_token).round().to(torch.int32) @ (weight / by_channel).round().to(torch.int32).T
    wanted = sums * by_token * by_channel.T + torch.cat([module.bias.detach() for module in modules])
    assert torch.allclose(layer(x), wanted, atol=1e-6)


@pytest.mark.skipif("vnni" not in " ".join(_cpu_flags()), reason="int8 products may overflow on CPUs without VNNI")
@pytest.mark.parametrize(("channels", "parts", "most"), [(0, 1, 0.02), (4, 1, 0.02), (0, 2, 0.01)])
def test_the_measured_int8_product_gives_the_product(
    imported: Imported, channels: int, parts: int, most: float
) -> None:
    speed = imported("int8_speed")
    torch.manual_seed(0)
    module, x, residual = torch.nn.Linear(64, 32), torch.randn(600, 64) + 0.5, torch.randn(600, 32)
    product = speed.Int8Product(module.weight.detach(), module.bias.detach(), channels, parts)
    with torch.inference_mode():
        for follows, wanted in (("nothing", module(x)), ("gelu", torch.nn.functional.gelu(module(x)))):
            error = (product(x, follows, residual) - wanted).abs().mean() / wanted.abs().mean()
            assert error < most
        assert torch.allclose(product(x, "sum", residual), product(x, "nothing", residual) + residual, atol=1e-6)
