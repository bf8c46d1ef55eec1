"""The published predictions and the check against them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from secbatch.comparison import published
from secbatch.comparison.published import Check, verify
from secbatch.models.device import choose
from secbatch.models.published import published_predictions
from secbatch.models.resolved import ResolvedModel


def test_the_published_rows_are_carried() -> None:
    rows = published_predictions("SecureBERT")
    assert len(rows) == 14 and len(published_predictions("SecBERT")) == 6
    assert all(row.sentence.count("<mask>") == 1 and len(row.predictions) >= 5 for row in rows)
    by_sentence = {row.sentence: row.predictions for row in rows}
    assert by_sentence["Virus causes <mask>."][:3] == ("DoS", "crash", "reboot")


def test_overlap_counts_words_once_and_case_aside() -> None:
    assert Check("s", ("DoS", "DOS", "crash"), ("dos", "Crash", "x")).overlap == 2


def test_verify_predicts_every_sentence(tiny: Callable[[str], ResolvedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(tiny("roberta"), name="securebert")
    monkeypatch.setattr(published, "resolve", lambda name: model)
    checks = verify("securebert", choose("cpu", "float32"))
    assert [check.sentence for check in checks] == [row.sentence for row in published_predictions("SecureBERT")]
    assert all(len(check.predicted) == len(check.published) for check in checks)
    assert len(verify("jackaduma/SecBERT", choose("cpu", "float32"))) == 6
