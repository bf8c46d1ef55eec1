"""Going back to an earlier version: it is published again, as a new version with the same rows."""

import re
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from secbatch.errors import InputError, OutputError
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.ledger_records import Version
from secbatch.store.links import refuse_links
from secbatch.store.lock import hold
from secbatch.store.versions import check_own, complete, publish, shown_folder

_RUN = re.compile(r"\d{8}T\d{6}Z-rollback-to-(\d+)")


@dataclass(frozen=True)
class ListedVersion:
    """A version that can be read or gone back to."""

    number: int
    published: str | None  # ISO 8601, UTC; None where a crash kept it out of the ledger
    run: str | None
    rows: int | None
    current: bool  # OUT/data shows it
    rolled_back_to: int | None  # a rollback made it: the version whose rows it has


def list_versions(layout: Layout) -> list[ListedVersion]:
    """The kept versions of an output, oldest first. Needs no lock. Raises InputError where there is no dataset."""
    with closing(_look(layout)) as ledger:
        return _listed(layout, ledger)


def roll_back(layout: Layout, to: int | None = None) -> tuple[ListedVersion, int]:
    """Makes readers see version `to` again (None: the one before what they see now).

    Returns the version that is current now and the one whose rows it has. Nothing is removed: the rows come back as
    the newest version, so the next run starts from them, and the versions in between stay until later publications
    push them out. Raises OutputHeldError while a run holds the output, InputError for a version that is not there.
    """
    check_own(layout)
    refuse_links(layout)
    _look(layout).close()  # an output that is not there is not made by taking its lock
    with hold(layout.lock), closing(Ledger(layout.ledger)) as ledger:
        completed = complete(layout, ledger)
        earlier = _RUN.fullmatch(completed.run) if completed else None
        if earlier and to in (None, int(earlier[1])):
            return _listed(layout, ledger)[-1], int(earlier[1])
        target = _target(layout, _listed(layout, ledger), to)
        parts = ledger.version_parts(target)
        lost = [file for part in parts for file in part.files if not (layout.parts / file).exists()]
        if lost or not parts:
            what = f"'{layout.parts / lost[0]}' is gone" if lost else "the ledger does not name its parts"
            raise OutputError(f"Version {target} cannot be shown again: {what}; choose another version.")
        when = datetime.now(UTC)
        run = f"{when:%Y%m%dT%H%M%SZ}-rollback-to-{target}"
        publish(layout, ledger, run, parts, when.isoformat(timespec="seconds"))
        return _listed(layout, ledger)[-1], target


def _look(layout: Layout) -> Ledger:
    if not layout.ledger.exists():
        raise InputError(f"'{layout.root}' holds no dataset of secbatch; give the output folder of a run.")
    return Ledger.read_only(layout.ledger)


def _listed(layout: Layout, ledger: Ledger) -> list[ListedVersion]:
    shown = shown_folder(layout) or ""
    current = int(shown) if shown.isdigit() else None
    found = [_described(fact, fact.number == current) for fact in ledger.version_facts()]
    if current is not None and not any(version.current for version in found):
        # The run died between the swap of the link and the ledger; the next publication makes a newer one.
        found.append(ListedVersion(current, None, None, None, True, None))
    return sorted(found, key=lambda version: version.number)


def _described(fact: Version, current: bool) -> ListedVersion:
    rollback = _RUN.fullmatch(fact.run)
    back_to = int(rollback[1]) if rollback else None
    return ListedVersion(fact.number, fact.published, fact.run, fact.rows, current, back_to)


def _target(layout: Layout, versions: list[ListedVersion], to: int | None) -> int:
    current = next((version for version in versions if version.current), None)
    numbers = [version.number for version in versions]
    known = ", ".join(str(number) for number in numbers)
    if current is None:
        raise InputError(f"'{layout.root}' shows no version yet; there is nothing to go back from.")
    if to is not None:
        if to == current.number:
            raise InputError(f"Version {to} is the one that '{layout.data}' shows already.")
        if to not in numbers:
            raise InputError(f"There is no version {to} of '{layout.root}'; kept are {known}.")
        return to
    # After a rollback, "before" counts from the version that was gone back to: asked twice, it goes back twice.
    here = current.rolled_back_to or current.number
    before = [version.number for version in versions if version.number < here and version.rolled_back_to is None]
    if not before:
        raise InputError(f"No version before {here} of '{layout.root}' is kept; kept are {known}: choose with --to.")
    return before[-1]
