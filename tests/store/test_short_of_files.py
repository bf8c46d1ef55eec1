"""Files of an output that the system has no room to open: they are not damaged, and nothing is made again for it."""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fake_task import install_in
from nights import LINES, done, job, rows, write

from secbatch.errors import OutputError
from secbatch.finished_shards import FinishedShards
from secbatch.runner import run_job
from secbatch.store.ledger import Ledger
from secbatch.store.row_keys import StoredKeys

LACKS = {errno.EMFILE: "let the process have more open files", errno.ENOMEM: "see what has taken the memory"}


def refusing(lack: int) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(lack, f"[errno {lack}] Failed to open local file. Detail: {os.strerror(lack)}")

    return refuse


@pytest.mark.parametrize("lack", LACKS)
def test_a_run_ends_and_makes_nothing_again(lack: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = install_in(tmp_path, monkeypatch, (30,))
    write("a.csv", "id,text,note", *LINES)
    spec = {"input__id": ["id"]}
    assert done(counter, **spec) == 100
    write("a.csv", "id,text,note", *LINES, "100,one more,")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetFile", refusing(lack))
        with pytest.raises(OutputError, match=rf"cannot be read \({os.strerror(lack)}\); {LACKS[lack]}"):
            run_job(job(**spec))
    run_job(job(**spec))
    assert counter.rows == len(rows()) == 101


@pytest.mark.parametrize("lack", LACKS)
def test_checkpoints_of_a_run_that_goes_on_are_kept(lack: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = install_in(tmp_path, monkeypatch, (30,))
    write("a.csv", "id,text,note", *LINES)

    publish = FinishedShards.publish

    def ends_before_the_last(finished: FinishedShards, final: bool) -> None:
        if final:  # all is computed, and durable
            raise RuntimeError
        publish(finished, final)

    with monkeypatch.context() as patch:
        patch.setattr(FinishedShards, "publish", ends_before_the_last)
        with pytest.raises(RuntimeError):
            run_job(job())
    assert counter.rows == 100
    with monkeypatch.context() as patch:
        patch.setattr(StoredKeys, "checked", refusing(lack))
        with pytest.raises(OutputError, match=rf"cannot be read \({os.strerror(lack)}\); {LACKS[lack]}"):
            run_job(job())
    run_job(job())
    assert counter.rows == len(rows()) == 100


def test_a_ledger_for_which_there_are_no_open_files_left(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for look in (Ledger, Ledger.read_only):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
        try:
            with pytest.raises(
                OutputError, match=r"\.sqlite' cannot be .*; let the process have more open files \(ulimi"
            ):
                look(path)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
