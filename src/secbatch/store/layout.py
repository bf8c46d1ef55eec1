"""Where things lie under an output folder."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """OUT/data is what readers open; OUT/_secbatch is the store's own."""

    root: Path

    def __post_init__(self) -> None:
        # Arrow takes a relative path that begins like `siem:eu/` for a URI. (`s3://…` is one, and refused later.)
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(?!/)", str(self.root)):
            object.__setattr__(self, "root", self.root.absolute())

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def internal(self) -> Path:
        return self.root / "_secbatch"

    @property
    def parts(self) -> Path:
        return self.internal / "parts"

    @property
    def keys(self) -> Path:
        """Row keys of the parts."""
        return self.internal / "keys"

    @property
    def scratch(self) -> Path:
        """What one run needs while it goes on, and no later one."""
        return self.internal / "scratch"

    @property
    def in_flight(self) -> Path:
        """The rows that are in computation, for the next run to know of when this one dies."""
        return self.internal / "in_flight"

    @property
    def versions(self) -> Path:
        return self.internal / "versions"

    @property
    def damaged(self) -> Path:
        """Parts that could not be read, for a person to look at; no run needs them."""
        return self.internal / "damaged"

    @property
    def checkpoints(self) -> Path:
        return self.internal / "checkpoints"

    @property
    def rejects(self) -> Path:
        return self.internal / "rejects"

    @property
    def runs(self) -> Path:
        return self.internal / "runs"

    @property
    def progress(self) -> Path:
        return self.internal / "progress.json"

    @property
    def ledger(self) -> Path:
        return self.internal / "ledger.sqlite"

    @property
    def lock(self) -> Path:
        return self.internal / "lock"


def rejects_beside(file: Path) -> Path:
    """Where the rejects of a run lie whose output is the one Parquet file `file`."""
    return file.with_name(f"{file.stem}.rejects.parquet")
