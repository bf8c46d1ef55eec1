"""Encoders on a GPU against the stock models there and on the CPU. Skipped where there is none."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import SENTENCES, make_fine_tuned
from torch.nn.functional import layer_norm

from secbatch.job import Job
from secbatch.models.batch_runner import BatchRunner
from secbatch.models.device import Compute, choose
from secbatch.models.encoder import MaskedLM, hidden_states
from secbatch.models.encoder_generic import StockEncoder
from secbatch.models.load import load_model
from secbatch.models.packed import blocks
from secbatch.models.packed_attention import attend, has_flash_attention, short_attention
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequence_means import sequence_means
from secbatch.models.sequences import TokenSequences
from secbatch.models.sum_norm import sum_norm
from secbatch.models.transfer import AHEAD, Made, Transfer, on_device
from secbatch.runner import run_job

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
LENGTHS = (60, 41, 41, 41, 20, 7, 7, 3, 1)
Tiny = Callable[[str], ResolvedModel]


@pytest.fixture(params=["float32", "bfloat16"])
def compute(request: pytest.FixtureRequest) -> Compute:
    return choose("cuda", request.param)


def random_sequences(vocabulary: int, copies: int = 1) -> TokenSequences:
    draw = np.random.default_rng(1)
    lengths = sorted(LENGTHS * copies, reverse=True)
    return TokenSequences.of([draw.integers(5, vocabulary, length) for length in lengths])


@pytest.mark.parametrize("kind", ["roberta", "bert", "electra", "distilbert", "modernbert", "mpnet", "albert"])
def test_hidden_states_equal_the_stock_models(tiny: Tiny, kind: str, compute: Compute) -> None:
    base = load_model(tiny(kind), "encoder", compute).model
    path = hidden_states(base, 0, compute)
    assert path.packed is (kind not in ("mpnet", "albert"))
    sequences = random_sequences(base.config.vocab_size)
    places = np.array([0, 59, 60, 61, 100, 101, 219, 220])
    with torch.inference_mode():
        wanted = StockEncoder(base, 0, compute.device, pad=False)(sequences)
        got, some = path(sequences), path(sequences, places)
    tolerance = 1e-4 if compute.dtype == "float32" else 0.06 * float(wanted.abs().max())
    assert torch.allclose(got.float(), wanted.float(), atol=tolerance, rtol=0)
    assert torch.allclose(some.float(), wanted[torch.from_numpy(places).cuda()].float(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("longest", [1, 16, 17, 40, 64, 100, 128])
def test_short_sequences_have_a_kernel_of_their_own(longest: int) -> None:
    device, draw = torch.device("cuda:0"), np.random.default_rng(longest)
    kernel = short_attention(device, torch.bfloat16, 64, longest)
    assert kernel is not None
    lengths = np.sort(np.append(draw.integers(1, longest + 1, 300), longest))[::-1]
    sequences = TokenSequences(np.zeros(lengths.sum(), np.int32), np.concatenate([[0], np.cumsum(lengths)]))
    (block,) = blocks(sequences, "cuda:0")
    qkv = torch.randn(len(block.ids), 3, 12, 64, device=device, dtype=torch.bfloat16)
    wanted = attend(qkv.float(), replace(block, bounds=None))
    got = kernel(qkv, block.bounds, longest).flatten(1)
    assert torch.allclose(got[: block.tokens].float(), wanted[: block.tokens], atol=0.02)


def test_longer_ones_and_float32_have_not() -> None:
    assert short_attention(torch.device("cuda:0"), torch.bfloat16, 64, 129) is None
    assert short_attention(torch.device("cuda:0"), torch.float32, 64, 20) is None


def test_bfloat16_has_one_attention_kernel_for_all_lengths() -> None:
    assert has_flash_attention(torch.device("cuda:0"), torch.bfloat16, 64)
    assert has_flash_attention(torch.device("cuda:0"), torch.bfloat16, 64, 64)
    assert not has_flash_attention(torch.device("cuda:0"), torch.float32, 64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [48, 312, 768, 1024])
def test_sums_are_normed_in_one_pass(width: int, dtype: torch.dtype) -> None:
    draw = torch.Generator(device="cuda").manual_seed(width)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, device="cuda").to(dtype)

    x, residual, weight, bias = drawn(1000, width) * 3, drawn(1000, width), drawn(width), drawn(width)
    in_one_pass = sum_norm(weight)
    assert in_one_pass is not None, "Triton does not run here"
    wanted = layer_norm(x.float() + residual.float(), (width,), weight.float(), bias.float(), 1e-5)
    for rows in (1000, 1, 0):
        got = in_one_pass(x[:rows], residual[:rows], weight, bias, 1e-5)
        assert got.dtype is dtype and torch.allclose(got.float(), wanted[:rows], atol=2e-3, rtol=2**-8)
    every_other = in_one_pass(x[::2], residual[::2], weight, bias, 1e-5)
    assert torch.allclose(every_other.float(), wanted[::2], atol=2e-3, rtol=2**-8)


def test_float32_is_normed_by_torch() -> None:
    assert sum_norm(torch.ones(768, device="cuda")) is None


def test_strict_float32_agrees_with_the_cpu(tiny: Tiny) -> None:
    for kind in ("roberta", "modernbert"):
        logits = []
        for device in ("cuda", "cpu"):
            compute = choose(device, "float32")
            model = MaskedLM(load_model(tiny(kind), "masked-lm", compute), 0, compute)
            sequences = random_sequences(model.vocabulary)
            with torch.inference_mode():
                places = np.arange(0, len(sequences.ids), 7)
                logits.append(torch.cat([part.cpu() for _, part in model.logits(sequences, places)]))
        assert torch.allclose(logits[0].softmax(-1), logits[1].softmax(-1), atol=1e-5, rtol=0)


def test_results_land_in_their_places_while_later_batches_run() -> None:
    target, device = np.zeros((40, 3), np.float32), "cuda:0"
    transfer = Transfer(device)
    flights = []

    def batch(number: int) -> Iterator[Made]:
        rows = np.arange(number * 4, number * 4 + 4)
        yield Made(target, rows, on_device(rows.astype(np.float32), device)[:, None].expand(-1, 3) * 2)

    for number in range(10):
        flights += transfer.take(batch(number))
        assert len(transfer._flights) <= AHEAD
    for _ in range(2):
        for flight in flights:
            flight.land()
    assert np.array_equal(target, np.repeat(np.arange(40.0)[:, None] * 2, 3, axis=1))


def test_means_of_many_lengths() -> None:
    sequences = random_sequences(100)
    states = torch.randn(len(sequences.ids), 16)
    assert torch.allclose(sequence_means(states.cuda(), sequences).cpu(), sequence_means(states, sequences), atol=1e-6)


def test_running_out_of_memory_halves_the_budget_and_loses_no_row(tiny: Tiny) -> None:
    compute = choose("cuda", "float32")
    model = MaskedLM(load_model(tiny("roberta"), "masked-lm", compute), 0, compute)
    sequences = random_sequences(model.vocabulary, copies=2000)
    scores = np.zeros(len(sequences), np.float32)

    def first(rows: np.ndarray, batch: TokenSequences) -> Iterator[Made]:
        for part, logits in model.logits(batch, batch.offsets[:-1]):
            yield Made(scores, rows[part], logits[:, 7])

    runner = BatchRunner(compute, token_budget=400_000)
    torch.cuda.empty_cache()
    held, total = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((held + (200 << 20)) / total)  # one copy of all states is 100 MiB
    try:
        report = runner.run(sequences, False, first)
        report.land()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert runner.token_budget < 400_000
    assert not report.errors and report.tokens == len(sequences.ids)
    wanted = scores.copy()
    BatchRunner(compute, token_budget=10_000).run(sequences, False, first).land()
    assert np.allclose(scores, wanted, atol=1e-4) and np.count_nonzero(scores) > len(scores) * 0.99


def test_a_job_gives_on_the_gpu_what_it_gives_on_the_cpu(tiny: Tiny, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    classifier = make_fine_tuned(tmp_path / "classifier", "roberta", "SequenceClassification", num_labels=3)
    with Path("in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence"])
        for number in range(700):
            text = SENTENCES[number % len(SENTENCES)]
            writer.writerow([f"{text} Report {number % 350}: the <mask> was <mask>."])
    found = {}
    model = str(tiny("roberta").folder)
    for device in ("cuda", "cpu"):
        job = Job.model_validate(
            {
                "name": "both",
                "input": {"path": "in.csv"},
                "tasks": {
                    "words": {"type": "fill-mask", "model": model, "text": "sentence", "top_k": 5},
                    "vector": {"type": "embed", "model": model, "text": "sentence"},
                    "label": {"type": "classify", "model": str(classifier), "text": "sentence"},
                },
                "output": {"path": device},
                "device": device,
                "precision": "float32",
            }
        )
        result = run_job(job)
        assert result.enriched == result.read == 700
        found[device] = pd.read_parquet(Path(device) / "data")
    gpu, cpu = found["cuda"], found["cpu"]
    assert gpu["sentence"].tolist() == cpu["sentence"].tolist()
    assert np.allclose(np.stack(gpu["vector"]), np.stack(cpu["vector"]), atol=1e-4)
    assert (gpu["label"] == cpu["label"]).mean() > 0.99
    assert np.allclose(gpu["label_score"], cpu["label_score"], atol=1e-4)
    assert (gpu["words_top"] == cpu["words_top"]).mean() > 0.99
    assert np.allclose(gpu["words_score"], cpu["words_score"], atol=1e-5)
