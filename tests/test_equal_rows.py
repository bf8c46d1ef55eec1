"""Rows without ids that stand in several files: each file keeps as many as it had, also when it is gone."""

import random
from collections import Counter as Multiset
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_task import Counter, install_in
from nights import done, job, rows, write
from sampling import sampled

from secbatch.run_options import RunOptions
from secbatch.runner import run_job


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return install_in(tmp_path, monkeypatch, (3, 4))


def places(found: pd.DataFrame) -> list[tuple[Any, ...]]:
    columns = ["text", "secbatch_source", "secbatch_row", "secbatch_status"]
    return sorted(found[columns].itertuples(index=False, name=None))


@pytest.mark.parametrize("how", ["keep", "mark"])
def test_a_row_of_a_file_that_is_gone_outlives_its_equal_in_another_file(counter: Counter, how: str) -> None:
    write("a.csv", "text", "same", "one")
    write("b.csv", "text", "same", "two", "three")
    output = {"path": "out", "removed": how, "max_removed": "100%"}
    assert done(counter, output=output) == 5
    Path("in/a.csv").unlink()
    for _ in range(2):
        assert done(counter, output=output) == 0
        gone = "ok" if how == "keep" else "removed"
        assert places(rows()) == [
            ("one", "in/a.csv", 2, gone),
            ("same", "in/a.csv", 1, gone),
            ("same", "in/b.csv", 1, "ok"),
            ("three", "in/b.csv", 3, "ok"),
            ("two", "in/b.csv", 2, "ok"),
        ]
        assert rows()["secbatch_id"].is_unique and (rows()["up"] == rows()["text"].str.upper()).all()
    write("a.csv", "text", "same", "one")  # it is back: nothing is new
    assert done(counter, output=output) == 0 and len(rows()) == 5
    assert set(rows()["secbatch_status"]) == {"ok"}


def test_another_input_takes_no_equal_row_from_the_dataset(counter: Counter) -> None:
    write("a.csv", "text", "same", "one")
    write("b.csv", "text", "same", "same")
    assert done(counter) == 4
    before = places(rows())
    assert done(counter, input={"path": "in/b.csv"}) == 0
    assert places(rows()) == before


@pytest.mark.parametrize("seed", sampled(2, range(6)))
def test_a_look_moves_no_row(counter: Counter, seed: int) -> None:
    """Of six seeds 0, 2, 4 and 5; all in the soak."""
    chance = random.Random(seed)
    for letter in "abcd":
        write(f"{letter}.csv", "text", *chance.choices("uvwxyz", k=chance.randint(1, 9)))
    done(counter)
    before = places(rows())
    for _ in range(4):
        path = chance.choice(["in/*.csv", "in/[bd].csv", "in/c.csv"])
        run_job(job(input={"path": path}), options=RunOptions(limit=chance.choice([None, 3, 5, 12])))
        assert places(rows()) == before


def test_dropped_and_renamed_files_leave_no_equal_row(counter: Counter) -> None:
    write("a.csv", "text", "same", "same")
    write("b.csv", "text", "same")
    done(counter)
    Path("in/a.csv").rename("in/c.csv")
    done(counter)
    assert [place[:3] for place in places(rows())] == [
        ("same", "in/b.csv", 1),
        ("same", "in/c.csv", 1),
        ("same", "in/c.csv", 2),
    ]
    Path("in/c.csv").unlink()
    done(counter, output={"path": "out", "removed": "drop", "max_removed": "100%"})
    assert [place[:3] for place in places(rows())] == [("same", "in/b.csv", 1)]


@pytest.mark.parametrize(("seed", "how"), sampled(3, range(6), ["keep", "mark"]))
def test_files_that_come_and_go_keep_their_rows(counter: Counter, how: str, seed: int) -> None:
    """Of a file that is there what it holds now; of files that are gone all rows but those that seem to have moved.

    Both ways with and without partitions, an odd and an even seed each; all seeds in the soak.
    """
    chance = random.Random(seed)
    output = {"path": "out", "removed": how, "max_removed": "100%", "partition_by": ["part"] if seed % 2 else []}
    there: dict[str, list[str]] = {}
    before = Multiset[tuple[str, str]]()  # source and text
    for night in range(8):
        for name in [f"{letter}.csv" for letter in "abcd"]:
            what = chance.random()
            if what < 0.3 and len(there) > 1 and name in there:
                (Path("in") / name).unlink()
                del there[name]
            elif what < 0.6 or not night:
                there[name] = chance.choices("uvwxy", k=chance.randint(1, 7))
                write(name, "part,text", *(f"p{ord(text) % 3},{text}" for text in there[name]))
        done(counter, output=output)
        found = rows()
        assert found["secbatch_id"].is_unique
        assert (found["up"] == found["text"].str.upper()).all()
        for name in there:
            own = found[found["secbatch_source"] == f"in/{name}"].sort_values("secbatch_row")
            assert list(own["text"]) == there[name]
            assert list(own["secbatch_row"]) == list(range(1, len(own) + 1)) and set(own["secbatch_status"]) == {"ok"}
        after = Multiset(zip(found["secbatch_source"], found["text"], strict=True))
        here = {f"in/{name}" for name in there}
        gone = Multiset({key: count for key, count in after.items() if key[0] not in here})
        assert gone <= before
        for text in "uvwxy":
            read = sum(texts.count(text) for texts in there.values())
            of_gone = sum(count for (source, one), count in before.items() if one == text and source not in here)
            of_here = sum(count for (source, one), count in before.items() if one == text and source in here)
            moved = min(of_gone, max(0, read - of_here))
            kept = sum(count for (_, one), count in gone.items() if one == text)
            assert of_gone - moved <= kept <= of_gone
        before = after
