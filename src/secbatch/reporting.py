"""What a run tells whoever watches it."""

from typing import Protocol


class Reporter(Protocol):
    """Called from the runner's threads; implementations must be quick and thread-safe."""

    def notice(self, text: str) -> None:
        """Something worth saying once."""
        ...

    def progress(self, rows: int, rejected: int, fraction: float) -> None:
        """Rows done and rejected so far, and the share of the input that is behind the run (0 to 1).

        Rows are done with their shard; the share counts what is done within the shards that are underway, too. Called
        about once a second, by one thread at a time.
        """
        ...


class Silent:
    """A reporter for callers who only want the result."""

    def notice(self, text: str) -> None:
        return

    def progress(self, rows: int, rejected: int, fraction: float) -> None:
        return
