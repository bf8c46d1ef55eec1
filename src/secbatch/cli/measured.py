"""`--metrics-file`: a run's figures are written however the run ends."""

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from secbatch.cli.terminal import sentence
from secbatch.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, SecbatchError

if TYPE_CHECKING:
    from secbatch.run_result import RunResult


class Measured:
    """Writes the metrics of the run inside its `with` block; without a file, nothing."""

    def __init__(self, path: str | None) -> None:
        """Raises JobError before the run where the file could not be written after it."""
        self.name: str | None = None  # the job's, once it is known
        self._path = Path(path) if path else None
        self._result: RunResult | None = None
        self._begin = time.monotonic()
        if self._path:
            from secbatch.metrics import check_metrics_file

            check_metrics_file(self._path)

    def stay(self) -> None:
        """The file is where it was meant, also when the process goes to another folder."""
        self._path = self._path.absolute() if self._path else None

    def take(self, result: "RunResult") -> None:
        self._result = result

    def __enter__(self) -> "Measured":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._path:
            return
        from secbatch.metrics import write_metrics

        seconds = time.monotonic() - self._begin
        try:
            write_metrics(self._path, self.name, self._result, self._exit_code(error), seconds)
        except SecbatchError as failure:
            # The run's own outcome counts for more than its figures.
            click.echo(sentence(str(failure)), err=True)

    def _exit_code(self, error: BaseException | None) -> int:
        if error is None:
            return self._result.exit_code if self._result else EXIT_OK
        if isinstance(error, SecbatchError):
            return error.exit_code
        return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt | click.Abort) else EXIT_FAILURE
