"""An object store with bad moments: nothing is lost, nothing is doubled, and damage is told from absence."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from helpers import rejects_of, shards_of, table_of, written

from secbatch.errors import InputError, SourceLostError
from secbatch.patience import patiently

NUMBERS = list(range(200_000))


class FlakyFile:
    def __init__(self, file: Any, store: "FlakyStore") -> None:
        self._file, self._store = file, store

    def read(self, size: int = -1) -> bytes:
        self._store.trouble("read")
        return bytes(self._file.read(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class FlakyStore(pafs.FileSystemHandler):
    """A folder that fails as `troubles` says: (what, error) pairs, each met once."""

    def __init__(self, folder: Path) -> None:
        self._local = pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem())
        self.troubles: list[tuple[str, Exception]] = []
        self.calls = 0

    def trouble(self, what: str) -> None:
        self.calls += 1
        if self.troubles and self.troubles[0][0] == what:
            raise self.troubles.pop(0)[1]

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        self.trouble("list")
        return list(self._local.get_file_info(paths))

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        self.trouble("list")
        return list(self._local.get_file_info(selector))

    def open_input_file(self, path: str) -> pa.NativeFile:
        self.trouble("open")
        return pa.PythonFile(FlakyFile(self._local.open_input_file(path), self), mode="r")

    def get_type_name(self) -> str:
        return "flaky"

    def normalize_path(self, path: str) -> str:
        return path

    def _refused(self, *_: Any) -> Any:
        raise NotImplementedError("read only")

    open_input_stream = open_output_stream = open_append_stream = _refused
    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _refused
    move = copy_file = _refused


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyStore]:
    flaky = FlakyStore(tmp_path)
    filesystem = pafs.PyFileSystem(flaky)
    monkeypatch.setattr("secbatch.sources.paths.from_uri", lambda uri: (filesystem, uri.removeprefix("flaky://")))
    monkeypatch.setattr("secbatch.patience.time.sleep", lambda seconds: None)
    yield flaky


def files(folder: Path) -> dict[str, bytes]:
    text = "n\n" + "".join(f"{n}\n" for n in NUMBERS)
    pq.write_table(pa.table({"n": [str(n) for n in NUMBERS]}), folder / "a.parquet", row_group_size=50_000)
    jsonl = "".join(f'{{"n": "{n}"}}\n' for n in NUMBERS)
    return {
        "a.csv": text.encode(),
        "a.csv.gz": gzip.compress(text.encode(), 1),
        "a.jsonl": jsonl.encode(),
        "a.parquet": (folder / "a.parquet").read_bytes(),
    }


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.parquet"])
def test_failures_that_pass_cost_no_row(name: str, store: FlakyStore, tmp_path: Path) -> None:
    written(tmp_path, f"b/{name}", files(tmp_path)[name])
    troubles = [OSError("AWS Error NETWORK_CONNECTION"), ConnectionResetError(104, "reset"), TimeoutError("timed out")]
    store.troubles = [("list", troubles[0]), ("open", troubles[1]), *(("read", trouble) for trouble in troubles)]
    shards = shards_of(f"flaky://b/{name}", rows=30_000)
    assert table_of(shards).column("n").to_pylist() == [str(n) for n in NUMBERS]
    assert not rejects_of(shards) and not store.troubles
    assert store.calls > 8


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_a_store_that_stays_away_is_no_damaged_file(name: str, store: FlakyStore, tmp_path: Path) -> None:
    written(tmp_path, f"b/{name}", files(tmp_path)[name])
    store.troubles = [("read", OSError("AWS Error SLOW_DOWN"))] * 100
    store.trouble = lambda what: _always(store, what)  # type: ignore[method-assign]
    with pytest.raises(SourceLostError, match=r"flaky://b/a.* after 7 attempts \(AWS Error SLOW_DOWN\); finished work"):
        shards_of(f"flaky://b/{name}")


def _always(store: FlakyStore, what: str) -> None:
    if what == "read":
        raise store.troubles.pop()[1]


def test_an_answer_that_will_not_change_is_not_asked_for_again(store: FlakyStore, tmp_path: Path) -> None:
    written(tmp_path, "b/a.csv", b"n\n1\n")
    asked = 0

    def refuses(what: str) -> None:
        nonlocal asked
        asked += what == "list"
        if what == "list":
            raise OSError("When listing: AWS Error ACCESS_DENIED during ListObjectsV2")

    store.trouble = refuses  # type: ignore[method-assign]
    with pytest.raises(InputError, match="ACCESS_DENIED"):
        shards_of("flaky://b/a.csv")
    assert asked == 1


def test_waits_grow_and_differ() -> None:
    waited: list[float] = []

    def fails() -> None:
        raise OSError("again")

    with pytest.raises(OSError, match="again"):
        patiently(fails, 9, lambda error: True, waited.append)
    assert len(waited) == 8
    for number, seconds in enumerate(waited):
        longest = min(20.0, 0.5 * 2**number)
        assert longest / 2 <= seconds <= longest
    assert len(set(waited)) == 8
    tries: list[int] = []
    with pytest.raises(OSError, match="again"):
        patiently(lambda: tries.append(1) or fails(), 9, lambda error: False, waited.append)
    assert len(tries) == 1
