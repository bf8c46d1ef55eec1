"""Files that become durable together: what the disk is asked for, and in which order."""

import io
import os
from pathlib import Path
from typing import Any

import pytest

from secbatch.errors import OutputError
from secbatch.store.durable_files import DurableFiles
from secbatch.store.filesystem import FEW, WatchedFile


def content(temporary: Path) -> None:
    temporary.write_text("content")


def test_files_are_synced_before_their_names_and_folders_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path]] = []
    fsync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        asked.append(("fsync", Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    def renamed(path: Path, target: Path) -> Path:
        asked.append(("rename", target))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    (tmp_path / "old").mkdir()
    paths = [tmp_path / "new" / "deep" / "a", tmp_path / "new" / "deep" / "b", tmp_path / "old" / "c"]
    with DurableFiles() as files:
        for path in paths:
            files.write(path, content)
        assert not any(path.exists() for path in paths)
    assert [path.read_text() for path in paths] == ["content"] * 3
    named = [asked.index(("rename", path)) for path in paths]
    contents = [asked.index(("fsync", path.with_name(f".{path.name}.tmp"))) for path in paths]
    assert max(contents) < min(named)
    for folder in (tmp_path / "new/deep", tmp_path / "new", tmp_path, tmp_path / "old"):  # names of new folders, too
        assert ("fsync", folder) in asked[max(named) :]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def full(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    files = DurableFiles()
    with pytest.raises(OutputError, match="b"), files:
        files.write(tmp_path / "a", content)
        files.write(tmp_path / "b", full)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, FEW + 1])
def test_what_a_disk_refuses_at_the_end_leaves_nothing(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refused(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().name == ".0.tmp":
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OutputError, match=r"disk of .* is full"), DurableFiles() as files:
        for number in range(count):
            files.write(tmp_path / str(number), content)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_turns_read_only_is_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fsync", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(OutputError, match=r"is not writable \(Read-only file system\)"), DurableFiles() as files:
        files.write(tmp_path / "a", content)


def test_a_write_that_a_disk_takes_in_parts_is_whole(tmp_path: Path) -> None:
    class Nearly(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(memoryview(data)[:7])

    class Watched(WatchedFile, Nearly):
        pass

    with Watched(tmp_path / "a", "part") as file:
        assert file.write(b"a row of the dataset, ") == 22 and file.write(b"and another") == 11
    assert (tmp_path / "a").read_bytes() == b"a row of the dataset, and another"
