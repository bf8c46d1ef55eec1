"""Models that were promoted on this host: a name, the versions it has had, and a lock file of hashes for each.

    REGISTRY/NAME/name.json                    which version is current, and what was promoted when, by whom, from where
    REGISTRY/NAME/versions/HASH/               a version: the model's folder, never changed
    REGISTRY/NAME/versions/HASH.lock.json      sha256 and size of each of its files

HASH is the sha256 of names and hashes of all files. This module reads; `secbatch.promotion` writes.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secbatch.errors import ModelError, UnfitModelError, nearest
from secbatch.home import expanded
from secbatch.models.content_hash import file_hash

SCHEMA = 1  # of name.json and the lock files; raised when a key changes its meaning
SHOWN_DIGITS = 12  # of a version's hash, where a person reads it
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HASH_START = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True)
class Promotion:
    """One line of a name's history."""

    action: str  # "promote" or "rollback"
    version: str  # hash: what the name means since then
    time: str  # ISO 8601, UTC
    by: str  # user
    host: str
    source: str  # the folder, catalog name or hub id that was promoted; for a rollback empty
    note: str = ""


@dataclass(frozen=True)
class RegisteredName:
    """What a name means, and how it came to that."""

    name: str
    current: str  # hash of a version
    earlier: tuple[str, ...]  # versions that a rollback leads to, the nearest last
    history: tuple[Promotion, ...]  # oldest first

    def as_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class RegisteredVersion:
    """A version whose files are what the lock file says."""

    name: str
    version: str
    folder: Path


class NoRegistryError(ModelError):
    """There is no place for promoted models, so there are none."""


def registry_folder() -> Path:
    """SECBATCH_MODELS; else secbatch/models in XDG_DATA_HOME; else ~/.local/share/secbatch/models.

    Raises NoRegistryError for a user without a home, as those of containers may be.
    """
    named = os.environ.get("SECBATCH_MODELS")
    if named:
        return expanded(named, "SECBATCH_MODELS", ModelError)
    data = os.environ.get("XDG_DATA_HOME")
    try:
        return (Path(data) if data else Path.home() / ".local" / "share") / "secbatch" / "models"
    except RuntimeError:
        raise NoRegistryError(
            "this user has no home for promoted models (HOME is not set); name a folder for them in SECBATCH_MODELS"
        ) from None


def may_be_registered(name: str) -> bool:
    """Whether `name` has the form of a registered one: no path, no owner/name."""
    return _NAME.fullmatch(name) is not None


def name_folder(name: str) -> Path:
    return registry_folder() / name


def version_folder(name: str, version: str) -> Path:
    return name_folder(name) / "versions" / version


def lock_file(name: str, version: str) -> Path:
    return name_folder(name) / "versions" / f"{version}.lock.json"


def registered(name: str) -> RegisteredName | None:
    """What is known of `name`, None when it was never promoted. Raises ModelError when its record is broken."""
    if not may_be_registered(name):
        return None
    try:
        path = name_folder(name) / "name.json"
    except NoRegistryError:
        return None
    values = _read(path)
    if values is None:
        return None
    try:
        history = tuple(Promotion(**entry) for entry in values["history"])
        record = RegisteredName(values["name"], values["current"], tuple(values["earlier"]), history)
    except (KeyError, TypeError):
        raise ModelError(f"{path} is no record of a promoted model; move it away and promote {name} again") from None
    versions = (record.current, *record.earlier)
    told = [*versions, *(value for entry in history for value in asdict(entry).values())]
    hashes = map(_HASH_START.fullmatch, versions)
    if record.name != name or not history or not all(isinstance(value, str) for value in told) or not all(hashes):
        raise ModelError(f"{path} is not the record of a promoted model {name}; move it away and promote it again")
    return record


def registered_names() -> list[str]:
    """All names that were promoted, sorted."""
    try:
        folder = registry_folder()
    except NoRegistryError:
        return []
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if (path / "name.json").is_file())


def kept_versions(name: str) -> list[str]:
    """Hashes of the versions of `name` that are on disk, sorted."""
    folder = name_folder(name) / "versions"
    known = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(version for version in known if re.fullmatch(r"[0-9a-f]{64}", version))


def find_version(record: RegisteredName, start: str) -> str:
    """The kept version of a name whose hash begins with `start`. Raises ModelError when it is not exactly one."""
    kept = kept_versions(record.name)
    found = [version for version in kept if version.startswith(start)] if _HASH_START.fullmatch(start) else []
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} versions beginning with" if found else "no version"
    shown = ", ".join(version[:SHOWN_DIGITS] for version in kept)
    raise UnfitModelError(f"promoted model {record.name} has {what} '{start}'; kept are {shown or 'none'}")


def registered_version(name: str, revision: str | None = None) -> RegisteredVersion | None:
    """The files that `name` means: its current version, or the one whose hash begins with `revision`.

    None when the name was never promoted. Raises ModelError when there is no such version, or when its files are not
    what its lock file says.
    """
    record = registered(name)
    if record is None:
        return None
    version = record.current if revision is None else find_version(record, revision)
    check(name, version)
    return RegisteredVersion(name, version, version_folder(name, version))


def check(name: str, version: str) -> None:
    """Raises ModelError, one sentence, unless the files of a version are exactly those of its lock file."""
    folder, path = version_folder(name, version), lock_file(name, version)
    advice = f"promote the model again, or go back with `secbatch models promote {name} --rollback`"
    called = f"promoted model {name} (version {version[:SHOWN_DIGITS]})"
    locked = _read(path)
    if locked is None or not folder.is_dir():
        raise ModelError(f"{called} is incomplete: {path if folder.is_dir() else folder} is missing; {advice}")
    try:
        files = {file: str(about["sha256"]) for file, about in locked["files"].items()}
        promoted = version_of(files) == version
    except (AttributeError, KeyError, TypeError, UnicodeEncodeError):
        promoted = False
    if not promoted:
        raise ModelError(
            f"{called} is not to be trusted: {path} is not the lock file that it was promoted with; {advice}"
        )
    present = {entry.name for entry in folder.iterdir()}
    for file in sorted(present ^ files.keys()):
        what = "is missing from" if file in files else "was added to"
        raise ModelError(f"{called} is not what was promoted: {file} {what} {folder}; {advice}")
    for file, wanted in sorted(files.items()):
        if (folder / file).is_symlink() or file_hash(folder / file) != wanted:
            raise ModelError(f"{called} is not what was promoted: {file} in {folder} was changed; {advice}")


def version_of(files: Mapping[str, str]) -> str:
    """The hash that names a version: of `files`' names and sha256."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def name_hint(name: str, known: list[str], likeness: float = 0.5) -> str:
    """As `nearest`, among `known` and the registered names."""
    return nearest(name, [*known, *registered_names()], likeness)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise ModelError(f"{path} cannot be read ({reason})") from None
    if not isinstance(values, dict) or values.get("schema", SCHEMA) not in range(SCHEMA + 1):
        raise ModelError(f"{path} was written by another release of secbatch")
    return values
