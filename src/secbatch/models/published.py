"""The predictions that SecureBERT's authors have published."""

import json
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class PublishedPrediction:
    """What a model predicts for the `<mask>` of a sentence, best first, according to the publication."""

    model: str  # "SecureBERT" or "SecBERT"
    sentence: str
    predictions: tuple[str, ...]


def published_predictions(model: str) -> tuple[PublishedPrediction, ...]:
    """The published rows of `model` ("SecureBERT" or "SecBERT")."""
    text = (files("secbatch.models") / "published_predictions.json").read_text(encoding="utf-8")
    rows = json.loads(text)["predictions"]
    return tuple(
        PublishedPrediction(row["model"], row["sentence"], tuple(row["predictions"]))
        for row in rows
        if row["model"] == model
    )
