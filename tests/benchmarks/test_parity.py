"""The comparison with transformers runs as its first line says, finds small models equal, and sees a difference."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_blenderbot
from transformers import BlenderbotForConditionalGeneration

from secbatch.models.resolved import ResolvedModel

ROOT = Path(__file__).parents[2]
ENDS_EARLY = 3.0  # added to the score of the end token


@pytest.fixture(scope="module")
def mask_model(tiny: Callable[[str], ResolvedModel]) -> str:
    return str(tiny("roberta").folder)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its answers end at many different lengths, most of them long before the last token that they may have."""
    folder = make_blenderbot(tmp_path_factory.mktemp("chat"))
    model = BlenderbotForConditionalGeneration.from_pretrained(folder)
    model.final_logits_bias[0, 2] = ENDS_EARLY
    model.save_pretrained(folder)
    return str(folder)


def test_small_models_are_equal_and_the_table_says_so(
    benchmark: Callable[..., None], mask_model: str, chat_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--model", mask_model, "--chat-model", chat_model]
    with pytest.raises(SystemExit) as ended:
        benchmark("parity.py", "--rows", "20", "--questions", "4", *models)
    said = capsys.readouterr().out
    assert ended.value.code == 0, said
    table = [line for line in said.splitlines() if line.endswith("ok")]
    assert [line.split()[1] for line in table] == ["fill-mask,", "embed,", "chat,", "chat,"]
    compared = [int(line.split()[-5]) for line in table]
    assert compared[0] >= 100 and compared[1] >= 64 and compared[2] > 0 and compared[3] > 0


def test_a_difference_is_seen(mask_model: str, chat_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    parity = importlib.import_module("parity")
    texts, job = ["A <mask> attack", "The <mask> encrypts files"], parity.enriched

    def with_change(change: Callable[[dict[str, Any]], None]) -> Callable[..., list[dict[str, Any]]]:
        def enriched(task: dict[str, Any], texts: list[str]) -> list[dict[str, Any]]:
            rows = job(task, texts)
            change(rows[1])
            return rows  # type: ignore[no-any-return]

        return enriched

    def another_score(row: dict[str, Any]) -> None:
        row["t_predictions"][0][2]["score"] += 2e-5

    def another_word(row: dict[str, Any]) -> None:
        row["t_predictions"][0][2]["token"] = "another"

    def another_vector(row: dict[str, Any]) -> None:
        row["t"][3] += 2e-5 * max(1.0, *map(abs, row["t"]))

    def another_answer(row: dict[str, Any]) -> None:
        row["t"] += " more"

    def nothing(row: dict[str, Any]) -> None:
        pass

    for change, fits in ((nothing, True), (another_score, False), (another_word, False)):
        monkeypatch.setattr(parity, "enriched", with_change(change))
        assert parity.fill_mask(mask_model, "m", texts, 5).fits is fits
    for change, fits in ((nothing, True), (another_vector, False)):
        monkeypatch.setattr(parity, "enriched", with_change(change))
        assert parity.embed(mask_model, "m", ["One attack.", "Another attack."]).fits is fits
    for change, fits in ((nothing, True), (another_answer, False)):
        monkeypatch.setattr(parity, "enriched", with_change(change))
        assert parity.chat(chat_model, "m", ["What?", "What is DDoS"], 1).fits is fits


def test_a_line_that_differs_says_where_and_is_tried_again(
    mask_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    parity = importlib.import_module("parity")
    job, jobs = parity.enriched, 0

    def wrong_once(task: dict[str, Any], texts: list[str]) -> list[dict[str, Any]]:
        nonlocal jobs
        rows, jobs = job(task, texts), jobs + 1
        if jobs == 1:
            rows[0]["t_predictions"][0][0]["score"] += 0.5
        return rows  # type: ignore[no-any-return]

    monkeypatch.setattr(parity, "enriched", wrong_once)
    monkeypatch.setattr(sys, "argv", ["parity.py", "--rows", "3", "--model", mask_model])
    with pytest.raises(SystemExit) as ended:
        parity.main()
    assert ended.value.code == 1
    table, what, again, *rest = [
        line for line in capsys.readouterr().out.splitlines() if "fill-mask" in line or "  " in line[:2]
    ]
    assert table.endswith("DIFFERS") and "furthest apart" in what and "second try" in again and rest[0].endswith("ok")
