"""kill -9 at any step and at any moment, then again: the dataset is that of a run which nobody disturbed."""

import json
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kills import KillServer, copied, dataset, write_night

from secbatch.store import faults
from secbatch.store.layout import Layout
from secbatch.store.rollback import list_versions

NIGHTS = 4  # before the one that is killed


@dataclass
class Corpus:
    """Outputs to start from, and what undisturbed runs make of them."""

    server: KillServer
    first: Path  # no output yet
    later: Path  # an output of earlier nights, and tonight's input
    expected: dict[Path, dict[str, str]] = field(default_factory=dict)
    counts: dict[Path, dict[str, int]] = field(default_factory=dict)  # how often a run reaches each point
    seconds: dict[Path, float] = field(default_factory=dict)

    def check(self, start: Path, folder: Path) -> None:
        self.server.run(folder, "tonight")
        assert dataset(folder) == self.expected[start]
        left = [path for path in (folder / "out").rglob("*") if path.name.endswith(".tmp")]
        assert not left and not list((folder / "out/_secbatch/checkpoints").iterdir())
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """In memory where there is such a place: what a kill leaves behind does not depend on the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def corpus(place: Path, kill_server: KillServer) -> Corpus:
    made = Corpus(kill_server, place / "first", place / "later")
    made.first.mkdir()
    write_night(made.first, 0)
    copied(made.first, made.later)
    for night in range(NIGHTS):
        write_night(made.later, night)
        kill_server.run(made.later, f"night{night}")
    write_night(made.later, NIGHTS)
    for start in (made.first, made.later):
        folder = copied(start, place / "undisturbed")
        answer = kill_server.run(folder, "tonight")
        made.expected[start] = dataset(folder)
        made.counts[start], made.seconds[start] = answer["counts"], answer["seconds"]
        shutil.rmtree(folder)
    return made


def test_the_corpus_is_what_it_is_to_be(corpus: Corpus) -> None:
    assert corpus.counts[corpus.first]["checkpoint: before the write"] >= 20
    assert corpus.counts[corpus.later]["checkpoint: before the write"] >= 5
    assert len(corpus.expected[corpus.later]) >= 3
    reached = {point for counts in corpus.counts.values() for point, count in counts.items() if count}
    assert reached == set(faults.POINTS)


@pytest.mark.parametrize("start", ["first", "later"])
def test_a_kill_at_each_step(corpus: Corpus, place: Path, start: str) -> None:
    """One run, killed at one step after the other until it comes to its end; then the next with those left."""
    source: Path = getattr(corpus, start)
    chance = random.Random(start)
    left = [point for point in faults.POINTS if corpus.counts[source][point]]
    killed: list[str] = []
    while left:
        folder, before = copied(source, place / "killed"), len(killed)
        for point in list(left):
            answer = corpus.server.run(
                folder, "tonight", kill=[point, chance.randint(1, min(2, corpus.counts[source][point]))]
            )
            if not answer["killed"]:
                break
            assert answer["last"] == point
            killed.append(point)
            left.remove(point)
        corpus.check(source, folder)
        assert len(killed) > before, left
    show(Counter(killed))


def test_a_kill_amid_a_rollback(corpus: Corpus, place: Path) -> None:
    """What is shown is the one version or the other; asked again it comes to its end, and goes no farther."""
    source = copied(corpus.later, place / "rollback")
    before = dataset(source)
    counts = corpus.server.run(source, "", rollback=True)["counts"]
    earlier = dataset(source)
    reached = [point for point in faults.POINTS if counts[point]]
    assert earlier != before and {"link: after the swap", "ledger: before a commit"} <= set(reached)
    shutil.rmtree(source)
    for point in reached:
        folder = copied(corpus.later, place / "killed")
        assert corpus.server.run(folder, "", rollback=True, kill=[point, 1])["killed"]
        swapped = dataset(folder) == earlier
        assert swapped or dataset(folder) == before, point
        if swapped:  # a run, too, goes on from what is shown
            again = copied(folder, place / "again")
            corpus.server.run(again, "tonight")
            assert any(version.rolled_back_to for version in list_versions(Layout(again / "out"))), point
            shutil.rmtree(again)
        if point != "ledger: after a commit":  # where it had come to its end, and asked again goes on
            corpus.server.run(folder, "", rollback=True)
            assert dataset(folder) == earlier, point
        shutil.rmtree(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_does_so_at_once(corpus: Corpus, place: Path, number: int) -> None:
    """Amid a batch of 60 seconds, after some that were quick."""
    folder = copied(corpus.first, place / f"stopped{number}")
    corpus.server.run(folder, "tonight", kill=["checkpoint: before the write", 4])
    begin = time.monotonic()
    request = {"after": 3.0, "seed": 1, "signal": number, "slow": 60.0, "expect": 130}
    answer = corpus.server.run(folder, "tonight", **request)
    assert answer["code"] == 130 and time.monotonic() - begin < 13
    record = json.loads((folder / "out/_secbatch/runs/latest.json").read_text())
    assert (record["state"], record["exit_code"]) == ("interrupted", 130)
    corpus.check(corpus.first, folder)


def kill_at_random(corpus: Corpus, place: Path, kills: int, seed: int) -> Counter[str]:
    """Kills runs at moments and steps drawn by chance, up to four times each before it may come to its end."""
    chance = random.Random(seed)
    fell: Counter[str] = Counter()
    while fell.total() < kills:
        start = chance.choice([corpus.first, corpus.later])
        folder = copied(start, place / f"random{fell.total()}")
        for _ in range(chance.randint(1, 4)):
            if chance.random() < 0.5:
                seconds = corpus.seconds[start] * 1.1
                answer = corpus.server.run(folder, "tonight", after=seconds, seed=chance.random())
            else:  # the rare steps are short: moments alone would hardly fall into them
                rare = min(faults.POINTS, key=lambda point: (fell[point], chance.random()))
                answer = corpus.server.run(folder, "tonight", kill=[rare, chance.randint(1, 2)])
            if answer["killed"]:
                fell[answer["last"] or "before the first step"] += 1
        corpus.check(start, folder)
    return fell


def show(fell: Counter[str]) -> None:
    print()
    for point in ("before the first step", *faults.POINTS):
        print(f"{fell[point]:5d}  {point}")


def test_kills_at_random_moments(corpus: Corpus, place: Path) -> None:
    """Some of them; hundreds in the soak."""
    fell = kill_at_random(corpus, place, 20, seed=1)
    show(fell)
    assert fell.total() >= 20


@pytest.mark.soak
def test_many_kills_at_random_moments(corpus: Corpus, place: Path) -> None:
    fell = kill_at_random(corpus, place, 250, seed=2)
    show(fell)
    assert fell.total() >= 250 and all(fell[point] for point in faults.POINTS)
