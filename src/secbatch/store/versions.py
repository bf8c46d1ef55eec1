"""Versions: what readers see. A version is a folder of hard links; publishing is one rename of a link."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from secbatch.errors import UnfitOutputError
from secbatch.store import faults
from secbatch.store.filesystem import add_folder, explain, explain_read, remove_file, remove_tree, rename, sync_folders
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.ledger_records import Part, Publication
from secbatch.store.parts import remove_files

KEPT_VERSIONS = 3
_POSITION = re.compile(r"^\d{6,}-")  # in front of a part's name


def publish(
    layout: Layout,
    ledger: Ledger,
    run: str,
    parts: list[Part],
    when: str,
    superseded: Sequence[Part] = (),
    last: bool = False,
) -> int:
    """Makes `parts` the dataset, at once; `superseded` are kept beside it, unseen. Returns the version's number.

    `last`: nothing of the run is left to be published.

    The steps, each safe to redo: folder of hard links built and fsynced, noted in the ledger as what is to be shown,
    link swapped, ledger written. After a crash between the last two, see `complete`.
    """
    ledger.check_in_place()
    number = max([ledger.latest_version(), *_numbers(layout)]) + 1
    folder = layout.versions / folder_name(number)
    building = layout.versions / f".{folder.name}.tmp"
    try:
        faults.reach("version: before its folder")
        if building.exists():
            remove_tree(building)
        folders = [*add_folder(building), building]
        for position, part in enumerate(parts):
            for file in part.files:
                target = building / link_name(position, file)
                folders += [*add_folder(target.parent), target.parent]
                target.hardlink_to(layout.parts / file)
                faults.record("link", layout.parts / file, target)
                faults.reach("version: amid its links")
        sync_folders(folders)
        ledger.check_in_place()  # thousands of links take their time
        faults.reach("version: before its rename")
        rename(building, folder)
        faults.reach("version: after its rename")
        publication = Publication(number, run, when, parts, superseded, last)
        ledger.note_to_be_shown(publication)
        swap_link(layout, folder)
    except OSError as error:
        raise explain(error, layout.root) from None
    ledger.add_version(publication)
    return number


def complete(layout: Layout, ledger: Ledger) -> Publication | None:
    """Writes into the ledger what readers see, where a crash has kept that from being done; returns it then.

    Its rows may be nowhere else any longer: the input may be another by now.
    """
    publication = ledger.to_be_shown()
    if publication is None or shown_folder(layout) != folder_name(publication.version):
        return None  # the link was never turned: it is as if nothing had been published
    ledger.add_version(publication)
    return publication


def folder_name(number: int) -> str:
    return f"{number:06d}"


def link_name(position: int, file: str) -> str:
    """A part file's path in a version: its place first, so that readers, who sort names, keep the rows' order."""
    folder, _, name = file.rpartition("/")
    return f"{folder}/{position:06d}-{name}" if folder else f"{position:06d}-{name}"


def part_name(link: Path) -> str:
    """The part whose path in a version is `link`: what `link_name` did, undone."""
    name = _POSITION.sub("", link.stem)
    return name if link.parent == Path() else f"{link.parent.as_posix()}/{name}"


def check_own(layout: Layout) -> None:
    """Refuses an output that is a file, or whose `data` was not made by a run."""
    if layout.root.exists() and not layout.root.is_dir():
        raise UnfitOutputError(f"Output '{layout.root}' is a file; name a folder.")
    try:
        there = layout.data.exists() or layout.data.is_symlink()
    except PermissionError as error:
        raise explain_read(error, layout.data) from None
    if there and not _is_own_link(layout.data):
        raise UnfitOutputError(
            f"'{layout.data}' is there already and was not made by secbatch; choose another output or move it away."
        )


def _is_own_link(data: Path) -> bool:
    if not data.is_symlink():
        return False
    *folder, number = data.readlink().parts
    return folder == ["_secbatch", "versions"] and number.isdigit()


def swap_link(layout: Layout, folder: Path) -> None:
    """Points OUT/data at a version's folder, atomically."""
    check_own(layout)
    temporary = layout.root / ".data.tmp"
    remove_file(temporary)
    target = folder.relative_to(layout.root)
    temporary.symlink_to(target, target_is_directory=True)
    faults.record("symlink", temporary, str(target))
    faults.reach("link: before the swap")
    rename(temporary, layout.data)
    faults.reach("link: after the swap")


def shown_folder(layout: Layout) -> str | None:
    """The name of the version's folder that OUT/data leads to, be it there or not; None without a link."""
    return layout.data.readlink().name if layout.data.is_symlink() else None


def prune(layout: Layout, ledger: Ledger, on_their_way: Collection[str] = ()) -> None:
    """Removes all but the newest versions, and files that none of them holds; those `on_their_way` to parts/ stay."""
    ledger.check_in_place()
    for number in ledger.versions()[:-KEPT_VERSIONS]:
        ledger.forget_version(number)
    numbers = ledger.versions()
    known = {folder_name(number) for number in numbers}
    current = shown_folder(layout)
    for folder in layout.versions.iterdir() if layout.versions.is_dir() else ():
        if folder.name not in known and folder.name != current:
            remove_tree(folder)
    ledger.forget_parts([part.name for part in ledger.unused_parts()])
    kinds = (False, True)
    held = [part for n in numbers for kind in kinds for part in ledger.version_parts(n, superseded=kind)]
    _sweep(layout.parts, {*on_their_way, *(file for part in held for file in part.files)})
    _sweep(layout.keys, {f"{part.name}.keys" for part in held})


def _sweep(folder: Path, held: set[str]) -> None:
    """Removes all files but those `held` (paths under `folder`): also what a killed run has left half-made."""
    if not folder.is_dir():
        return
    unused = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    for file in unused:
        if file not in held:
            faults.reach("clearing: amid old parts")
            remove_files(folder, (file,))


def _numbers(layout: Layout) -> list[int]:
    if not layout.versions.is_dir():
        return []
    return [int(folder.name) for folder in layout.versions.iterdir() if folder.name.isdigit()]
