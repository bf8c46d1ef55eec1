"""A limit on the size of files (`ulimit -f`) that a run meets, at whichever of its files that is."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_task import Counter, install_in
from nights import WITH_ID, job, rows, write

from secbatch import file_size_limit
from secbatch.errors import OutputError
from secbatch.runner import run_job

LINES = [f"{n},{n * 7919 % 100_003} {n * 104_729 % 999_983} {n},note" for n in range(6000)]


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    counter = install_in(tmp_path, monkeypatch, (500,))
    write("a.csv", "id,text,note", *LINES)
    return counter


@pytest.fixture
def limit() -> Iterator[Callable[[int | None], None]]:
    """`limit(bytes)`; None takes it away again."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set_to(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before if size is None else size, most))

    yield set_to
    set_to(None)


@pytest.mark.parametrize("kib", [8, 40, 100, 130, 300])
def test_the_sentence_names_the_limit_and_nothing_is_lost(counter: Counter, limit: Callable, kib: int) -> None:
    limit(kib << 10)
    with pytest.raises(OutputError, match=rf"larger than the {kib << 10:,} bytes .*; raise the limit \(ulimit -f"):
        run_job(job(input=WITH_ID))
    assert kib > 8 or not Path("out").exists()
    limit(None)
    run_job(job(input=WITH_ID))
    assert len(rows()) == len(LINES)
    assert counter.rows < 2 * len(LINES) or kib < 100


def test_other_failures_of_a_disk_are_no_limit(limit: Callable) -> None:
    error = OSError(27, "File too large")  # of a file system that takes no larger ones
    assert file_size_limit.refused(error, "x") is None
    limit(1 << 30)
    assert file_size_limit.refused(error, "x") is not None
    assert file_size_limit.refused(OSError(5, "Input/output error"), "x") is None
