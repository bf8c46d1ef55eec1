"""A text on which the tokenizer gives up costs its row, and no other one."""

import json
from pathlib import Path

import pandas as pd
import pytest
from tiny_models import make_llama_chat, make_modernbert

from secbatch import untokenizable_rows
from secbatch.cli.main import _run

GIVEN_UP = "a" * 40 + "b"  # by (a+)+c: the library ends the search after ten million steps, with a panic
TEXTS = ["What is DDoS?", GIVEN_UP, "Phishing.", "", f"See {GIVEN_UP}", "Thanks."]


@pytest.fixture(params=["embed", "chat"])
def task(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a task with a model whose tokenizer gives up on such texts; there is a job for it."""
    monkeypatch.chdir(tmp_path)
    folder = {"embed": make_modernbert, "chat": make_llama_chat}[request.param](tmp_path / "model")
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+c"}, "behavior": "Isolated", "invert": False}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, spec["pre_tokenizer"]]}
    path.write_text(json.dumps(spec))
    own = ", generation: {max_new_tokens: 4}, conversation: {id: talk, order: id}" if request.param == "chat" else ""
    Path("job.yaml").write_text(
        "name: night\ninput: {path: in.csv, id: id}\n"
        f"tasks: {{t: {{type: {request.param}, model: ./model, text: text{own}}}}}\n"
        "output: {path: out}\n"
    )
    return str(request.param)


def write(texts: list[str]) -> None:
    """Conversations of three turns."""
    rows = {f"{n:02}": (f"t{n // 3}", text) for n, text in enumerate(texts)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["talk", "text"])
    table.to_csv("in.csv", index_label="id")


def test_the_row_is_rejected_and_the_others_are_done(task: str) -> None:
    write(TEXTS)
    assert _run(["run", "job.yaml"]) == 3
    rows = pd.read_parquet("out/data").set_index("id").sort_index()
    lost = rows["text"].str.contains(GIVEN_UP).fillna(False)
    assert list(rows.index) == [f"{n:02}" for n in range(6)] and lost.sum() == 2
    assert set(rows["secbatch_status"][lost]) == {"rejected"}
    assert rows["secbatch_error"][lost].str.contains(r"tokenizer gives up on a text \(.*retry-limit").all()
    assert set(rows["secbatch_status"][~lost]) == {"ok"}
    assert rows["t"][lost].isna().all() and rows["t"][~lost & (rows["text"] != "")].notna().all()
    assert _run(["run", "job.yaml"]) == 3  # nothing is done again
    assert _run(["retry", "out"]) == 3


def test_a_tokenizer_that_gives_up_on_everything_ends_the_run(
    task: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untokenizable_rows, "MOST", 2)
    write([f"{GIVEN_UP} {n}" for n in range(4)])
    code = _run(["run", "job.yaml"])
    said = capsys.readouterr().err
    if task == "chat":
        assert code == 3
    else:
        assert code == 1 and "The model's tokenizer gives up on a text" in said and "Traceback" not in said
