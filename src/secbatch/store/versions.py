"""Versions: what readers see. A version is a folder of hard links; publishing is one rename of a link."""

import shutil
from pathlib import Path

from secbatch.errors import OutputError
from secbatch.store.filesystem import explain, make_folder, sync_folder
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger, Part
from secbatch.store.parts import remove_files

KEPT_VERSIONS = 3


def publish(layout: Layout, ledger: Ledger, run: str, parts: list[Part], when: str) -> int:
    """Makes `parts` the dataset, at once. Returns the version's number.

    The steps, each safe to redo: folder of hard links built and fsynced, link swapped, ledger written. A crash
    between the last two leaves a version that the ledger does not know: the next publish makes a newer one.
    """
    number = max([ledger.latest_version(), *_numbers(layout)]) + 1
    folder = layout.versions / f"{number:06d}"
    building = layout.versions / f".{number:06d}.tmp"
    try:
        if building.exists():
            shutil.rmtree(building)
        make_folder(building)
        folders = {building}
        for position, part in enumerate(parts):
            for file in part.files:
                target = building / link_name(position, file)
                if target.parent not in folders:
                    make_folder(target.parent)
                    folders.add(target.parent)
                target.hardlink_to(layout.parts / file)
        for made in folders:
            sync_folder(made)
        building.rename(folder)
        sync_folder(layout.versions)
        swap_link(layout, folder)
    except OSError as error:
        raise explain(error, layout.root) from None
    ledger.add_version(number, run, when, parts)
    return number


def link_name(position: int, file: str) -> str:
    """A part file's path in a version: its place first, so that readers, who sort names, keep the rows' order."""
    folder, _, name = file.rpartition("/")
    return f"{folder}/{position:06d}-{name}" if folder else f"{position:06d}-{name}"


def check_own(layout: Layout) -> None:
    """Refuses an output that is a file, or whose `data` was not made by a run."""
    if layout.root.exists() and not layout.root.is_dir():
        raise OutputError(f"Output '{layout.root}' is a file; name a folder.")
    if (layout.data.exists() or layout.data.is_symlink()) and not (
        layout.data.is_symlink() and layout.data.readlink().parts[:2] == ("_secbatch", "versions")
    ):
        raise OutputError(
            f"'{layout.data}' is there already and was not made by secbatch; choose another output or move it away."
        )


def swap_link(layout: Layout, folder: Path) -> None:
    """Points OUT/data at a version's folder, atomically."""
    check_own(layout)
    temporary = layout.root / ".data.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.relative_to(layout.root), target_is_directory=True)
    temporary.rename(layout.data)
    sync_folder(layout.root)


def prune(layout: Layout, ledger: Ledger, *, keep_unused_parts: bool = False) -> None:
    """Removes all but the newest versions, and parts that none of them holds."""
    for number in ledger.versions()[:-KEPT_VERSIONS]:
        ledger.forget_version(number)
    known = {f"{number:06d}" for number in ledger.versions()}
    current = layout.data.readlink().name if layout.data.is_symlink() else None
    for folder in layout.versions.iterdir():
        if folder.name not in known and folder.name != current:
            shutil.rmtree(folder)
    if not keep_unused_parts:
        unused = ledger.unused_parts()
        held = {file for number in ledger.versions() for part in ledger.version_parts(number) for file in part.files}
        ledger.forget_parts([part.name for part in unused])
        for part in unused:
            remove_files(layout.parts, tuple(file for file in part.files if file not in held))


def _numbers(layout: Layout) -> list[int]:
    if not layout.versions.is_dir():
        return []
    return [int(folder.name) for folder in layout.versions.iterdir() if folder.name.isdigit()]
