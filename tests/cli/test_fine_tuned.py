"""Jobs with fine-tuned models as a user runs them: classify and ner."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tiny_models import SENTENCES, make_fine_tuned, make_roberta

from secbatch.cli.main import _run

HOSTILE = "\x1b[31mred\u202e"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    names = {0: "phishing", 1: HOSTILE, 2: "other"}
    tags = dict(enumerate(["O", "B-MAL", "I-MAL", f"B-{HOSTILE}", f"I-{HOSTILE}"]))
    return {
        "topics": str(make_fine_tuned(folder / "topics", "roberta", "SequenceClassification", id2label=names)),
        "names": str(make_fine_tuned(folder / "names", "bert", "TokenClassification", id2label=tags)),
        "mask": str(make_roberta(folder / "mask")),
    }


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(n), "text": text} for n, text in enumerate([*SENTENCES, "", SENTENCES[0]])]
    pd.DataFrame(rows).to_csv("in.csv", index=False)


def write_job(tasks: dict[str, dict[str, object]]) -> None:
    job = {"name": "j", "input": {"path": "in.csv", "id": "id"}, "tasks": tasks, "output": {"path": "out"}}
    Path("job.yaml").write_text(yaml.safe_dump({**job, "precision": "float32"}))


def counts() -> dict[str, int]:
    found: dict[str, int] = json.loads(Path("out/_secbatch/runs/latest.json").read_text())["counts"]
    return found


def test_a_job_with_both_and_its_second_run(models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    topic = {"type": "classify", "model": models["topics"], "text": "text", "threshold": 0.3}
    tasks: dict[str, dict[str, object]] = {
        "topic": topic,
        "flags": {**topic, "problem": "multi-label"},
        "vec": {"type": "embed", "model": models["topics"], "text": "text"},
        "ents": {"type": "ner", "model": models["names"], "text": "text"},
    }
    write_job(tasks)
    assert _run(["plan", "job.yaml"]) == 0
    assert _run(["run", "job.yaml"]) == 0
    rows = pd.read_parquet("out/data").sort_values("id", key=lambda ids: ids.astype(int)).reset_index()
    for text, spans, label, scores in zip(rows["text"], rows["ents"], rows["topic"], rows["topic_scores"], strict=True):
        if not text:
            assert spans is None and pd.isna(label) and scores is None
            continue
        assert all(text[span["start"] : span["end"]] == span["text"] for span in spans)
        assert label == scores[0]["label"] if scores[0]["score"] >= 0.3 else pd.isna(label)
    assert (rows["secbatch_status"] == "ok").all() and rows["vec"].notna().sum() == 9
    assert rows["flags_labels"].map(lambda labels: labels is None or len(labels) <= 3).all()
    capsys.readouterr()
    assert _run(["show", "out", "--rows", "10"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[31m" not in shown and "\u202e" not in shown and "\\x1b[31mred" in shown
    assert "ents: " in shown and " | " in shown and "topic: " in shown and "flags: " in shown
    assert _run(["run", "job.yaml"]) == 0
    assert counts()["enriched"] == 0
    tasks["ents"]["aggregation"] = "max"
    write_job(tasks)
    before = rows["topic_score"].dropna().tolist()
    assert _run(["run", "job.yaml"]) == 0
    rows = pd.read_parquet("out/data").sort_values("id", key=lambda ids: ids.astype(int))
    assert counts()["enriched"] == 10
    assert rows["topic_score"].dropna().tolist() == before


def test_enrich_with_models_of_ones_own(models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["enrich", "in.csv", "-o", "out.parquet", "--classify", "text", "--ner", "text"]
    assert _run([*command, "--classify-model", models["topics"]]) == 2
    assert "--ner and --ner-model go together" in capsys.readouterr().err
    assert _run([*command, "--classify-model", models["topics"], "--ner-model", models["names"]]) == 0
    rows = pd.read_parquet("out.parquet")
    assert {"class", "class_score", "class_scores", "class_truncated", "ents"} <= set(rows.columns)


@pytest.mark.parametrize(
    ("task", "code", "words"),
    [
        ({"type": "classify", "model": "mask"}, 2, "give the task `labels` and a `template` with <mask>"),
        ({"type": "ner", "model": "mask"}, 2, "no trained token-classification head"),
        ({"type": "ner", "model": "topics"}, 2, "no trained token-classification head"),
        ({"type": "classify", "model": "names"}, 2, "no trained classification head"),
        ({"type": "classify", "model": "topics", "treshold": 0.5}, 2, "did you mean 'threshold'?"),
        ({"type": "classify", "model": "mask", "labels": {"a": "payment"}}, 2, "labels needs template beside it"),
        ({"type": "ner", "model": "names", "aggregation": "firts"}, 2, "'first'"),
        ({"type": "fill-mask", "model": "topics"}, 2, "no trained language-model head"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    models: dict[str, str], capsys: pytest.CaptureFixture[str], task: dict[str, object], code: int, words: str
) -> None:
    write_job({"one": {"text": "text", **task, "model": models[str(task["model"])]}})
    assert _run(["run", "job.yaml"]) == code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in said and "Traceback" not in said


def test_configurations_that_do_not_fit_their_weights(
    models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = Path(shutil.copytree(models["topics"], tmp_path / "spoiled"))
    config = json.loads((folder / "config.json").read_text())
    for names, words in (
        ({"0": "a", "1": "b"}, "do not fit its config.json"),
        ({"0": "a", "5": "b"}, "id2label"),
        ({"0": "a", "x": "b"}, "config.json"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, "id2label": names}))
        write_job({"one": {"type": "classify", "text": "text", "model": str(folder)}})
        assert _run(["run", "job.yaml"]) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert words in said and "Traceback" not in said, said
