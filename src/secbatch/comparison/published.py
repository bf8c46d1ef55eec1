"""How close a model at hand comes to the predictions that SecureBERT's authors have published."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from secbatch.models.published import published_predictions
from secbatch.models.resolve import resolve
from secbatch.task_specs import FillMask

if TYPE_CHECKING:
    from secbatch.models.device import Compute


@dataclass(frozen=True)
class Check:
    """Published words beside predicted ones, as many as were published."""

    sentence: str
    published: tuple[str, ...]
    predicted: tuple[str, ...]

    @property
    def overlap(self) -> int:
        """How many of the published words are among the predicted, case aside and in any order."""
        predicted = {word.casefold() for word in self.predicted}
        return len({word.casefold() for word in self.published} & predicted)


def verify(name: str, compute: "Compute") -> list[Check]:
    """Predicts the published sentences with model `name` and puts both side by side.

    A model called SecBERT is held against SecBERT's published words, any other against SecureBERT's. Raises
    ModelError when the model cannot be had or cannot fill masks.
    """
    import pyarrow as pa

    from secbatch.models.shared_encoder import SharedEncoder
    from secbatch.tasks.fill_mask import FillMaskTask

    facts = published_predictions("SecBERT" if name.rpartition("/")[2] == "SecBERT" else "SecureBERT")
    table = pa.table({"sentence": [fact.sentence for fact in facts]})
    spec = FillMask(type="fill-mask", model=name, text="sentence", top_k=max(len(f.predictions) for f in facts))
    task = FillMaskTask("mask", spec, table.schema, SharedEncoder(resolve(name), compute))
    task.load()
    ids = pa.array([str(number) for number in range(len(facts))])
    done = task.finish(task.compute(task.encode(table, ids, pa.array([True] * len(facts)))))
    predictions = done.columns["mask_predictions"].to_pylist()
    return [
        Check(
            fact.sentence,
            fact.predictions,
            tuple(word["token"] for word in masks[0][: len(fact.predictions)]) if masks else (),
        )
        for fact, masks in zip(facts, predictions, strict=True)
    ]
