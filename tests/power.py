"""A disk that loses power: what may be left of recorded steps when all that was not synced is forgotten.

Names and contents are kept twice, as processes see them and as they surely stand on the disk. A file's content
reaches the disk by an fsync of the file, a name by an fsync of its folder; until then it may be there or not. Each
committed transaction of the ledger counts as synced (SQLite does so, with synchronous = FULL).
"""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = tuple[Any, ...]  # operation, path, details: as `secbatch.store.faults.record` has them
State = dict[str, tuple[Any, ...]]  # path -> what stands there; hard links share the number of their file
PASSING = ("lock", "scratch", "progress.json", ".progress.json.tmp", "ledger.sqlite-wal", "ledger.sqlite-shm")


@dataclass(eq=False)
class File:
    content: bytes = b""
    synced: bytes = b""


@dataclass(eq=False)
class Link:
    target: str


@dataclass(eq=False)
class Folder:
    names: dict[str, Any] = field(default_factory=dict)
    synced: dict[str, Any] = field(default_factory=dict)
    pending: list[dict[str, Any]] = field(default_factory=list)  # changes since; None: the name goes

    def change(self, **names: Any) -> None:
        for name, node in names.items():
            if node is None:
                self.names.pop(name, None)
            else:
                self.names[name] = node
        self.pending.append(names)

    def sync(self) -> None:
        self.synced, self.pending = dict(self.names), []


def ledger_content(path: Path) -> bytes:
    """What the ledger would be read as now, in one file."""
    with sqlite3.connect(path) as disk, sqlite3.connect(":memory:") as copy:
        disk.backup(copy)
        content: bytes = copy.serialize()
    disk.close()
    copy.close()
    return content


class Disk:
    """Starts with all that lies in a folder, synced; then `apply` follows what was recorded there."""

    def __init__(self, folder: Path) -> None:
        self._known: dict[int, File] = {}
        self.root = self._load(folder)

    def _load(self, folder: Path) -> Folder:
        loaded = Folder()
        for path in sorted(folder.iterdir()):
            if path.name in PASSING:
                continue
            if path.is_symlink():
                loaded.names[path.name] = Link(os.fspath(path.readlink()))
            elif path.is_dir():
                loaded.names[path.name] = self._load(path)
            else:
                content = ledger_content(path) if path.name == "ledger.sqlite" else path.read_bytes()
                loaded.names[path.name] = self._known.setdefault(path.stat().st_ino, File(content, content))
        loaded.sync()
        return loaded

    def _folder(self, path: Path) -> Folder:
        node = self.root
        for name in path.parts:
            node = node.names[name]
        return node

    def apply(self, operation: str, path: Path, *details: Any) -> None:
        folder, name = self._folder(path.parent), path.name
        if operation == "folder":
            folder.change(**{name: Folder()})
        elif operation == "create":
            folder.change(**{name: File()})
        elif operation == "write":
            file, (start, data) = folder.names[name], details
            file.content = file.content[:start].ljust(start, b"\0") + data + file.content[start + len(data) :]
        elif operation == "fsync":
            if name not in folder.names:  # not written through the hooks: known from its fsync on
                folder.change(**{name: File(details[0])})
            file = folder.names[name]
            assert file.content == details[0], f"writes to {path} were not recorded"
            file.synced = file.content
        elif operation == "fsync folder":
            self._folder(path).sync()
        elif operation == "link":
            self._folder(details[0].parent).change(**{details[0].name: folder.names[name]})
        elif operation == "symlink":
            folder.change(**{name: Link(details[0])})
        elif operation == "rename":
            assert details[0].parent == path.parent
            folder.change(**{name: None, details[0].name: folder.names[name]})
        elif operation == "remove":
            folder.change(**{name: None})
        elif operation == "remove tree":
            self._empty(folder.names[name])
            folder.change(**{name: None})
        elif operation == "commit":
            file = folder.names.get(name) or File()
            file.content = file.synced = details[0]
            folder.names[name] = folder.synced[name] = file
        else:
            raise AssertionError(f"{operation} {path} is not known")

    def _empty(self, folder: Folder) -> None:
        for name, node in list(folder.names.items()):
            if isinstance(node, Folder):
                self._empty(node)
            folder.change(**{name: None})

    def seen(self) -> State:
        """As processes see it: what a kill without a power loss leaves."""
        return self._state(lambda: True, lambda file: file.content)

    def left(self, name_survives: Callable[[], bool], share: Callable[[], float]) -> State:
        """After a power loss. Asked for each unsynced name, and how much of a file's unsynced content survives."""

        def content(file: File) -> bytes:
            if file.content == file.synced:
                return file.synced
            return file.content[: int(len(file.content) * share())] or file.synced

        return self._state(name_survives, content)

    def _state(self, survives: Callable[[], bool], content: Callable[[File], bytes]) -> State:
        state: State = {}
        contents: dict[File, tuple[int, bytes]] = {}

        def walk(folder: Folder, place: str) -> None:
            names = dict(folder.synced)
            for change in folder.pending:
                if survives():
                    names.update(change)
            for name, node in sorted(names.items()):
                path = f"{place}{name}"
                if isinstance(node, Folder):
                    state[path] = ("folder",)
                    walk(node, f"{path}/")
                elif isinstance(node, Link):
                    state[path] = ("link", node.target)
                elif node is not None:
                    if node not in contents:
                        contents[node] = (len(contents), content(node))
                    state[path] = ("file", *contents[node])

        walk(self.root, "")
        return state


def write_state(state: State, target: Path) -> Path:
    target.mkdir()
    written: dict[int, Path] = {}
    for name, (kind, *what) in state.items():  # folders stand before what is in them
        path = target / name
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(what[0])
        elif what[0] in written:
            path.hardlink_to(written[what[0]])
        else:
            path.write_bytes(what[1])
            written[what[0]] = path
    return target
