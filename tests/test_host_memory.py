"""Memory, threads or open files that run out while files are read: none is taken for corrupt, and no row for lost."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_task import install_in
from nights import job, rows

from secbatch.cli.main import _run
from secbatch.errors import InputError, SecbatchError, SourceLostError
from secbatch.runner import run_job

FAULTS: dict[str, tuple[Exception, str]] = {
    "memory, Arrow's": (
        pa.lib.ArrowMemoryError("malloc of size 64 failed"),
        "memory ran out (malloc of size 64 failed)",
    ),
    "memory, Python's": (MemoryError(), "memory ran out: the machine's, or what the process may have of it"),
    "threads": (
        pa.ArrowException("Unknown error: Failed to launch worker thread: Again"),
        "the system lets this process start no more threads",
    ),
}
TEXTS = [f"row {number}" for number in range(40)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["parquet", "compressed", "footer"])
def test_such_a_run_ends_with_a_sentence_and_goes_on(
    kind: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_in(tmp_path, monkeypatch, (10,))
    error, sentence = FAULTS[fault]
    if kind == "compressed":
        with pa.CompressedOutputStream("a.csv.gz", "gzip") as file:
            file.write("\n".join(["text", *TEXTS, ""]).encode())
    else:
        pq.write_table(pa.table({"text": TEXTS}), "a.parquet", row_group_size=10)
    spec = job(input={"path": "a.csv.gz" if kind == "compressed" else "a.parquet"})

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    read = pq.ParquetFile.iter_batches

    def once(file: Any, *arguments: Any, row_groups: list[int], **named: Any) -> Any:
        return refuse() if row_groups == [2] else read(file, *arguments, row_groups=row_groups, **named)

    class Cramped(pa.CompressedInputStream):
        read = refuse

    with monkeypatch.context() as patch:
        match kind:
            case "parquet":
                patch.setattr(pq.ParquetFile, "iter_batches", once)
            case "footer":
                patch.setattr(pq, "ParquetFile", refuse)
            case _:
                patch.setattr(pa, "CompressedInputStream", Cramped)
        with pytest.raises((SecbatchError, type(error))) as said:
            run_job(spec)
    assert not isinstance(error, MemoryError) or str(said.value).startswith(f"'{spec.input.path}' cannot be read: ")
    if kind == "parquet":  # it had begun
        record = json.loads(Path("out/_secbatch/runs/latest.json").read_text())
        assert sentence in record["error"] and not record["counts"]["unreadable_files"]
    monkeypatch.setattr("secbatch.cli.main.cli.main", refuse)
    assert _run(["run", "x"]) == 1
    assert capsys.readouterr().err.startswith(f"Error: {sentence[0].upper()}{sentence[1:]}")
    result = run_job(spec)
    assert not result.rejected and not result.unreadable_files
    assert sorted(rows()["text"]) == sorted(TEXTS)


@pytest.mark.parametrize(
    "of_system", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES]
)
@pytest.mark.parametrize("method", ["iter_batches", "__init__", "decompression"])
def test_a_file_that_the_system_does_not_give_now_is_not_corrupt(
    method: str, of_system: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_in(tmp_path, monkeypatch, (10,))
    pq.write_table(pa.table({"text": TEXTS}), "a.parquet", row_group_size=10)
    with pa.CompressedOutputStream("a.csv.gz", "gzip") as file:
        file.write("\n".join(["text", *TEXTS, ""]).encode())
    spec = job(input={"path": "a.csv.gz" if method == "decompression" else "a.parquet"})

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(of_system, os.strerror(of_system))

    class Away(pa.CompressedInputStream):
        read = refuse

    with monkeypatch.context() as patch:
        if method == "decompression":
            patch.setattr(pa, "CompressedInputStream", Away)
        else:
            patch.setattr(pq.ParquetFile, method, refuse)
        said = f"cannot be read: .*{os.strerror(of_system)}"
        kind, said = (InputError, "permission denied") if of_system == errno.EACCES else (SourceLostError, said)
        with pytest.raises(kind, match=f"'{spec.input.path}' .*{said}"):
            run_job(spec)
    assert not run_job(spec).unreadable_files
    assert sorted(rows()["text"]) == sorted(TEXTS)
