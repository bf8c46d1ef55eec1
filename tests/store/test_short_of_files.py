"""Files of an output that the system has no room to open: they are not damaged, and nothing is made again for it."""

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fake_task import install_in
from nights import LINES, done, job, rows, write

from secbatch.errors import OutputError
from secbatch.runner import run_job
from secbatch.store.row_keys import StoredKeys

LACKS = {errno.EMFILE: "let the process have more open files", errno.ENOMEM: "see what has taken the memory"}


@pytest.mark.parametrize("lack", LACKS)
@pytest.mark.parametrize("what", ["parts", "keys"])
def test_a_run_ends_and_makes_nothing_again(
    what: str, lack: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = install_in(tmp_path, monkeypatch, (30,))
    write("a.csv", "id,text,note", *LINES)
    spec = {"input__id": ["id"]}
    assert done(counter, **spec) == 100
    write("a.csv", "id,text,note", *LINES, "100,one more,")

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(lack, f"[errno {lack}] Failed to open local file. Detail: {os.strerror(lack)}")

    with monkeypatch.context() as patch:
        if what == "parts":
            patch.setattr(pq, "ParquetFile", refuse)
        else:
            patch.setattr(StoredKeys, "checked", refuse)
        with pytest.raises((OutputError, OSError)) as raised:
            run_job(job(**spec))
        if what == "parts":
            assert f"cannot be read ({os.strerror(lack)}); {LACKS[lack]}" in str(raised.value)
    run_job(job(**spec))
    assert counter.rows == len(rows()) == 101
