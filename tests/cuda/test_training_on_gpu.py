"""Trainings on a GPU: the losses of the CPU's, and the same bits each time. Skipped where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secbatch.errors import Interrupted
from secbatch.finetune_job import FinetuneJob
from secbatch.finetuning.finetune import finetune
from secbatch.models.resolved import ResolvedModel
from tests.finetuning.small_jobs import classification_file, conll_file, job

for library in ("sklearn", "nervaluate", "matplotlib"):  # of the extra `finetune`
    pytest.importorskip(library)
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
Tiny = Callable[[str], ResolvedModel]


def small(tiny: Tiny, folder: Path, output: str, **wanted: str) -> FinetuneJob:
    if wanted.pop("objective", "classify") == "ner":
        made = job("ner", tiny("roberta").folder, {"train": conll_file(folder / "a.txt")}, folder / output, dropout=0.0)
    else:
        made = job("classify", tiny("roberta").folder, classification_file(folder / "a.csv"), folder / output)
    return made.model_copy(update={"device": "cuda", **wanted})


def weights(spec: FinetuneJob) -> dict[str, torch.Tensor]:
    return load_file(finetune(spec).folder / "model.safetensors")


def test_its_losses_are_those_of_the_cpu(tiny: Tiny, tmp_path: Path) -> None:
    """Weights whose gradients are all but nothing go either way: AdamW moves them as far as others."""
    losses = [
        [loss for entry in finetune(spec).record["history"] for loss in (entry["train_loss"], entry["dev"]["loss"])]
        for spec in (
            small(tiny, tmp_path, "cpu", objective="ner", device="cpu"),
            small(tiny, tmp_path, "gpu", objective="ner", precision="float32"),
        )
    ]
    assert len(losses[0]) == 4 and losses[1] == pytest.approx(losses[0], rel=0.01)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
def test_a_training_that_goes_on_ends_with_the_same_bits(kind: str, precision: str, tiny: Tiny, tmp_path: Path) -> None:
    """Packed and padded."""
    whole, broken = (
        small(lambda _: tiny(kind), tmp_path, output, precision=precision) for output in ("whole", "broken")
    )
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        finetune(broken, stop=lambda: next(asked) >= 5)
    once, again = weights(whole), weights(broken)
    assert all(torch.equal(again[name], value) for name, value in once.items())
