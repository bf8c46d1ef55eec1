"""An output that is moved away, or removed, while a run is at work: what is there then is another run's."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fake_task import Counter, UpperTask, install_in
from nights import LINES, WITH_ID, job, rows, write

from secbatch.errors import OutputError
from secbatch.run_result import RunResult
from secbatch.runner import run_job
from secbatch.store import rebuild
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.versions import prune, publish


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    counter = install_in(tmp_path, monkeypatch, (10,))
    write("a.csv", "id,text,note", *LINES)
    return counter


def once_amid(rows: int, counter: Counter, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """`happens()` while the run is at work that has computed so many rows; work of runs in it goes on undisturbed."""
    compute = UpperTask.compute

    def computed(self: UpperTask, encoded: object) -> object:
        if counter.rows >= rows:
            monkeypatch.setattr(UpperTask, "compute", compute)
            happens()
        return compute(self, encoded)

    monkeypatch.setattr(UpperTask, "compute", computed)


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("out").rglob("*") if path.is_file() and path.name != "lock"}


def test_a_run_leaves_what_another_has_made_at_its_place(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, bytes]] = []

    def moved() -> None:
        Path("out").rename("moved")
        run_job(job(input=WITH_ID))
        found.append(files())

    once_amid(50, counter, monkeypatch, moved)
    with pytest.raises(OutputError, match="'out' was moved or removed while this run was at work"):
        run_job(job(input=WITH_ID))
    assert files() == found[0]
    assert sorted(rows()["text"]) == sorted(line.split(",")[1] for line in LINES)
    shutil.rmtree("moved/_secbatch/in_flight")  # or what it was at is tried in a process of its own
    result = run_job(job(input=WITH_ID, output__path="moved"))
    assert result.reused > 0 and len(rows("moved")) == len(LINES)


def test_a_run_whose_output_is_gone_says_so(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        Path("out").rename("gone")  # at once: another thread may be writing
        shutil.rmtree("gone")

    once_amid(50, counter, monkeypatch, gone)
    with pytest.raises(OutputError, match="'out' was moved or removed while this run was at work"):
        run_job(job(input=WITH_ID))
    run_job(job(input=WITH_ID))
    assert len(rows()) == len(LINES)


@pytest.mark.parametrize(
    "error", [OutputError("'out/_secbatch/in_flight' cannot be written"), FileNotFoundError("out")]
)
def test_what_a_run_misses_first_is_not_told_where_its_output_is_gone(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def moved() -> None:
        Path("out").rename("moved")
        raise error

    once_amid(50, counter, monkeypatch, moved)
    told: list[RunResult] = []
    with pytest.raises(OutputError, match="'out' was moved or removed while this run was at work"):
        run_job(job(input=WITH_ID), ended=told.append)
    assert told[0].state == "failed" and "moved or removed" in (told[0].error or "")
    assert not any("moved or removed" in text for text in told[0].notices)


def test_an_output_that_is_moved_while_it_is_looked_at_has_lost_nothing(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(job(input=WITH_ID))
    found: list[dict[str, bytes]] = []

    def moved(layout: Layout, ledger: Ledger) -> list[str]:
        monkeypatch.undo()
        monkeypatch.chdir(tmp)
        Path("out").rename("moved")
        found.append(files())
        return [file for part in ledger.version_parts(1) for file in part.files if not (layout.parts / file).exists()]

    tmp = Path.cwd()
    monkeypatch.setattr(rebuild, "_gone", moved)
    with pytest.raises(OutputError, match="'out' was moved or removed while this run was at work"):
        run_job(job(input=WITH_ID))
    assert files() == found[0]


def test_nothing_is_shown_or_cleared_at_a_place_that_is_another_output_s(counter: Counter) -> None:
    run_job(job(input=WITH_ID))
    layout = Layout(Path("out"))
    ledger = Ledger(layout.ledger)
    layout.root.rename("moved")
    run_job(job(input=WITH_ID))
    before = files()
    for change in (lambda: publish(layout, ledger, "run", [], "now"), lambda: prune(layout, ledger)):
        with pytest.raises(OutputError, match="moved or removed"):
            change()
    assert files() == before
    ledger.close()


def test_nothing_is_written_into_a_ledger_that_was_moved(counter: Counter) -> None:
    run_job(job(input=WITH_ID))
    with closing(Ledger(Layout(Path("out")).ledger)) as ledger:
        Path("out").rename("moved")
        with pytest.raises(OutputError, match="'out' was moved or removed"):
            ledger.start_run("another", "{}", "2026-01-01T00:00:00+00:00")
        assert not ledger.knows_run("another")
