"""What the ledger knows of things: parts, checkpoints, versions and runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Part:
    """An immutable file of the dataset, or of rows that a later row with their id supersedes."""

    name: str  # the file's path under parts/, without its ending
    tasks: dict[str, list[str]]  # task -> fingerprints that its rows have
    files: tuple[str, ...]
    rows: int
    rejected: int
    size: int  # bytes; 0 where an older release did not note it
    run: str  # that wrote it
    superseded: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A finished shard: those of its rows that the base version does not hold as they are."""

    run: str
    shard: int
    key: str
    part: str  # name of its files under checkpoints/
    rows: int
    rejected: int
    enriched: int  # rows for which a task had to be computed
    size: int
    folders: tuple[tuple[str, int, int], ...]  # partition folder, first row, row after the last


@dataclass(frozen=True)
class Version:
    """What the ledger knows of a version."""

    number: int
    run: str  # the run that published it; of a rollback, see secbatch.store.rollback
    published: str  # ISO 8601, UTC
    rows: int


class Publication(NamedTuple):
    """A version, and what it is made of."""

    version: int
    run: str
    published: str  # ISO 8601, UTC
    parts: Sequence[Part]
    superseded: Sequence[Part] = ()
    last: bool = False  # nothing of the run is left to be published: see `Ledger.all_published`


@dataclass(frozen=True)
class Run:
    """What the ledger knows of a run."""

    run: str
    job: str  # JSON, see secbatch.run_identity
    state: str  # running, finished, interrupted or failed
    started: str
