"""Going back to an earlier version, and what the next run makes of it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_task import Counter, install

from secbatch.cli.main import _run
from secbatch.errors import InputError, OutputError, OutputHeldError
from secbatch.job import Job
from secbatch.runner import run_job
from secbatch.store.layout import Layout
from secbatch.store.lock import hold
from secbatch.store.rollback import list_versions, roll_back

OUT = Layout(Path("out"))


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    monkeypatch.chdir(tmp_path)
    return install(monkeypatch)


def night(**files: str) -> int:
    """One night's run over exactly these files; returns the version readers see after it."""
    folder = Path("in")
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(f"id,text\n{text}\n")
    values: dict[str, Any] = {
        "name": "nights",
        "input": {"path": "in", "id": ["id"]},
        "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "text"}},
        "output": {"path": "out"},
    }
    return run_job(Job.model_validate(values)).version


def shown() -> dict[str, str]:
    rows = pd.read_parquet("out/data")
    return dict(zip(rows["id"], rows["up"], strict=True))


def test_rollback_shows_the_version_before_and_the_next_run_goes_on_from_it(counter: Counter) -> None:
    assert night(day1="1,a\n2,b") == 1
    assert night(day2="2,changed\n3,c") == 2
    assert shown() == {"1": "A", "2": "CHANGED", "3": "C"}
    current, target = roll_back(OUT)
    assert (current.number, target, current.rolled_back_to, current.rows) == (3, 1, 1, 2)
    assert shown() == {"1": "A", "2": "B"}
    assert night(day3="4,d") == 4
    assert shown() == {"1": "A", "2": "B", "4": "D"}  # rows of files that are gone are kept: those of version 1


def test_the_versions_that_were_gone_back_from_stay_and_can_be_shown_again(counter: Counter) -> None:
    for number, text in enumerate("abc", 1):
        assert night(day=f"1,{text}") == number
    roll_back(OUT)
    assert shown() == {"1": "B"}
    roll_back(OUT)  # asked twice, it goes back twice
    assert shown() == {"1": "A"}
    with pytest.raises(InputError, match="No version before 1"):
        roll_back(OUT)
    roll_back(OUT, to=3)
    assert shown() == {"1": "C"}
    assert [(v.number, v.current) for v in list_versions(OUT)][-1] == (6, True)


def test_the_same_job_again_brings_the_newest_input_back(counter: Counter) -> None:
    night(day="1,a")
    night(day="1,b\n2,c")
    roll_back(OUT)
    before = counter.rows
    night(day="1,b\n2,c")
    assert shown() == {"1": "B", "2": "C"} and counter.rows == before  # what had been computed is still at hand


def test_what_cannot_be_gone_back_to_is_one_sentence(counter: Counter) -> None:
    with pytest.raises(InputError, match="holds no dataset"):
        roll_back(Layout(Path("absent")))
    assert not Path("absent").exists()
    night(day="1,a")
    with pytest.raises(InputError, match="No version before 1"):
        roll_back(OUT)
    with pytest.raises(InputError, match="no version 9 of 'out'; kept are 1"):
        roll_back(OUT, to=9)
    with pytest.raises(InputError, match="shows already"):
        roll_back(OUT, to=1)
    night(day="1,b")
    with hold(OUT.lock), pytest.raises(OutputHeldError):
        roll_back(OUT)
    assert shown() == {"1": "B"}


def test_the_commands(counter: Counter, capsys: pytest.CaptureFixture[str]) -> None:
    night(day="1,a")
    night(day="1,b\n2,c")
    assert _run(["versions", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["version", "published", "rows", "run"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "*"]
    assert _run(["rollback", "out"]) == 0
    assert "shows version 1 again, as version 3 with 1 row." in capsys.readouterr().out
    assert _run(["versions", "out", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(v["number"], v["rows"], v["current"], v["rolled_back_to"]) for v in listed] == [
        (1, 1, False, None),
        (2, 2, False, None),
        (3, 1, True, 1),
    ]
    assert _run(["rollback", "out", "--to", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["number"] == 4
    assert _run(["versions", "absent"]) == 2
    assert "holds no dataset" in capsys.readouterr().err


def test_a_version_that_has_lost_a_part_is_not_shown_again(counter: Counter) -> None:
    night(day="1,a")
    night(day="1,b")
    before = Path("out/data").readlink()
    links = list(Path("out/_secbatch/versions/000001").rglob("*.parquet"))
    (part,) = (path for path in OUT.parts.rglob("*.parquet") if path.samefile(links[0]))
    part.unlink()
    with pytest.raises(OutputError, match=rf"Version 1 cannot be shown again: '{part}' is gone; choose another"):
        roll_back(OUT)
    assert Path("out/data").readlink() == before and shown() == {"1": "B"}
