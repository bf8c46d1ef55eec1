"""Work on a device batch by batch, and what happens when its memory runs out."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from secbatch.models.batching import plan_batches
from secbatch.models.device import Compute
from secbatch.models.out_of_memory import is_out_of_memory
from secbatch.models.sequences import TokenSequences
from secbatch.models.transfer import Flight, Made, Transfer


@dataclass
class BatchReport:
    """What went through the model."""

    tokens: int = 0  # real tokens
    padding: int = 0  # padded positions besides
    errors: dict[int, str] = field(default_factory=dict)  # row -> one sentence
    flights: list[Flight] = field(default_factory=list)  # results that are still on their way from a GPU

    def land(self) -> None:
        """Waits until all results are in their places."""
        for flight in self.flights:
            flight.land()


def default_token_budget(compute: Compute) -> int:
    """Tokens of one batch: on a GPU some 30 ms of work, on a CPU what was measured to go through the layers best."""
    if compute.device.startswith("cuda"):
        return 65_536
    return 2_048 if compute.dtype == "bfloat16" else 8_192


class BatchRunner:
    """Plans batches by tokens and runs them; after running out of memory, with half the budget, for good."""

    def __init__(self, compute: Compute, token_budget: int | None = None) -> None:
        self.token_budget = token_budget or default_token_budget(compute)
        self._compute = compute
        self._transfer = Transfer(compute.device)

    def run(
        self, sequences: TokenSequences, padded: bool, work: Callable[[np.ndarray, TokenSequences], Iterable[Made]]
    ) -> BatchReport:
        """Calls `work(rows, their sequences)` until every row is done, longest rows first.

        Results go where `work` says; from a GPU some of them are still on their way when this returns.

        `padded`: a batch costs its padded rectangle, not its tokens. A row that does not fit alone becomes an
        error.
        """
        report = BatchReport()
        lengths = sequences.lengths
        pending = deque(plan_batches(lengths, self.token_budget, padded=padded))
        while pending:
            rows = pending.popleft()
            batch = sequences.select(rows)
            try:
                with torch.inference_mode():
                    report.flights += self._transfer.take(work(rows, batch))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(rows) == 1:
                    report.errors[int(rows[0])] = (
                        f"the text has {len(batch.ids)} tokens, more than the memory of"
                        f" {self._compute.description} takes at once"
                    )
                    continue
                rest = np.concatenate([rows, *pending])
                self.token_budget = max(min(self.token_budget, len(batch.ids)) // 2, 1)
                plans = plan_batches(lengths[rest], self.token_budget, padded=padded)
                pending = deque(rest[plan] for plan in plans)
            else:
                report.tokens += len(batch.ids)
                if padded:
                    report.padding += len(rows) * int(lengths[rows[0]]) - len(batch.ids)
            finally:
                del batch
        return report
