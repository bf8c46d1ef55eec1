"""Power loss at any step: what the disk has kept, run again, is the dataset of a run that nobody disturbed.

The writes, renames, links, removals and fsyncs of real runs are recorded and replayed, with what was not synced lost.
"""

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_task import install
from kills import JOB, copied, dataset, unused
from power import Disk, Event, State, ledger_content, write_state

from secbatch.job import Job
from secbatch.runner import run_job
from secbatch.store import faults

NIGHTS = 3  # before the one whose power goes
NAMED_BEFORE_A_SYNC = ("rename", "link", "folder")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    install(monkeypatch)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (4, 9))
    monkeypatch.setattr("secbatch.finished_shards.PUBLISH_SECONDS", 0.0)
    monkeypatch.setattr("secbatch.run_identity.new_run_id", lambda: unused("tonight"))
    # One fsync after another, for which no threads are started: what is recorded of them is the same.
    monkeypatch.setattr("secbatch.store.filesystem.FEW", 1000)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)
        monkeypatch.undo()  # leaves the folder before it goes
        faults.install()


def write_night(folder: Path, night: int) -> None:
    """22 rows and more each night, every fifth changed, one dropped, one doubled, a line that is no row."""
    rows = []
    for number in range(22 + 3 * night):
        changed = number % 5 == night % 5
        if not night or number != 7 * night:
            rows.append(f"{number},{('mon', 'tue')[number % 2]},text {number} of {night if changed else 0}")
    rows.append(f"3,mon,a later row for three in night {night}")
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "a.csv").write_text("\n".join(["id,day,text", *rows, "no row"]) + "\n")


def start_of(kind: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tonight's input, and the output of the nights before where `kind` is later."""
    start = place / kind
    start.mkdir()
    if kind == "later":
        for night in range(NIGHTS):
            write_night(start, night)
            monkeypatch.setattr("secbatch.run_identity.new_run_id", lambda night=night: f"night{night}")
            run(start, monkeypatch)
        monkeypatch.setattr("secbatch.run_identity.new_run_id", lambda: unused("tonight"))
    write_night(start, NIGHTS if kind == "later" else 0)
    return start


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, watch: Callable[..., None] | None = None) -> None:
    monkeypatch.chdir(folder)
    faults.install(record=watch)
    try:
        run_job(Job.model_validate(JOB))
    finally:
        faults.install()


def recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Event], list[dict[str, str]]]:
    """The steps of a run, and each dataset that it showed."""
    events: list[Event] = []
    shown: list[dict[str, str]] = []

    def watch(operation: str, path: Path, *details: object) -> None:
        if operation == "fsync":
            details = (path.read_bytes(),)
        elif operation == "commit":
            details = (ledger_content(path),)
        elif operation == "rename" and details == (Path("out/data"),):
            shown.append(dataset(folder))
        events.append((operation, path, *details))

    run(folder, monkeypatch, watch)
    return events, shown


def rejects(folder: Path) -> list[str]:
    """Of the last run: where the one before it had published all, it is another."""
    newest = json.loads((folder / "out/_secbatch/runs/latest.json").read_text())["run"]
    files = sorted((folder / "out/_secbatch/rejects").glob(f"{newest}-*.parquet"))
    return [text for file in files for text in pq.read_table(file).column("raw").to_pylist()]


class Losses:
    """States that a power loss leaves: each is looked at once and run again."""

    def __init__(self, start: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.monkeypatch = place, monkeypatch
        undisturbed = copied(start, place / "undisturbed")
        self.events, self.shown = recorded(undisturbed, monkeypatch)
        self.expected, self.rejects = dataset(undisturbed), rejects(undisturbed)
        if (start / "out").exists():
            self.shown.append(dataset(start))
        self.had_data = (start / "out").exists()
        self.tried: set[int] = set()

    def check(self, state: State, what: str) -> None:
        known = hash(tuple(state.items()))
        if known in self.tried:
            return
        self.tried.add(known)
        folder = write_state(state, self.place / "left")
        data = folder / "out/data"
        if self.had_data or data.is_symlink():
            assert data.is_dir(), f"{what}: readers find nothing"
            assert dataset(folder) in self.shown, f"{what}: readers see what was never published"
        try:
            run(folder, self.monkeypatch)
        except Exception as error:
            raise AssertionError(f"{what}: the run after it fails") from error
        assert dataset(folder) == self.expected, f"{what}: the run after it makes another dataset"
        assert rejects(folder) == self.rejects, what
        assert not [path for path in (folder / "out").rglob("*") if path.name.endswith(".tmp")], what
        self.monkeypatch.chdir(self.place)
        shutil.rmtree(folder)


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", ["first", "later"])
def test_power_loss_at_each_step(kind: str, every: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each eighth step what chance leaves; after one of five, the first and the last of a kind all or nothing.

    In the soak all or nothing after each step.
    """
    start = start_of(kind, place, monkeypatch)
    losses = Losses(start, place, monkeypatch)
    assert len(losses.events) > 100 and len(losses.expected) >= 2 and losses.rejects == ["no row\n"]
    disk, chance = Disk(start), random.Random(kind)
    kinds = [(event[0], event[1].parts[:3]) for event in losses.events]  # as out/_secbatch/parts
    last = {kind: number for number, kind in enumerate(kinds)}
    first = {kind: number for number, kind in reversed([*enumerate(kinds)])}
    special = {*first.values(), *last.values()}
    for number, event in enumerate(losses.events):
        disk.apply(*event)
        what = f"after step {number}, {event[0]} {event[1]}"
        if number % 8 == 0:
            losses.check(disk.left(lambda: chance.random() < 0.5, chance.random), f"{what}, by chance")
        if number % every and number not in special:
            continue
        losses.check(disk.left(lambda: False, lambda: 0.0), f"{what}, nothing else kept")
        if event[0] != "write":
            losses.check(disk.left(lambda: True, lambda: 0.0), f"{what}, names kept without content")
    print(f"{kind}: {len(losses.events)} steps, {len(losses.tried)} states")
    assert len(losses.tried) >= 50


@pytest.mark.parametrize("kind", ["first", "later"])
def test_a_kill_and_a_power_loss_later(kind: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill leaves names that no one has synced; the next run must not build on them as if they were safe."""
    start = start_of(kind, place, monkeypatch)
    losses = Losses(start, place, monkeypatch)
    chance = random.Random(kind)
    alike: dict[tuple[str, Path], list[int]] = {}
    for number, event in enumerate(losses.events):
        if event[0] in NAMED_BEFORE_A_SYNC:
            alike.setdefault((event[0], event[1].parent), []).append(number)
    for kill in [chance.choice(numbers) for numbers in alike.values()]:
        disk = Disk(start)
        for event in losses.events[: kill + 1]:
            disk.apply(*event)
        folder = write_state(disk.seen(), place / "killed")
        events, shown = recorded(folder, monkeypatch)
        assert dataset(folder) == losses.expected
        losses.shown += [made for made in shown if made not in losses.shown]
        monkeypatch.chdir(place)
        shutil.rmtree(folder)
        loss = chance.randrange(len(events))
        for number, event in enumerate(events):
            disk.apply(*event)
            if number in (loss, len(events) - 1):
                what = f"killed at {losses.events[kill][:2]}, power lost after step {number} of the next run"
                losses.check(disk.left(lambda: False, lambda: 0.0), what)
