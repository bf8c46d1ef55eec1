"""What must hold for any bytes that are given as input or as a job: a result or one sentence, in bounded time.

Shared by the hypothesis tests and the coverage-guided fuzzer. Each check takes bytes and raises AssertionError,
or whatever the code under test should not have raised.
"""

import csv
import io
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pydantic_core

from secbatch.cli.terminal import printable, sentence
from secbatch.errors import InputError, JobError, SecbatchError
from secbatch.job import Input
from secbatch.jobfile import load_job
from secbatch.sources.open import open_source
from secbatch.sources.signatures import compression_of
from secbatch.sources.streams import BYTE_ORDER_MARKS

HANG_SECONDS = 20.0
HEADER = b"a,b\n"


class Folder:
    """One place for all cases of a process: a new file for each would cost more than the check."""

    def __init__(self) -> None:
        self._made = tempfile.TemporaryDirectory(prefix="secbatch-fuzz-")
        self.path = Path(self._made.name)

    def file(self, name: str, content: bytes) -> Path:
        path = self.path / name
        path.unlink(missing_ok=True)  # ext4 flushes a file that is cut to nothing and written again
        path.write_bytes(content)
        return path


_folder: list[Folder] = []


def written(name: str, content: bytes) -> Path:
    if not _folder:
        _folder.append(Folder())
    return _folder[0].file(name, content)


@contextmanager
def bounded() -> Iterator[None]:
    """Raises TimeoutError when the body takes longer than HANG_SECONDS."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still at work after {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_one_sentence(error: SecbatchError) -> None:
    text = str(error)
    assert text.strip() and len(text) < 20_000, text
    shown = sentence(text)
    assert (
        printable(shown) == shown and "\n" not in shown and "Traceback" not in shown and " object at 0x" not in shown
    ), shown


def rows_of(path: Path, **spec: Any) -> tuple[pa.Table, int, bool] | None:
    """(the rows, how many pieces were rejected, whether a file broke off); None where the input is refused."""
    with bounded():
        try:
            source = open_source(Input(path=str(path), **spec), lambda index: 7)
            shards = list(source.shards())
        except (InputError, JobError) as error:
            is_one_sentence(error)
            return None
    rejects = [reject for shard in shards for reject in shard.rejects]
    for shard in shards:
        assert len(shard.source) == len(shard.row) == shard.num_rows
        assert all(0 <= place < shard.num_rows and text for place, text in shard.errors.items())
        shard.table.validate(full=True)
    assert all(reject.reason for reject in rejects)
    table = pa.concat_tables([shard.table for shard in shards]) if shards else source.schema.empty_table()
    return table, len(rejects), any(reject.whole_file for reject in rejects)


def check_csv(content: bytes, encoding: str | None = None) -> None:
    found = rows_of(written("in.csv", content), encoding=encoding)
    expected = _by_the_csv_module(content) if encoding is None else None
    if expected is not None:
        assert found is not None, content
        header, rows = expected
        assert found[0].column_names == header
        assert [list(row.values()) for row in found[0].to_pylist()] == rows
        assert found[1] == 0


def _by_the_csv_module(content: bytes) -> tuple[list[str], list[list[str]]] | None:
    """Header and rows by Python's own parser, where both agree on what the format is; None elsewhere."""
    if not content.startswith(HEADER) or b"\r" in content:
        return None
    with suppress(UnicodeDecodeError, csv.Error):
        text = content.decode("utf-8")
        records = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        if not text.endswith("\n") and text.count('"') % 2:
            return None  # a field that is open at the end of the file
        rows = [record for record in records[1:] if record]
        blank = any(len(row) == 1 and not row[0].strip(" \t") for row in rows)
        if not blank and all(len(row) == 2 for row in rows):
            return records[0], rows
    return None


def check_jsonl(content: bytes) -> None:
    found = rows_of(written("in.jsonl", content))
    kinds = [_kind_of_line(line) for line in content.split(b"\n") if line.strip(b" \t\r")]
    plain = compression_of(content) is None and not any(content.startswith(mark) for mark, _ in BYTE_ORDER_MARKS)
    if found is None or found[2] or not plain or None in kinds:
        return
    assert found[0].num_rows == kinds.count("row"), (found[0].num_rows, kinds)
    assert found[1] == kinds.count("reject")


def _kind_of_line(line: bytes) -> str | None:
    """What a line is by another JSON parser (jiter, in Rust); None where the two may differ in taste."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return "reject"
    try:
        value = pydantic_core.from_json(line)
    except ValueError:
        # Lone surrogates, raw control characters and depth are a matter of taste: Python's parser decides.
        return None if b"\\u" in line or line.count(b"[") + line.count(b"{") > 50 else "reject"
    return "row" if isinstance(value, dict) else "reject"


def check_parquet(content: bytes) -> None:
    path = written("in.parquet", content)
    found = rows_of(path)
    if found is None or found[2]:
        return  # refused or broken off with a sentence: more careful than read_table is fine
    try:  # only now: of a damaged footer read_table believes sizes beyond all memory
        whole = pq.read_table(path, page_checksum_verification=True, partitioning=None)
    except (pa.ArrowException, OSError, ValueError):
        return
    assert found[0].num_rows == whole.num_rows


def check_job(content: bytes) -> None:
    path = written("job.yaml", content)
    with bounded():
        try:
            job = load_job(str(path))
        except JobError as error:
            is_one_sentence(error)
            return
    assert job.name and job.tasks
    assert job.rejects_allowed(100) >= 0
