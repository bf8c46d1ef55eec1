"""A ledger that is gone, damaged or ahead of the files, made anew from the versions, the parts and their row keys."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from secbatch.errors import counted
from secbatch.store.filesystem import link_durably, make_folder, remove_file, rename, settle_names
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.ledger_errors import DamagedLedgerError
from secbatch.store.ledger_records import Checkpoint, Part, Publication
from secbatch.store.merge import SUPERSEDED
from secbatch.store.parts import DamagedPartError, is_part_of, opened, readable
from secbatch.store.row_keys import DamagedKeysError, StoredKeys
from secbatch.store.versions import complete, folder_name, link_name, part_name, publish

SETTINGS = ("id", "sentences", "partition_by")


def open_ledger(layout: Layout) -> tuple[Ledger, str | None]:
    """The ledger of an output that this process holds, and what is to be said when it had to be made anew."""
    ledger, notice = _opened(layout)
    newest = ledger.newest_run()
    if newest is None or newest.state != "finished":
        settle_names(layout.root, layout.internal)
    return ledger, notice


def look_at_ledger(layout: Layout, scratch: Path) -> tuple[Ledger | None, str | None]:
    """The ledger as `open_ledger` would have it, for who changes nothing: one that is gone or damaged is made anew in
    the folder `scratch`, which is said. None where there is no dataset.

    Parts that are gone or damaged are met when they are read.
    """
    if not _is_lost(layout):
        if not layout.ledger.exists():
            return None, None
        try:
            return Ledger.read_only(layout.ledger), None
        except DamagedLedgerError:
            pass
    ledger = Ledger(scratch / layout.ledger.name)
    versions = counted(_restore(layout, ledger, mend=False), "version")
    return ledger, (
        f"The ledger of '{layout.root}' is gone or damaged; a run makes a new one from the parts of {versions}."
    )


def _is_lost(layout: Layout) -> bool:
    """SQLite takes an empty file for a new ledger: then nothing of the dataset would be known."""
    return layout.data.is_symlink() and (not layout.ledger.exists() or not layout.ledger.stat().st_size)


def _opened(layout: Layout) -> tuple[Ledger, str | None]:
    if not _is_lost(layout):
        try:
            ledger = Ledger(layout.ledger)
        except DamagedLedgerError as error:
            aside = _set_aside(layout)
            what = f"The ledger was damaged ({error.why}) and is kept as {aside.name}"
        else:
            complete(layout, ledger)
            gone = _gone(layout, ledger)
            if not gone:
                _put_in_order(layout, ledger)
                return ledger, None
            ledger.check_in_place()  # or they are gone with all of the output
            ledger.close()
            aside = _set_aside(layout)
            what = (
                f"{counted(len(gone), 'file')} of the dataset in '{layout.root}' {'is' if len(gone) == 1 else 'are'}"
                f" gone or damaged (parts/{gone[0]}): rows of the input that were there are done again, others are "
                f"lost. The ledger that names what was there is kept as {aside.name}"
            )
    else:
        what = f"The ledger of '{layout.root}' was {'empty' if layout.ledger.exists() else 'gone'}"
    versions = _made_anew(layout)
    made = f"a new one was made from the parts of {counted(versions, 'version')}"
    ledger = Ledger(layout.ledger)
    _put_in_order(layout, ledger)
    return ledger, f"{what}; {made}."


def _put_in_order(layout: Layout, ledger: Ledger) -> None:
    """Publishes the newest version anew where the names in its folder are not those that its parts have by their order.

    They are not once a part is lost, for the others keep the numbers that they had.
    """
    number = ledger.latest_version()
    parts = ledger.version_parts(number)
    named = {link_name(position, file) for position, part in enumerate(parts) for file in part.files}
    links = _links(layout.versions / folder_name(number))
    if (
        parts
        and links
        and named != {path.relative_to(layout.versions / folder_name(number)).as_posix() for path in links}
    ):
        when = datetime.now(UTC).isoformat(timespec="seconds")
        publish(layout, ledger, "rebuilt", parts, when, ledger.version_parts(number, superseded=True))


def _links(folder: Path) -> list[Path]:
    """The part files in a version's folder, in their order."""
    return sorted(folder.rglob("*.parquet"), key=lambda path: path.name)


def _gone(layout: Layout, ledger: Ledger) -> list[str]:
    """Part files of the dataset that somebody has removed, or a disk has lost or cut.

    One of a file's two names is put back, if all of the file can be read: the other may be gone because of damage.
    """
    number, gone = ledger.latest_version(), []
    folder = layout.versions / folder_name(number)
    links = {part_name(path.relative_to(folder)): path for path in _links(folder)}
    for position, part in enumerate(ledger.version_parts(number)):
        for file in part.files:
            # Its number may be another where one before it is lost.
            names = (
                layout.parts / file,
                links.get(Path(file).with_suffix("").as_posix(), folder / link_name(position, file)),
            )
            sizes = {name: name.stat().st_size for name in names if name.exists()}
            if len(sizes) == len(names) and set(sizes.values()) == {part.size or sizes[names[0]]}:
                continue
            right = [name for name, size in sizes.items() if size == (part.size or size)]
            whole = [name for name in right if _is_whole(name, _keys(layout.keys / f"{part.name}.keys"))]
            for name in sizes.keys() - whole:
                _keep_damaged(layout, name, file)
            if whole:
                link_durably(whole[0], names[names[0] == whole[0]], "part")
            else:
                gone.append(file)
    return gone


def _is_whole(path: Path, keys: StoredKeys | None) -> bool:
    """Whether a part file is as it was written: looked at from end to end."""
    return (keys is None or is_part_of(path, keys)) and readable(path)


def _keep_damaged(layout: Layout, name: Path, file: str) -> None:
    kept = layout.damaged / file
    if kept.exists():  # by its other name: to rename one to the other does nothing
        remove_file(name)
        return
    make_folder(kept.parent)
    rename(name, kept)


def _set_aside(layout: Layout) -> Path:
    number = 1
    while (aside := layout.ledger.with_name(f"{layout.ledger.name}.damaged-{number}")).exists():
        number += 1
    layout.ledger.rename(aside)
    for ending in ("-wal", "-shm"):
        layout.ledger.with_name(layout.ledger.name + ending).unlink(missing_ok=True)
    return aside


def _made_anew(layout: Layout) -> int:
    """Under its name once it is whole: a part of what is shown would pass for all of it."""
    unfinished = layout.ledger.with_name(f"{layout.ledger.name}.new")
    _remove_with_log(unfinished)
    ledger = Ledger(unfinished)
    try:
        versions = _restore(layout, ledger)
    finally:
        ledger.close()
    _remove_with_log(layout.ledger)  # the log of the one that is gone is not for this one
    rename(unfinished, layout.ledger)
    return versions


def _remove_with_log(ledger: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        ledger.with_name(ledger.name + ending).unlink(missing_ok=True)


def _restore(layout: Layout, ledger: Ledger, mend: bool = True) -> int:
    """Returns how many versions there are. `mend`: a part whose own name is gone gets it back."""
    folders = sorted(path for path in layout.versions.glob("[0-9]*") if path.name.isdigit())
    current = layout.data.resolve().name if layout.data.is_symlink() else None
    hidden = [
        _part(layout, path, f"{SUPERSEDED}/{path.stem}", mend) for path in layout.parts.glob(f"{SUPERSEDED}/*.parquet")
    ]
    for folder in folders:
        found = _links(folder)
        parts = [_part(layout, path, part_name(path.relative_to(folder)), mend) for path in found]
        whole = None not in parts and all(path.name.startswith(f"{n:06d}-") for n, path in enumerate(found))
        if folder != folders[-1] and folder.name != current and not whole:
            continue  # an earlier version that cannot be shown again as it was
        when = datetime.fromtimestamp(folder.stat().st_mtime, UTC).isoformat(timespec="seconds")
        superseded = _known(hidden) if folder.name == current else []
        ledger.add_version(Publication(int(folder.name), "rebuilt", when, _known(parts), superseded))
    for keys in filter(None, map(_keys, sorted(layout.keys.rglob("*.keys")))):
        about = keys.about
        for key in SETTINGS:
            if key in about:
                ledger.fix_setting(key, json.dumps(about[key]))
        break
    for number, path in enumerate(sorted(layout.checkpoints.glob("*.keys"))):
        if path.with_suffix(".parquet").exists() and (stored := _keys(path)):
            ledger.add_checkpoint(Checkpoint("lost", number, "", path.stem, stored.rows, 0, 0, 0, ()))
    return len(folders)


def _keys(path: Path) -> StoredKeys | None:
    """None where there are none, or damaged ones: those of a part are worked out from its rows."""
    try:
        return StoredKeys(path).checked()
    except (FileNotFoundError, DamagedKeysError):
        return None


def _part(layout: Layout, path: Path, name: str, mend: bool) -> Part | None:
    """None where the file is damaged, as far as its footer tells."""
    file = layout.parts / f"{name}.parquet"
    keys = _keys(layout.keys / f"{name}.keys")
    try:
        with opened(path) as rows:
            footer = rows.metadata
    except DamagedPartError:
        return None
    if keys and not is_part_of(path, keys):
        return None
    if not file.exists():  # the version has the only copy
        if not mend or not _is_whole(path, keys):
            return None
        link_durably(path, file, "part")
    size = path.stat().st_size
    if keys:
        about = keys.about["part"]
        hidden = about["superseded"]
        return Part(
            name, about["tasks"], (f"{name}.parquet",), about["rows"], about["rejected"], size, about["run"], hidden
        )
    # An older release's: no row keys yet.
    known = json.loads((footer.metadata or {}).get(b"secbatch", b"{}")).get("tasks", {})
    tasks = {task: [fingerprint] for task, fingerprint in known.items()}
    hidden = name.startswith(f"{SUPERSEDED}/")
    return Part(name, tasks, (f"{name}.parquet",), footer.num_rows, 0, size, "rebuilt", hidden)


def _known(parts: Sequence[Part | None]) -> list[Part]:
    return [part for part in parts if part]
