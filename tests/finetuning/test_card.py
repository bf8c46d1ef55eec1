"""Model cards whose names and labels are not what a writer of Markdown would choose."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_jobs import classification_file, job

from secbatch.finetuning.card import model_card
from secbatch.finetuning.finetune import finetune
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
    assert "| \\<img\\>\\|\\*x\\* \\[31m\\`\\_ |" in card
