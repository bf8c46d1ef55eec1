"""Model cards whose names and labels are not what a writer of Markdown would choose."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_jobs import classification_file, job

from secbatch.comparison.trained_on import trained_on
from secbatch.finetuning.ancestry import trained_record
from secbatch.finetuning.card import model_card
from secbatch.finetuning.finetune import finetune
from secbatch.labelled.examples import DataFile
from secbatch.models.resolved import ResolvedModel


@pytest.mark.usefixtures("without_curve")
def test_paths_stand_as_they_are_and_labels_are_no_markdown(
    tiny: Callable[[str], ResolvedModel], tmp_path: Path
) -> None:
    (tmp_path / "my_labels").mkdir()
    data = classification_file(tmp_path / "my_labels" / "first_part.csv")
    done = finetune(job("classify", tiny("bert").folder, data, tmp_path / "out"))
    assert f"| `{data['train']}` | train and dev |" in (done.folder / "README.md").read_text()
    record = done.record
    record["data"]["train"]["files"][0]["path"] = "a|b`c``d_e.csv"
    record["base"]["name"] = "models/my_base|x"
    record["by_label"]["dev"][0]["label"] = "<img>|*x*\n\x1b[31m`_"
    card = model_card(record)
    assert "| ``` a\\|b`c``d_e.csv ``` | train |" in card  # the bar would end the cell
    assert "\n`models/my_base|x`, hash of its weights" in card
    assert "| `` <img>\\|*x* [31m`_ `` |" in card
    step = {"name": "x`\n# Heading", "objective": "<b>", "metrics": {}, "base": {"name": "y"}}
    record["base"]["trained"] = step
    assert ", which is `y` trained further (`` x` # Heading ``, objective `<b>`)" in model_card(record)
    # Outside of code GitHub makes links of these, and formulas, references and pictures.
    live = ["http://evil.example/x", "www.evil.example", "a@evil.example", "$x$", ":bomb:", "R&amp;D ~~old~~"]
    for label in live:
        record["name"] = record["base"]["licence"] = record["data"]["columns"]["label"] = label
        record["by_label"]["dev"][0]["label"] = label
        record["confused"]["dev"] = [[label, "tool", 1]]
        card = model_card(record)
        assert card.count(label) == card.count(f"`{label}`") == 5, label
        assert f"\n# `{label}`\n" in card and f"Licence of the base: `{label}`. " in card


RECORD: dict[str, Any] = {
    "name": "adapted",
    "objective": "masked-lm",
    "fingerprint": "f",
    "metrics": {"dev": {"perplexity": 2.0}},
    "base_on_dev": {"perplexity": 3.0},
    "base": {"name": "a base", "licence": None, "trained": None},
}


def test_a_file_of_another_program_is_no_record_of_a_training(tmp_path: Path) -> None:
    """A card is written when all the work is done: nothing that a base holds may stop it there."""
    path = tmp_path / "training.json"
    assert trained_record(tmp_path) is None
    path.write_text(json.dumps(RECORD))
    assert trained_record(tmp_path) == RECORD
    path.write_text(json.dumps({**RECORD, "base": {"name": "b", "trained": RECORD}}))
    assert trained_record(tmp_path) is not None
    others: list[dict[str, Any]] = [
        {"base": {}},
        {"base": {"name": 7}},
        {"base": {"name": "x", "licence": ["mit"]}},
        {"base": {"name": "x", "trained": {"name": "y"}}},
        {"base": {"name": "x", "trained": "yes"}},
        {"metrics": {"dev": {"perplexity": "low"}}},
        {"metrics": None},
        {"base_on_dev": 3},
        {"name": None},
    ]
    for other in others:
        path.write_text(json.dumps({**RECORD, **other}))
        assert trained_record(tmp_path) is None, other
    model = ResolvedModel("base", None, None, tmp_path, "", "", None)
    for text in ("[]", "null", "{", "[" * 100_000):
        path.write_text(text)
        assert trained_record(tmp_path) is None, text[:9]
        assert trained_on(model, [DataFile("a.csv", 1, "0")]) == ()
