"""Documents whose sentences are rows: of two with one id in an input the last one counts, whole."""

from pathlib import Path
from typing import Any

import pytest
from fake_task import Counter, install_in
from nights import WITH_ID, job, rows, write
from sampling import sampled

from secbatch.run_options import RunOptions
from secbatch.runner import run_job

NIGHT: dict[str, Any] = {
    "input": {**WITH_ID, "sentences": "text"},
    "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "sentence"}},
}
OTHERS = ["b,Six. Seven. Eight.", "c,", "d,Nine."]


SHARDS = [(1,), (2, 3), (4,), (100,)]


@pytest.fixture(params=SHARDS, ids=str)
def counter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    """Shards of so many rows: both documents are in one shard, begin or end in one, or are far apart."""
    return install_in(tmp_path, monkeypatch, request.param)


def sentences(document: str) -> list[str]:
    found = rows()
    return list(found[found["id"] == document].sort_values("sentence_index")["sentence"].fillna(""))


@pytest.mark.parametrize(
    ("shard_rows", "later", "how"),
    sampled(
        3,
        SHARDS,
        [["a,Other."], ["a,Other. Words.", "a,Last. Words. Here."], ["a,"]],
        ["keep", "mark", "drop"],
    ),
)
def test_the_last_document_of_a_name_wins_whole(
    shard_rows: tuple[int, ...], later: list[str], how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A third of the combinations, each two of their values together; all of them in the soak."""
    counter = install_in(tmp_path, monkeypatch, shard_rows)
    night = {**NIGHT, "output": {"path": "out", "removed": how}}
    write("a.csv", "id,text", "a,One. Two. Three. Four. Five.", *OTHERS)
    write("b.csv", "id,text", *later)
    result = run_job(job(**night))
    last = later[-1].partition(",")[2]
    expected = [f"{word}." for word in last.rstrip(".").split(". ")] if last else [""]
    assert sentences("a") == expected and len(rows()) == len(expected) + 5
    assert result.read == len(rows()) + result.superseded and result.rows_in_dataset == len(rows())
    computed = counter.rows
    again = run_job(job(**night))  # what was replaced is known, as for rows
    assert (again.superseded, again.published, counter.rows) == (result.superseded, False, computed)
    Path("in/b.csv").unlink()
    run_job(job(**night))
    assert sentences("a") == ["One.", "Two.", "Three.", "Four.", "Five."]


def test_a_document_that_stands_in_the_dataset_gives_way_to_a_later_one(counter: Counter) -> None:
    write("a.csv", "id,text", "a,One. Two. Three. Four. Five.", *OTHERS)
    run_job(job(**NIGHT))
    write("b.csv", "id,text", "a,Other.")
    result = run_job(job(**NIGHT))
    assert sentences("a") == ["Other."] and (result.read, result.superseded, len(rows())) == (11, 5, 6)
    computed = counter.rows
    again = run_job(job(**NIGHT))
    assert (again.superseded, counter.rows) == (5, computed)


def test_a_look_takes_nothing_of_the_document_that_it_has_not_read_whole(counter: Counter) -> None:
    write("a.csv", "id,text", "a,One. Two. Three.", *OTHERS)
    write("b.csv", "id,text", "a,Other. Words.")
    run_job(job(**NIGHT))
    run_job(job(**NIGHT), options=RunOptions(limit=9))  # one sentence of the last document
    assert sentences("a") == ["Other.", "Words."]


def test_all_sentences_of_a_document_without_an_id_are_kept(counter: Counter) -> None:
    night = {**NIGHT, "max_rejects": "100%"}
    write("a.csv", "id,text", "a,One.", ",Two. Three. Four.", ",Five. Six.", "b,Seven.")
    result = run_job(job(**night))
    found = rows()
    unnamed = found[found["secbatch_status"] == "rejected"].sort_values(["secbatch_row", "sentence_index"])
    assert list(unnamed["sentence"]) == ["Two.", "Three.", "Four.", "Five.", "Six."]
    assert (result.read, result.superseded, result.rejected, len(found)) == (7, 0, 5, 7)
    assert not run_job(job(**night)).published
    write("a.csv", "id,text", "a,One.", ",Two. Three.", "c,Five. Six.", "b,Seven.")  # one is shorter, one has its id
    result = run_job(job(**night))
    assert sorted(rows()["sentence"]) == sorted(["One.", "Two.", "Three.", "Five.", "Six.", "Seven."])
    assert (result.rejected, len(rows())) == (2, 6)
