"""qa on a labelled file: SQuAD's figures of what the task answers."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from tiny_models import SENTENCES, make_fine_tuned

from secbatch.cli.main import _run
from secbatch.comparison.evaluation import evaluate
from secbatch.comparison.predictions import predict
from secbatch.comparison.questions import Questions
from secbatch.evaluation.answers import exact_match, word_f1
from secbatch.labelled.files import LabelledFiles
from secbatch.models.device import choose

CPU = choose("cpu", "float32")
QUESTIONS = [f"What is said of number {number}?" for number in range(len(SENTENCES))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_fine_tuned(tmp_path_factory.mktemp("qa") / "model", "roberta", "QuestionAnswering"))


def test_figures_are_those_of_the_tasks_answers(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = pa.table({"question": QUESTIONS, "context": SENTENCES})
    settings = {"type": "qa", "question": "question", "context": "context", "no_answer_threshold": 5.0}
    answers = predict(model, settings, table, CPU).columns[""]
    assert any(answers)
    # every other one as predicted, then a word less of it, then none
    wanted = [
        None if answer is None or number % 3 == 2 else answer if number % 3 == 0 else answer.split(" ")[0]
        for number, answer in enumerate(answers)
    ]
    rows = [
        {"question": question, "context": context, "answer": answer or "", "answer_start": context.find(answer or "")}
        for question, context, answer in zip(QUESTIONS, SENTENCES, wanted, strict=True)
    ]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    objective = Questions(LabelledFiles("data.jsonl"), no_answer_threshold=5.0)
    (told,) = evaluate(objective, [model], ["a"], CPU, 50, 0).models
    references = [[one] if one else [] for one in wanted]
    pairs = list(zip(answers, references, strict=True))
    assert told.figures["exact"].value == pytest.approx(sum(exact_match(a or "", r) for a, r in pairs) / len(pairs))
    assert told.figures["f1"].value == pytest.approx(sum(word_f1(a or "", r) for a, r in pairs) / len(pairs))
    assert 0 < (told.figures["f1"].value or 0) < 1
    arguments = ["evaluate", model, "--data", "data.jsonl", "--objective", "qa", "--no-answer-threshold", "5"]
    assert _run(arguments) == 0
    assert "unanswerable" in capsys.readouterr().out
