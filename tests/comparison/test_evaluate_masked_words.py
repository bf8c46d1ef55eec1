"""Fill-mask on a labelled file: which rank the right word has, checked against the task's own predictions."""

import json
import resource
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_models import SENTENCES, make_bert

from secbatch.cli.main import _run
from secbatch.comparison.evaluation import evaluate
from secbatch.comparison.masked_words import MaskedWords, _masked
from secbatch.comparison.predictions import named_apart, predict
from secbatch.errors import InputError, JobError
from secbatch.labelled.files import LabelledFiles
from secbatch.models.device import choose

ROWS = ["Ransomware encrypts <mask> and demands payment.", "The <mask> beacons over TCP.", SENTENCES[3]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(make_bert(tmp_path_factory.mktemp("models") / f"bert{seed}", seed)) for seed in (0, 1)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    lines = [f'"{ROWS[0]}",files,object,a', f'"{ROWS[1]}",malware,object,b', f'"{ROWS[2]}",inserts,verb,b']
    Path("words.csv").write_text("text,word,kind,doc\n" + "\n".join(lines) + "\n")
    return "words.csv"


def test_nothing_between_two_delimiters_is_no_word_that_would_be_right(data: str) -> None:
    Path("words.csv").write_text('text,word\nthe <mask> ran,"malware,"\na <mask> ran,", virus, ,worm"\na <mask>,","\n')
    found = MaskedWords(LabelledFiles(data, malformed="skip"), "text", "word", ",")
    assert [example.words for example in found._examples] == [("malware",), ("virus", "worm")]
    assert "words.csv row 3: the word is empty" in found._notices[-1]


def test_ranks_are_those_of_the_tasks_predictions(models: list[str], data: str) -> None:
    import pyarrow as pa

    compute = choose("cpu", "float32")
    table = pa.table({"text": [*ROWS[:2], ROWS[2].replace("inserts", "<mask>")]})
    done = predict(models[0], {"type": "fill-mask", "text": "text", "top_k": 300}, table, compute)
    places = []
    for (words,), wanted in zip(done.columns["_predictions"], ["files", "malware", "inserts"], strict=True):
        different = list(dict.fromkeys(word["token"].casefold() for word in words))
        places.append(different.index(wanted) + 1 if wanted in different else None)
    objective = MaskedWords(LabelledFiles(data), "text", "word", part="kind", group="doc", top_k=150)
    (model,) = evaluate(objective, models[:1], ["a"], compute, 50, 0).models
    kept = [place if place is not None and place <= 150 else None for place in places]
    assert any(kept)
    assert model.figures["mrr"].value == pytest.approx(sum(1 / place for place in kept if place) / 3)
    assert model.figures["hit@10"].value == pytest.approx(sum(place is not None and place <= 10 for place in kept) / 3)
    assert [(part.name, part.support) for part in model.parts] == [("object", 2), ("verb", 1)]
    assert model.parts[1].figures["mrr"].value == pytest.approx(1 / kept[2] if kept[2] else 0.0)
    assert model.more["words_of_one_entry"] == 1.0


def test_the_command(models: list[str], data: str, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["--objective", "fill-mask", "--text", "text", "--label", "word", "--part", "kind", "--group", "doc"]
    files = ["--json", "out.json", "--plot", "out.png"]
    assert _run(["evaluate", *models, "--data", data, *columns, *files]) == 0
    captured = capsys.readouterr()
    assert "fill-mask · 3 rows · 2 groups" in captured.out and "difference to bert0" in captured.out
    assert max(map(len, captured.out.splitlines())) <= 100
    found = json.loads(Path("out.json").read_text())
    assert [model["name"] for model in found["models"]] == ["bert0", "bert1"]
    assert found["bootstrap"]["groups"] == 2 and len(found["data"][0]["sha256"]) == 64
    assert found["models"][0]["weights"] != found["models"][1]["weights"]
    assert found["differences"][0]["of"] == "bert1" and set(found["differences"][0]["figures"]) >= {"mrr", "hit@1"}
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")
    assert _run(["evaluate", models[0], "--data", data, *columns, "--json", "-", "--plot", "again.svg"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["figures"] == found["models"][0]["figures"]
    first = Path("again.svg").read_bytes()
    assert _run(["evaluate", models[0], "--data", data, *columns, "--plot", "again.svg"]) == 0
    assert Path("again.svg").read_bytes() == first
    assert "<!-- fill-mask, 3 rows of 2 groups; bars: 95% intervals -->" in first.decode()
    assert _run(["evaluate", models[0], "--data", data, *columns, "--plot", "none.svg", "--samples", "0"]) == 0
    assert "<!-- fill-mask, 3 rows of 2 groups -->" in Path("none.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--objective", "fill-mask", "--text", "text"], "needs --label"),
        (["--objective", "fill-mask", "--text", "text", "--label", "word", "--threshold", "1"], "has no meaning"),
        (["--objective", "fill-mask", "--text", "tex", "--label", "word"], "--text: there is no column 'tex'"),
        (
            ["--objective", "fill-mask", "--text", "text", "--label", "wor"],
            "no column 'wor' (did you mean 'word'?)",
        ),
        (["--objective", "fill-mask", "--text", "text", "--label", "word", "--plot", "x.gif"], "one of png, svg, pdf"),
        (["--objective", "fill-mask", "--text", "text", "--label", "doc"], "row 3: the text has no <mask>, and the"),
        (["--objective", "fill-mask", "--text", "text", "--label", "word", "--json", "no/x"], "there is no folder"),
        ([], "Say what to measure on"),
        (["--published"], "brings its own sentences"),
    ],
)
def test_one_sentence_for_what_cannot_be(
    models: list[str], data: str, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["evaluate", models[0], "--data", data, *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_place_that_may_not_be_written_is_said_before_any_work(
    models: list[str], data: str, option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda place, mode: False)  # whoever runs the tests may write anywhere
    asked = ["--objective", "fill-mask", "--text", "text", "--label", "word", option, "figures.png"]
    assert _run(["evaluate", models[0], "--data", data, *asked]) == 1
    seen = capsys.readouterr()
    assert seen.err == "Error: 'figures.png' may not be written; mend its rights, or name another place.\n"
    assert not seen.out and not Path("figures.png").exists()


@pytest.mark.parametrize("file", [["--json", "out.json"], ["--plot", "out.png"]])
def test_a_limit_on_the_size_of_files_is_named(
    file: list[str], models: list[str], data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", models[0], "--data", data, "--objective", "fill-mask", "--text", "text", "--label", "word"]
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
    try:
        code = _run([*command, *file])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    assert code == 1
    assert f"Error: '{file[1]}' would become larger than the 100 bytes that the system" in capsys.readouterr().err


def test_files_and_tables_are_not_lost_with_each_other(
    models: list[str], data: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both come at the end of all that work: a reader goes (`| head`), or a disk is full."""
    evaluated = ["evaluate", models[0], "--data", data, "--objective", "fill-mask", "--text", "text", "--label", "word"]
    compared = ["models", "diff", *models, "--input", data, "--text", "text"]
    for number, command in enumerate((evaluated, compared)):
        with suppress(OSError), Path("/dev/full").open("w", buffering=1) as full, monkeypatch.context() as patched:
            patched.setattr("sys.stdout", full)
            assert _run([*command, "--json", f"{number}.json"]) == 1
        assert json.loads(Path(f"{number}.json").read_text())
        capsys.readouterr()
        assert _run([*command, "--json", "/dev/full"]) == 1
        seen = capsys.readouterr()
        assert "Error: '/dev/full' cannot be written (No space left on device)." in seen.err and "fill-mask" in seen.out


def test_rows_that_give_no_example_can_be_skipped(data: str) -> None:
    Path(data).write_text("text,word\n<mask> and <mask>,a\nno mask,word\nA <mask>.,word\n")
    with pytest.raises(InputError, match=r"row 1: the text has 2 times <mask>.*2 malformed rows in all"):
        MaskedWords(LabelledFiles(data), "text", "word")
    objective = MaskedWords(LabelledFiles(data, malformed="skip"), "text", "word")
    assert objective.rows == 1 and "2 malformed rows left out" in objective.notices([])[-1]


def test_a_word_is_masked_where_it_stands_once_as_a_whole() -> None:
    assert _masked("The malware, not malwares.", ["malware"]) == "The <mask>, not malwares."
    with pytest.raises(ValueError, match="stands 2 times"):
        _masked("a b a", ["a"])


def test_names_tell_models_apart(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "model", tmp_path / "b" / "model"
    first.mkdir(parents=True)
    second.mkdir(parents=True)
    assert named_apart([str(first), f"{second}/", "builtin/mlm"]) == ["a/model", "b/model", "builtin/mlm"]
    with pytest.raises(JobError, match="named twice"):
        named_apart(["x", "x"])
