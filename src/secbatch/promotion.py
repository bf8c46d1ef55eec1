"""Giving a trained model a name that jobs can rely on, and taking it back. `models.registry` says what is where."""

import errno
import fcntl
import getpass
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secbatch import file_size_limit
from secbatch.errors import JobError, ModelError, UnfitModelError, cause
from secbatch.models import registry
from secbatch.models.catalog import CATALOG
from secbatch.models.content_hash import tokenizer_hash, unreadable, weight_files, weights_hash
from secbatch.models.registry import Promotion, RegisteredName
from secbatch.models.resolve import resolve
from secbatch.models.resolved import ResolvedModel
from secbatch.store.filesystem import SHORT_OF_FILES, rename, sync_file, sync_folder

WAIT_SECONDS = 120.0  # for another promotion, which copies gigabytes at most
# Beside the weights: configuration, tokenizer, model card and its figures. Checkpoints and pickles stay behind.
_KEPT = re.compile(r".+\.(json|txt|model|jinja|md|ya?ml|png|svg)|LICEN[CS]E.*|NOTICE.*")
_COPIED_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True)
class Promoted:
    """What came of it."""

    record: RegisteredName
    folder: Path
    before: str | None  # the version that was current until now
    left_out: tuple[str, ...] = ()  # entries of the folder that are no part of the model


def promote(name: str, model: str, note: str = "", shadow: bool = False) -> Promoted:
    """Copies `model` (a folder, or any name that jobs can use) into the registry and makes it what `name` means.

    Raises JobError for a name that cannot be, ModelError for a model that cannot run.
    """
    check_name(name, shadow)
    resolved = resolve(model)
    with _held():
        _refuse_twin(name)
        versions = registry.name_folder(name) / "versions"
        with _explained(versions):
            versions.mkdir(parents=True, exist_ok=True)
            _sweep()
            version, left_out = _copied(name, resolved, versions)
        before = registry.registered(name)
        record = _moved(name, before, version, _entry("promote", version, _origin(resolved, model), note))
        _write(registry.name_folder(name) / "name.json", record.as_json())
    return Promoted(record, registry.version_folder(name, version), before.current if before else None, left_out)


def roll_back(name: str, to: str | None = None, note: str = "") -> Promoted:
    """Makes `name` mean the version before the current one again, or the kept one whose hash begins with `to`.

    Raises ModelError when there is none, or when its files are not what was promoted.
    """
    with _held():
        record = known(name)
        if to is not None:
            version = registry.find_version(record, to)
        elif record.earlier:
            version = record.earlier[-1]
        else:
            raise ModelError(f"promoted model {name} has no earlier version to go back to")
        registry.check(name, version)
        entry = _entry("rollback", version, "", note)
        if to is None:
            moved = replace(record, current=version, earlier=record.earlier[:-1], history=(*record.history, entry))
        else:
            moved = _moved(name, record, version, entry)
        _write(registry.name_folder(name) / "name.json", moved.as_json())
    return Promoted(moved, registry.version_folder(name, version), record.current)


def remove(name: str) -> int:
    """Forgets a name and deletes all its versions; returns how many. Raises ModelError when there is no such name."""
    with _held():
        record = known(name)
        count = len(registry.kept_versions(name))
        folder = registry.name_folder(record.name)
        gone = folder.with_name(f".removed-{secrets.token_hex(6)}")
        with _explained(folder):
            rename(folder, gone)  # the name goes at once, its gigabytes afterwards
            _sweep()
    return count


def check_name(name: str, shadow: bool = False) -> None:
    """Raises JobError for a name that no promoted model can have."""
    if not registry.may_be_registered(name):
        raise JobError(
            f"'{name}' cannot be a model's name: it may have letters, digits, '.', '_' and '-', a letter or digit"
            " first, 100 characters at most"
        )
    if name in CATALOG and not shadow:
        raise JobError(
            f"'{name}' is a model of the catalog; choose another name, or say --shadow to have every job that names"
            f" {name} use your model instead"
        )


def _refuse_twin(name: str) -> None:
    for other in registry.registered_names():
        if other != name and other.casefold() == name.casefold():
            raise JobError(f"'{name}' differs from the promoted model {other} only by upper and lower case")


def known(name: str) -> RegisteredName:
    """The record of a promoted model. Raises ModelError when there is none of that name."""
    record = registry.registered(name)
    if record is None:
        raise UnfitModelError(f"there is no promoted model {name}{registry.name_hint(name, [])}")
    return record


def _moved(name: str, before: RegisteredName | None, version: str, entry: Promotion) -> RegisteredName:
    if before is None:
        return RegisteredName(name, version, (), (entry,))
    earlier = before.earlier if before.current == version else (*before.earlier, before.current)
    return RegisteredName(name, version, earlier, (*before.history, entry))


def _origin(resolved: ResolvedModel, model: str) -> str:
    if resolved.hub_id:
        return f"{resolved.hub_id}@{resolved.revision}"
    if resolved.promoted:
        return f"{model}@{resolved.promoted}"
    return _as_text(str(resolved.folder))


def _as_text(name: str) -> str:
    """What the system gives need not be UTF-8, and JSON takes nothing else."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _entry(action: str, version: str, source: str, note: str) -> Promotion:
    try:
        user = _as_text(getpass.getuser())
    except (KeyError, OSError):  # a container's user without a name
        user = f"user {os.getuid()}"
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    return Promotion(action, version, moment, user, socket.gethostname(), source, note)


def _copied(name: str, resolved: ResolvedModel, versions: Path) -> tuple[str, tuple[str, ...]]:
    """The hash of the version that `resolved` has become, and the entries of its folder that were left out."""
    weights = {path.name for path in weight_files(resolved.folder)}
    try:
        entries = sorted(path for path in resolved.folder.iterdir() if not path.name.startswith("."))
    except OSError as error:  # of the model, not of the registry
        raise unreadable(resolved.folder, error) from None
    kept = [path for path in entries if path.is_file() and (path.name in weights or _KEPT.fullmatch(path.name))]
    temporary = versions / f".copy-{secrets.token_hex(6)}"
    try:
        temporary.mkdir()
        files = {path.name: _copy(path, temporary / path.name) for path in kept}
        _check_runs(resolved, temporary)
        sync_folder(temporary)
        version = registry.version_of({file: about["sha256"] for file, about in files.items()})
        place = versions / version
        if place.exists():
            try:
                registry.check(name, version)
            except ModelError:  # what stands there was damaged: the copy takes its place
                shutil.rmtree(place)
        lock = {"schema": registry.SCHEMA, "version": version, "weights": resolved.weights_hash, "files": files}
        _write(registry.lock_file(name, version), lock)
        if not place.exists():
            rename(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return version, tuple(path.name for path in entries if path not in kept)


def _copy(source: Path, target: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as writer:
        for block in _blocks(source):
            digest.update(block)
            size += writer.write(block)
    target.chmod(0o444)
    sync_file(target)
    return {"sha256": digest.hexdigest(), "bytes": size}


def _blocks(source: Path) -> Iterator[bytes]:
    """Raises ModelError for a file of the model that cannot be read, of which the registry knows nothing."""
    try:
        with source.open("rb") as reader:
            while block := reader.read(_COPIED_AT_ONCE):
                yield block
    except OSError as error:
        raise unreadable(source, error) from None


def _check_runs(resolved: ResolvedModel, copy: Path) -> None:
    """Raises ModelError for a copy that no job could load, before the name means it."""
    from safetensors import SafetensorError, safe_open

    from secbatch.models.tokenizer_files import load_tokenizer

    if (weights_hash(copy), tokenizer_hash(copy)) != (resolved.weights_hash, resolved.tokenizer_hash):
        raise ModelError(f"model {resolved.name} was changed while it was being copied; promote it when it is finished")
    load_tokenizer(replace(resolved, folder=copy))
    for path in weight_files(copy):
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="numpy"):
                    pass
            except (SafetensorError, OSError) as error:
                raise ModelError(f"model {resolved.name}: {path.name} is broken ({cause(error)})") from None


def _sweep() -> None:
    """What killed promotions and removals, of whatever name, have left behind: gigabytes that nobody would look for."""
    folder = registry.registry_folder()
    for pattern in (".removed-*", "*/versions/.copy-*"):  # the second only then: it finds what is in the first, too
        for left in list(folder.glob(pattern)):
            shutil.rmtree(left)


def _write(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with _explained(path):
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        sync_file(temporary)
        rename(temporary, path)


@contextmanager
def _held() -> Iterator[None]:
    """One change of the registry at a time; readers never wait."""
    folder = registry.registry_folder()
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # as umask allows
    try:
        _wait(lambda: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB), folder)
        yield
    finally:
        os.close(handle)


def _wait(lock: Callable[[], None], folder: Path) -> None:
    begin = time.monotonic()
    while True:
        try:
            return lock()
        except BlockingIOError:
            if time.monotonic() - begin > WAIT_SECONDS:
                raise ModelError(
                    f"another promotion holds the registry '{folder}'; try again when it has ended"
                ) from None
            time.sleep(0.05)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"the disk of the registry '{path}' is full; free space and promote again") from None
        if file_size_limit.refused(error, path):
            raise file_size_limit.beyond_limit(f"A file of the registry '{path}'") from None
        mend = "name another folder in SECBATCH_MODELS"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            mend = f"mend its rights, or {mend}"
        elif error.errno in SHORT_OF_FILES:
            mend = "let the process have more open files (ulimit -n)"
        raise ModelError(f"the registry '{path}' cannot be written ({error.strerror or error}); {mend}") from None
