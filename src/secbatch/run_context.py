"""What the steps of one run share."""

from collections.abc import Callable
from dataclasses import dataclass

from secbatch.job import Job
from secbatch.pacing import ShardSizes
from secbatch.preparing import Setup
from secbatch.run_options import RunOptions
from secbatch.run_progress import RunProgress
from secbatch.run_result import RunResult
from secbatch.stages import StageClock
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.rejects import RejectWriter


@dataclass(frozen=True)
class RunContext:
    """A run whose input is open and whose models are known."""

    run: str  # its id
    job: Job
    layout: Layout
    ledger: Ledger
    options: RunOptions
    setup: Setup
    sizes: ShardSizes
    rejects: RejectWriter
    result: RunResult  # counted up by whoever knows
    clock: StageClock
    progress: RunProgress
    notice: Callable[[str], None]  # says a sentence to whoever follows the run
