"""Where a test may stop the process or look on: every durable step names itself here.

Nothing in here is reachable from outside the process; a test that starts a child installs its hook there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

_visit: Callable[[str], None] | None = None
_record: Callable[..., None] | None = None

WRITE_POINTS = ("before the write", "amid the write", "before its fsync", "after its fsync", "after its rename")
WRITES = ("checkpoint keys", "checkpoint", "part keys", "part")
POINTS = (
    *(f"{what}: {point}" for what in WRITES for point in WRITE_POINTS),
    "version: before its folder",
    "version: amid its links",
    "version: before its rename",
    "version: after its rename",
    "link: before the swap",
    "link: after the swap",
    "ledger: before a commit",
    "ledger: after a commit",
    "clearing: before checkpoints go",
    "clearing: amid old parts",
)


def install(visit: Callable[[str], None] | None = None, record: Callable[..., None] | None = None) -> None:
    """`visit(point)` is called at each of POINTS, `record(operation, path, ...)` after each durable operation."""
    global _visit, _record
    _visit, _record = visit, record


def reach(point: str) -> None:
    if _visit is not None:
        _visit(point)


def record(operation: str, path: Path, *details: Any) -> None:
    if _record is not None:
        _record(operation, path, *details)
