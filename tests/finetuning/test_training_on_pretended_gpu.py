"""Trainings on a GPU, as far as that can be seen without one; see pretended_gpu.py."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretended_gpu import Gpu, pretended_gpu
from safetensors.torch import load_file
from small_jobs import classification_file, conll_file, job, texts_file

from secbatch.errors import ModelError, SecbatchError
from secbatch.finetune_job import FinetuneJob
from secbatch.finetuning import loop, network
from secbatch.finetuning.classify import Classify
from secbatch.finetuning.finetune import finetune
from secbatch.finetuning.order_of_sums import NO_FIXED_ORDER
from secbatch.finetuning.reporting import Silent
from secbatch.models.resolved import ResolvedModel

Tiny = Callable[[str], ResolvedModel]
pytestmark = [
    pytest.mark.usefixtures("without_curve"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU"),
]


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with pretended_gpu() as gpu:
        yield gpu


class Told(Silent):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


def small(tiny: Tiny, tmp_path: Path, device: str, objective: str = "classify", **more: Any) -> FinetuneJob:
    data: dict[str, Any] = {
        "classify": lambda: classification_file(tmp_path / "a.csv"),
        "ner": lambda: {"train": conll_file(tmp_path / "a.txt")},
        "masked-lm": lambda: texts_file(tmp_path / "a.csv"),
    }[objective]()
    made = job(objective, tiny("roberta").folder, data, tmp_path / device, epochs=1, dropout=0.0, **more)
    return made.model_copy(update={"device": device})


def out_of_memory_at(gpu: Gpu, allocation: int) -> None:
    begin = gpu.allocations

    def fail(number: int) -> None:
        if number - begin == allocation:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    gpu.before_allocation = fail


@pytest.mark.parametrize("objective", ["classify", "ner", "masked-lm"])
def test_its_weights_are_those_of_the_cpu(objective: str, tiny: Tiny, tmp_path: Path, gpu: Gpu) -> None:
    wanted = load_file(finetune(small(tiny, tmp_path, "cpu", objective)).folder / "model.safetensors")
    assert not gpu.launches
    told = Told()
    got = load_file(finetune(small(tiny, tmp_path, "cuda", objective), told).folder / "model.safetensors")
    assert gpu.launches > 1000 and NO_FIXED_ORDER not in told.notices
    assert all(torch.allclose(got[name], value, atol=2e-4) for name, value in wanted.items())


def test_sums_have_a_fixed_order(tiny: Tiny, tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    demanded: list[bool] = []

    def step(self: Any, numbers: np.ndarray) -> None:
        strict = torch.are_deterministic_algorithms_enabled()
        demanded.append(strict and not torch.is_deterministic_algorithms_warn_only_enabled())
        once(self, numbers)

    once = loop.Training._step
    monkeypatch.setattr(loop.Training, "_step", step)
    finetune(small(tiny, tmp_path, "cuda"))
    assert demanded and all(demanded)
    assert not torch.are_deterministic_algorithms_enabled()


class Copied(torch.autograd.Function):
    """Whose gradients others change."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x.clone()


class OfNoOrder(Copied):
    """Gradients as of an operation of torch that sums in no fixed order."""

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("scatter_add_cuda_kernel does not have a deterministic implementation")
        return gradient


def test_where_they_cannot_have_one_that_is_said(
    tiny: Tiny, tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Classify.loss
    monkeypatch.setattr(Classify, "loss", lambda *given: OfNoOrder.apply(loss(*given)))
    told = Told()
    assert finetune(small(tiny, tmp_path, "cuda"), told).trained
    assert told.notices.count(NO_FIXED_ORDER) == 1


def test_gradients_that_are_no_numbers_end_it_though_no_loss_says_so(
    tiny: Tiny, tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the last step are in no loss that follows."""
    loss, steps = Classify.loss, 0

    class Broken(Copied):
        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return gradient * torch.nan

    def last_is_broken(*given: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        made = loss(*given)
        return Broken.apply(made) if steps == count + 1 else made  # one more: the order of sums is tried on it

    count = finetune(small(tiny, tmp_path, "cpu")).record["history"][-1]["step"]
    monkeypatch.setattr(Classify, "loss", last_is_broken)
    with pytest.raises(SecbatchError, match=f"diverged by step {count} .*lower hyperparameters.learning_rate"):
        finetune(small(tiny, tmp_path, "cuda"))
    assert steps == count + 1


def test_a_lack_of_memory_is_told_with_what_to_do(tiny: Tiny, tmp_path: Path, gpu: Gpu, monkeypatch: Any) -> None:
    spec = small(tiny, tmp_path, "cuda", gradient_accumulation=2)
    step, build = loop.Training._step, network.build_network

    def short(self: Any, numbers: np.ndarray) -> None:
        out_of_memory_at(gpu, 40)
        step(self, numbers)

    with monkeypatch.context() as during:
        during.setattr(loop.Training, "_step", short)
        sentence = r"memory runs out on Pretended GPU .*2 GiB\).*accumulation: 4\)"
        with pytest.raises(SecbatchError, match=sentence) as said:
            finetune(spec)
        assert "\n" not in str(said.value)

    def while_tried(*given: Any) -> Any:  # which says nothing of how its architecture is laid out
        out_of_memory_at(gpu, 10)
        return build(*given)

    with monkeypatch.context() as before, pytest.raises(SecbatchError, match="memory runs out"):
        before.setattr(network, "build_network", while_tried)
        finetune(spec)
    out_of_memory_at(gpu, 3)
    with pytest.raises(ModelError, match=r"model \S+: memory runs out on Pretended GPU \(cuda:0\) for its weights"):
        finetune(spec)
    gpu.before_allocation = lambda number: None
    assert finetune(spec).trained
