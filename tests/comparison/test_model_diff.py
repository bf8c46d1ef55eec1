"""Two models on a sample: figures checked against the tasks' own columns."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_models import SENTENCES, make_bert, make_fine_tuned, make_llama_chat, make_t5, resolved

from secbatch.cli.main import _run
from secbatch.comparison.diff_answers import NONE, different_answers
from secbatch.comparison.model_diff import ModelsDiff, common_kind, diff_models, kind_of
from secbatch.comparison.predictions import Predicted, predict
from secbatch.comparison.sample import Sample, sample_texts
from secbatch.errors import InputError, JobError, ModelError
from secbatch.models.device import choose

TEXTS = [*(sentence.replace(" a ", " <mask> ") for sentence in SENTENCES), "The <mask> and the <mask>."]
CPU = choose("cpu", "float32")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return str(make_bert(folder / "one", 0)), str(make_bert(folder / "two", 1))


def _diff(models: tuple[str, str], kind: str, texts: list[str]) -> ModelsDiff:
    sample = Sample(texts, [f"row {row}" for row in range(len(texts))], len(texts), ())
    return diff_models(models, ("one", "two"), kind, sample, "in.csv", CPU)  # type: ignore[arg-type]


def test_masked_words(models: tuple[str, str]) -> None:
    found = _diff(models, "fill-mask", TEXTS).found
    table = pa.table({"text": TEXTS})
    settings = {"type": "fill-mask", "text": "text", "top_k": 10}
    both = [predict(model, settings, table, CPU).columns["_predictions"] for model in models]
    words = [[[word["token"].casefold() for word in mask] for row in one if row for mask in row] for one in both]
    same = [a[0] == b[0] for a, b in zip(*words, strict=True)]
    overlap = [len(set(a) & set(b)) / min(len(set(a)), len(set(b))) for a, b in zip(*words, strict=True)]
    assert found.count == len(same) == sum(text.count("<mask>") for text in TEXTS)
    assert found.figures["same_best_word"].value == pytest.approx(np.mean(same))
    assert found.figures["overlap@10"].value == pytest.approx(np.mean(overlap))
    assert sum(change.count for change in found.changes) == len(same) - sum(same)
    assert sum(share.first for share in found.shares) == pytest.approx(1)
    assert [example.place for example in found.examples] == ["row 3", "row 5", "row 8"]


def test_vectors(models: tuple[str, str]) -> None:
    figures = _diff(models, "embed", SENTENCES).found.figures
    settings = {"type": "embed", "text": "text"}
    table = pa.table({"text": SENTENCES})
    one, two = (np.array(predict(model, settings, table, CPU).columns[""]) for model in models)
    cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert figures["cosine_mean"].value == pytest.approx(cosine.mean(), abs=1e-6)
    assert figures["cosine_median"].value == pytest.approx(np.median(cosine), abs=1e-6)
    alike = [np.corrcoef(vectors) for vectors in (one, two)]
    assert np.isfinite(alike).all() and 0 <= figures["same_neighbours@7"].value <= 1  # type: ignore[operator]


def test_vectors_of_two_widths_have_no_cosine(models: tuple[str, str]) -> None:
    diff = _diff((models[0], "builtin/mlm"), "embed", SENTENCES)
    assert "cosine_mean" not in diff.found.figures and "same_neighbours@7" in diff.found.figures
    assert "have 64 numbers and those of builtin/mlm 384" in diff.notices[-1]


def test_one_model_is_not_compared_with_itself(models: tuple[str, str], tmp_path: Path) -> None:
    copy = str(make_bert(tmp_path / "copy", 0))
    with pytest.raises(ModelError, match="have the same weights"):
        _diff((models[0], copy), "fill-mask", TEXTS)


def test_what_models_are_made_for(models: tuple[str, str], tmp_path: Path) -> None:
    assert kind_of("builtin/mlm") == kind_of(models[0]) == "fill-mask" and kind_of("builtin/chat") == "seq2seq"
    decoder = make_llama_chat(tmp_path / "decoder")
    with pytest.raises(JobError, match=r"decoder is a Llama.* knows no figures for"):
        common_kind(models[0], str(decoder))
    bare = make_fine_tuned(tmp_path / "bare", "bert", "TokenClassification")
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(JobError, match=r"for fill-mask and .* for embed; say what to compare them in with --task"):
        common_kind(models[0], str(bare))


def test_a_sample_is_drawn_from_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("n,text\n" + "".join(f"{n},{'' if n % 10 == 0 else f'text {n}'}\n" for n in range(1000)))
    sample = sample_texts(str(path), "text", 100, 0)
    assert sample.rows == 900 and len(set(sample.texts)) == 100
    numbers = [int(text.split()[1]) for text in sample.texts]
    assert numbers == sorted(numbers) and 300 < np.mean(numbers) < 700
    assert sample.places[0] == f"{path} row {numbers[0] + 1}"
    assert sample_texts(str(path), "text", 100, 0).texts == sample.texts
    assert sample_texts(str(path), "text", 100, 1).texts != sample.texts
    assert len(sample_texts(str(path), "{n}: {text}", 2000, 0).texts) == 1000
    with pytest.raises(InputError, match=r"no row of .* has a text with <mask>"):
        sample_texts(str(path), "text", 100, 0, "<mask>")


def test_the_command(
    models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("text\n" + "".join(f'"{text}\x1b[31m"\n' for text in TEXTS) + '"open\n')
    place = f"file://{tmp_path}/in.csv?secret_key=SECRET"
    assert _run(["models", "diff", *models, "--input", place, "--text", "text", "--json", "out.json"]) == 0
    shown, said = capsys.readouterr()
    assert "one → two · fill-mask" in shown and "same_best_word" in shown and "\x1b[31m" not in shown
    assert f"1 line of file://{tmp_path}/in.csv?secret_key=*** " in said and "SECRET" not in said
    found = json.loads(Path("out.json").read_text())
    assert "SECRET" not in json.dumps(found) and found["input"].endswith("in.csv?secret_key=***")
    assert found["task"] == "fill-mask" and found["units"] == "masks" and len(found["models"]) == 2
    assert _run(["models", "diff", models[0], "nothing", "--input", "in.csv", "--text", "text"]) == 1
    assert _run(["models", "diff", *models, "--input", "in.csv", "--text", "txt"]) == 2
    assert "did you mean 'text'" in capsys.readouterr().err


def test_answers_to_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    both = [str(make_fine_tuned(tmp_path / name, "bert", "QuestionAnswering", seed)) for seed, name in enumerate("ab")]
    rows = [{"asked": "Who did it?", "context": text} for text in SENTENCES] + [{"asked": None, "context": "x"}]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["models", "diff", *both, "--input", "in.jsonl", "--text", "context", "--json", "out.json"]
    assert _run([*command, "--question", "asked"]) == 0
    found = json.loads(Path("out.json").read_text())
    table = pa.table({"q": ["Who did it?"] * len(SENTENCES), "c": SENTENCES})
    settings = {"type": "qa", "question": "q", "context": "c"}
    given = [predict(model, settings, table, CPU).columns[""] for model in both]
    same = [(one or "").lower() == (other or "").lower() for one, other in zip(*given, strict=True)]
    assert found["task"] == "qa" and found["count"] == len(SENTENCES) and len(found["examples"]) >= 1
    assert found["figures"]["agreement"]["value"] == pytest.approx(np.mean(same))
    assert found["figures"]["word_f1_of_each_other"]["value"] >= found["figures"]["agreement"]["value"]
    assert _run([*command, "--question", "Who did it?"]) == 0
    assert json.loads(Path("out.json").read_text())["rows_of_input"] == len(rows)
    assert _run(command) == 2 and "--question goes with models that answer questions" in capsys.readouterr().err


def test_an_answer_of_which_nothing_is_left_is_none_the_less_one(tmp_path: Path) -> None:
    model = resolved(make_fine_tuned(tmp_path / "m", "bert", "QuestionAnswering"))
    said = [["The", None, "a.", None], [None, None, "the", "Emotet"]]
    first, second = (Predicted(model, {"": column}, {}, 0.0, "float32", ()) for column in said)
    found = different_answers(first, second, Sample(SENTENCES[:4], ["p"] * 4, 4, ()), 0)
    assert found.figures["agreement"].value == 0.5 and found.figures["word_f1_of_each_other"].value == 0.5
    assert [(example.first, example.second) for example in found.examples] == [("The", NONE), (NONE, "Emotet")]


def test_generated_texts(tmp_path: Path) -> None:
    both = (str(make_t5(tmp_path / "one", 0)), str(make_t5(tmp_path / "two", 1)))
    assert common_kind(*both) == "seq2seq"
    found = _diff(both, "seq2seq", SENTENCES[:3]).found
    assert found.count == 3 and [share.name for share in found.shares] == ["(answer)"]
    assert found.figures["agreement"].value == 0 and len(found.examples) == 3
    assert found.examples[0].first != found.examples[0].second


@pytest.mark.parametrize(
    ("kind", "names", "told"),
    [
        ("TokenClassification", ("B-Tool", "I-Tool"), ["the label Malware", "the label Tool"]),
        ("SequenceClassification", ("b", "d"), ["the label a", "the label b"]),
    ],
)
def test_labels_that_one_model_alone_knows_are_told(
    kind: str, names: tuple[str, str], told: list[str], tmp_path: Path
) -> None:
    own = {0: "O", 1: "B-Malware", 2: "I-Malware"} if kind.startswith("Token") else {0: "a", 1: "d"}
    other = {0: "O", 1: names[0], 2: names[1]} if kind.startswith("Token") else {0: names[0], 1: names[1]}
    first, second = (
        make_fine_tuned(tmp_path / str(number), family, kind, seed=number, id2label=labels)
        for number, (family, labels) in enumerate((("bert", own), ("roberta", other)))
    )
    found = _diff((str(first), str(second)), "ner" if kind.startswith("Token") else "classify", SENTENCES)
    assert [notice for notice in found.notices if "knows" in notice] == [
        f"only {first} knows {told[0]}",
        f"only {second} knows {told[1]}",
    ]
