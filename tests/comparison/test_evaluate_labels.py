"""classify and ner on labelled files: the figures are those of the stock pipelines' predictions."""

import hashlib
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from nervaluate.evaluator import Evaluator
from sklearn.metrics import accuracy_score, f1_score
from tiny_models import SENTENCES, make_bert, make_fine_tuned
from transformers import pipeline

from secbatch.cli.main import _run
from secbatch.comparison.classification import Classification
from secbatch.comparison.entities import Entities
from secbatch.comparison.evaluation import Evaluation, evaluate
from secbatch.comparison.like_job import settings_like
from secbatch.comparison.model_diff import ModelsDiff, diff_models
from secbatch.comparison.predictions import predict
from secbatch.comparison.sample import Sample
from secbatch.errors import InputError, JobError, ModelError
from secbatch.labelled.files import LabelledFiles
from secbatch.models.device import choose

CPU = choose("cpu", "float32")
LABELS = {0: "T1003", 1: "T1059", 2: "T1566", 3: "T1486"}
TAGS = {0: "O", 1: "B-Malware", 2: "I-Malware", 3: "B-System", 4: "I-System"}
TEXTS = [sentence[start:] for start in range(0, 12, 3) for sentence in SENTENCES[:6]]


def _labels(names: dict[int, str]) -> dict[str, Any]:
    return {"id2label": names, "label2id": {name: number for number, name in names.items()}, "num_labels": len(names)}


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("classifiers")
    made = [make_fine_tuned(folder / f"c{n}", "bert", "SequenceClassification", n, **_labels(LABELS)) for n in (0, 1)]
    return [str(path) for path in made]


@pytest.fixture(scope="module")
def taggers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("taggers")
    made = [make_fine_tuned(folder / f"n{n}", "roberta", "TokenClassification", n, **_labels(TAGS)) for n in (0, 1)]
    return [str(path) for path in made]


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    chosen = random.Random(2)
    rows = [{"text": text, "label": chosen.choice(list(LABELS.values())), "doc": n % 5} for n, text in enumerate(TEXTS)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(row["label"]) for row in rows]


def _classify(models: list[str], **options: Any) -> Evaluation:
    objective = Classification(LabelledFiles("data.jsonl"), "text", "label", **options)
    return evaluate(objective, models, [Path(model).name for model in models], CPU, 100, 0)


def test_classify_is_scikit_learn_on_the_stock_pipelines_labels(classifiers: list[str], labelled: list[str]) -> None:
    evaluation = _classify(classifiers, group="doc")
    assert evaluation.groups == 5
    values = []
    for path, told in zip(classifiers, evaluation.models, strict=True):
        predicted = [one["label"] for one in pipeline("text-classification", path, device="cpu")(TEXTS)]
        assert told.figures["accuracy"].value == pytest.approx(accuracy_score(labelled, predicted))
        for average in ("micro", "macro", "weighted"):
            wanted = f1_score(labelled, predicted, average=average, zero_division=0)
            assert told.figures[f"f1_{average}"].value == pytest.approx(wanted)
        parts = {part.name: part for part in told.parts}
        by_label = f1_score(labelled, predicted, average=None, labels=list(LABELS.values()), zero_division=0)
        for label, f1 in zip(LABELS.values(), by_label, strict=True):
            assert parts[label].support == labelled.count(label)
            assert (parts[label].figures["f1"].value or 0.0) == pytest.approx(f1)
        assert sum(map(sum, told.more["confusion"]["true_by_predicted"])) == len(TEXTS)
        values.append(told.figures["f1_macro"].value)
    (difference,) = evaluation.differences
    assert difference.figures["f1_macro"].value == pytest.approx(values[1] - values[0])


def test_confusion_of_many_labels_is_told_by_its_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"T{number:04}" for number in range(201)]
    path = str(make_fine_tuned(tmp_path / "c", "bert", "SequenceClassification", 0, **_labels(dict(enumerate(names)))))
    predicted = [one["label"] for one in pipeline("text-classification", path, device="cpu")(TEXTS)]
    spread = [(names[number], text) for number, text in enumerate((TEXTS * 9)[:201])]
    Path("data.jsonl").write_text("".join(json.dumps({"text": text, "label": name}) + "\n" for name, text in spread))
    arguments = ["evaluate", path, "--data", "data.jsonl", "--objective", "classify", "--text", "text", "--label"]
    assert _run([*arguments, "label", "--json", "out.json", "--samples", "10"]) == 0
    confusion = json.loads(Path("out.json").read_text())["models"][0]["confusion"]
    assert confusion["labels"] == names and "true_by_predicted" not in confusion
    wanted = [[place, names.index(label), 1] for place, label in enumerate((predicted * 9)[:201])]
    assert confusion["cells"] == wanted
    assert "taken for" in capsys.readouterr().out


def test_unknown_labels_are_refused_or_counted(classifiers: list[str], labelled: list[str]) -> None:
    with Path("data.jsonl").open("a") as file:
        file.write(json.dumps({"text": "A worm.", "label": "T1055", "doc": 9}) + "\n")
    with pytest.raises(
        InputError, match=r"label 'T1055' \(data.jsonl row 25\) is not known to .*--unknown-labels count"
    ):
        _classify(classifiers)
    told = _classify(classifiers, unknown_labels="count")
    assert any(notice.endswith("does not know 1 of the labels (T1055): 1 miss") for notice in told.notices)
    (part,) = (part for part in told.models[0].parts if part.name == "T1055")
    assert part.support == 1 and part.figures["f1"].value == 0.0


def test_several_labels_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    problem = {"problem_type": "multi_label_classification", **_labels(LABELS)}
    path = str(make_fine_tuned(tmp_path / "several", "bert", "SequenceClassification", 3, sharpen=3.0, **problem))
    chosen = random.Random(5)
    rows = [{"text": text, "label": chosen.sample(list(LABELS.values()), chosen.randrange(3))} for text in TEXTS]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (told,) = _classify([path], threshold=0.4).models
    scores = pipeline("text-classification", path, device="cpu", top_k=None)(TEXTS)
    predicted = [{one["label"] for one in row if one["score"] >= 0.4} for row in scores]
    true = [set(row["label"]) for row in rows]
    hits = sum(len(a & b) for a, b in zip(true, predicted, strict=True))
    assert told.figures["f1_micro"].value == pytest.approx(2 * hits / (sum(map(len, true)) + sum(map(len, predicted))))
    assert told.figures["accuracy"].value == pytest.approx(
        sum(a == b for a, b in zip(true, predicted, strict=True)) / len(TEXTS)
    )
    assert "confusion" not in told.more


def test_sentences_without_a_document_are_drawn_each_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = "Emotet\tB-Malware\n\n"
    Path("alone.conll").write_text(3 * sentence)
    Path("documents.conll").write_text(2 * ("-DOCSTART-\tO\n\n" + 2 * sentence))
    groups = Entities(LabelledFiles("*.conll")).groups
    assert groups is not None and len(set(groups)) == 3 + 2
    assert Entities(LabelledFiles("alone.conll")).groups is None


def test_ner_is_nervaluate_on_the_stock_pipelines_spans(
    taggers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stock = pipeline("token-classification", taggers[0], device="cpu", aggregation_strategy="first")
    spans = [[(one["start"], one["end"], one["entity_group"]) for one in row] for row in stock(TEXTS)]
    chosen = random.Random(1)
    true = [[span for span in row if chosen.random() < 0.6] for row in spans]
    true[0] = [(0, 4, "System")]
    rows = [{"text": text, "spans": [list(span) for span in row]} for text, row in zip(TEXTS, true, strict=True)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    objective = Entities(LabelledFiles("data.jsonl"))
    told, other = evaluate(objective, taggers, ["a", "b"], CPU, 50, 0).models

    def entities(part: list[list[tuple[int, int, str]]]) -> list[list[dict[str, Any]]]:
        return [[{"start": start, "end": end - 1, "label": label} for start, end, label in row] for row in part]

    wanted = Evaluator(entities(true), entities(spans), tags=["Malware", "System"], loader="dict").evaluate()
    strict = wanted["overall"]["strict"]
    assert 0 < strict.f1 < 1
    assert told.figures["f1"].value == pytest.approx(strict.f1)
    assert told.figures["precision"].value == pytest.approx(strict.precision)
    assert told.figures["recall"].value == pytest.approx(strict.recall)
    assert told.more["lenient_f1"]["partial"] == pytest.approx(wanted["overall"]["partial"].f1)
    for part in told.parts:
        assert part.figures["f1"].value == pytest.approx(wanted["entities"][part.name]["strict"].f1)
    assert other.figures["f1"].value is not None and other.figures["f1"].value < told.figures["f1"].value


def test_ner_of_conll_files(taggers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("test.txt").write_text("Emotet\tB-Malware\nspreads\tO\n\nWindows\tB-System\n10\tI-System\nfails\tO\n")
    objective = Entities(LabelledFiles("test.txt"))
    (told,) = evaluate(objective, taggers[:1], ["a"], CPU, 50, 0).models
    assert {part.name: part.support for part in told.parts} == {"Malware": 1, "System": 1}
    Path("test.txt").write_text("Emotet\tB-Virus\n")
    with pytest.raises(
        InputError, match=r"label 'Virus' \(test.txt line 1\) is not known to .* which has Malware, System"
    ):
        Entities(LabelledFiles("test.txt")).check(taggers[0])


def test_files_are_read_as_a_trainings_are(
    taggers: list[str],
    classifiers: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What finetune learned from can be measured on, and sentences name options that there are."""
    monkeypatch.chdir(tmp_path)
    Path("test.tsv").write_text("Emotet\tB-Malware\nran\tO\n\nWindows\tB-System\n")
    words = ["evaluate", taggers[0], "--objective", "ner", "--data", "test.tsv", "--samples", "0"]
    assert _run(words) == 2
    assert "say so with --format conll" in capsys.readouterr().err
    assert _run([*words, "--format", "conll", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2

    Path("test.csv").write_bytes("text|label|note\nÉmotet ran, again|T1003|a;b;c\n".encode("cp1252"))
    texts = ["evaluate", classifiers[0], "--objective", "classify", "--text", "text", "--label", "label",
             "--data", "test.csv", "--samples", "0"]  # fmt: skip
    assert _run([*texts, "--delimiter", "|"]) == 2
    assert "name it, for example `--encoding cp1252`" in capsys.readouterr().err
    assert _run([*texts, "--delimiter", "|", "--encoding", "cp1252"]) == 0
    assert _run([*texts, "--encoding", "cp1253w"]) == 2
    assert "--encoding: unknown encoding 'cp1253w'" in capsys.readouterr().err
    assert _run([*texts, "--delimiter", "||"]) == 2
    assert "'delimiter' is wrong: delimiter must be one ASCII character" in capsys.readouterr().err


def test_a_file_that_a_model_was_trained_on_is_said(
    classifiers: list[str], labelled: list[str], tmp_path: Path
) -> None:
    folder = shutil.copytree(classifiers[0], tmp_path / "trained")
    digest = hashlib.sha256(Path("data.jsonl").read_bytes()).hexdigest()
    record = {"data": {"train": {"files": [{"path": "other.jsonl", "sha256": digest}]}, "dev": None}}
    (folder / "training.json").write_text(json.dumps(record))
    told = _classify([str(folder)]).notices
    assert f"model {folder} was trained with data.jsonl (train): its figures on it flatter" in told
    (folder / "training.json").write_text("[]")
    assert not any("was trained with" in notice for notice in _classify([str(folder)]).notices)


def test_a_model_without_the_head_is_one_sentence(labelled: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no trained classification head"):
        _classify([str(make_bert(tmp_path / "mlm"))])


def test_the_command(classifiers: list[str], labelled: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["--objective", "classify", "--text", "text", "--label", "label", "--group", "doc"]
    files = ["--json", "o.json", "--plot", "o.png"]
    assert _run(["evaluate", *classifiers, "--data", "data.jsonl", *columns, *files]) == 0
    shown = capsys.readouterr().out
    assert "c0: label" in shown and "taken for" in shown
    assert "f1 by label" in shown and "difference to c0" in shown and "f1_macro" in shown
    assert len(json.loads(Path("o.json").read_text())["models"][1]["parts"]) == 4
    assert _run(["evaluate", classifiers[0], "--data", "data.jsonl", *columns[:-4], "--label", "lab"]) == 2
    assert "--label: data.jsonl has no column 'lab' (did you mean 'label'?)" in capsys.readouterr().err


def test_brackets_are_explained_where_there_are_some(
    classifiers: list[str], labelled: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", *classifiers, "--data", "data.jsonl", "--objective", "classify", "--text", "text"]
    assert _run([*command, "--label", "label", "--samples", "20"]) == 0
    assert "In brackets: 95% intervals" in capsys.readouterr().out
    assert _run([*command, "--label", "label", "--rows", "1"]) == 0
    told = capsys.readouterr()
    assert "no intervals" in told.err and "In brackets" not in told.out


ZERO_SHOT = """
name: zero
input: {path: in.csv}
tasks:
  topic:
    type: classify
    model: builtin/mlm
    text: text
    template: "{text} This is about <mask>."
    labels: {T1003: [passwords, tokens], T1059: [server, code], T1566: [phishing, traffic], T1486: [files, payment]}
output: {path: out}
"""


def test_a_task_is_measured_as_a_job_has_it(
    labelled: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(make_bert(tmp_path / "mlm"))
    Path("zero.yaml").write_text(ZERO_SHOT)
    told = _classify([model], like=settings_like("zero.yaml:topic", "classify")).models[0]
    labels = yaml.safe_load(ZERO_SHOT)["tasks"]["topic"]["labels"]
    settings = {"type": "classify", "text": "text", "labels": labels, "template": "{text} This is about <mask>."}
    predicted = predict(model, settings, pa.table({"text": TEXTS}), CPU).columns[""]
    assert len(set(predicted)) > 1
    assert told.figures["accuracy"].value == pytest.approx(accuracy_score(labelled, predicted))
    command = [
        "evaluate",
        model,
        "--data",
        "data.jsonl",
        "--objective",
        "classify",
        "--text",
        "text",
        "--label",
        "label",
    ]
    assert _run([*command, "--like", "zero.yaml:topic"]) == 0
    for place, says in {
        "zero.yaml:topik": "no task 'topik' (did you mean 'topic'?)",
        "zero.yaml": "names a task of a job file",
        "nothing.yaml:topic": "does not exist",
    }.items():
        assert _run([*command, "--like", place]) == 2
        assert says in capsys.readouterr().err
    with pytest.raises(JobError, match="is of type classify; this objective needs type: ner"):
        settings_like("zero.yaml:topic", "ner")


def _diff(models: list[str], kind: str) -> ModelsDiff:
    sample = Sample(TEXTS, [f"row {row}" for row in range(len(TEXTS))], len(TEXTS), ())
    return diff_models((models[0], models[1]), ("one", "two"), kind, sample, "in.csv", CPU)  # type: ignore[arg-type]


def test_models_diff_of_classifiers(classifiers: list[str]) -> None:
    found = _diff(classifiers, "classify").found
    stock = [pipeline("text-classification", path, device="cpu") for path in classifiers]
    one, two = ([row["label"] for row in model(TEXTS)] for model in stock)
    assert found.figures["agreement"].value == pytest.approx(accuracy_score(one, two))
    drift = sum(abs(one.count(label) - two.count(label)) for label in LABELS.values()) / 2 / len(TEXTS)
    assert found.figures["drift_of_shares"].value == pytest.approx(drift)
    assert {share.name: share.second for share in found.shares} == {
        label: two.count(label) / len(two) for label in {*one, *two}
    }
    changes = Counter(pair for pair in zip(one, two, strict=True) if pair[0] != pair[1])
    assert found.changes[0].count == max(changes.values())


def test_models_diff_of_taggers(taggers: list[str]) -> None:
    found = _diff(taggers, "ner").found
    spans = [
        [
            {(row["start"], row["end"], row["entity_group"]) for row in rows}
            for rows in pipeline("token-classification", path, device="cpu", aggregation_strategy="first")(TEXTS)
        ]
        for path in taggers
    ]
    same = sum(len(a & b) for a, b in zip(*spans, strict=True))
    total = sum(len(row) for part in spans for row in part)
    assert found.count == total
    assert found.figures["f1_of_each_other"].value == pytest.approx(2 * same / total)
    assert found.examples and found.changes
