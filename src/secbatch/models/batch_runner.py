"""Work on a device batch by batch, and what happens when its memory runs out."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from secbatch.errors import Interrupted
from secbatch.models.batching import filled_up, plan_batches
from secbatch.models.device import Compute
from secbatch.models.memory_patience import MemoryPatience, Next
from secbatch.models.out_of_memory import give_back, is_out_of_memory
from secbatch.models.sequences import TokenSequences
from secbatch.models.transfer import Flight, Made, Transfer
from secbatch.work_done import work_in_hand

LARGE_MEMORY = 32 << 30  # bytes of a GPU


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


def default_token_budget(compute: Compute, in_blocks: bool = True, width: int = 0) -> int:
    """Tokens of one batch: on a GPU some 25 or 50 ms of work, on a CPU what was measured to go through the layers best.

    A batch on a GPU is begun by some 200 calls, whatever its size, while other threads want Python's interpreter, too:
    where there is memory for it, fewer and larger ones keep it at work.

    `in_blocks`: the model's path goes without padding, and on a CPU cuts a batch into blocks by itself
    (packed_encoder.py). A model's own forward does not: what a large batch makes in a layer leaves the processors'
    caches before the next operation wants it. `width`: of its states, 0 where that is not known; of narrow ones more
    tokens stay there, and what surrounds an operation costs as much as the operation.
    """
    if compute.device.startswith("cuda"):
        return 131_072 if in_blocks and compute.memory >= LARGE_MEMORY else 65_536
    if not in_blocks:
        tokens = max(512, min(262_144 // width, 2_048)) if width else 512
        return min(tokens * torch.get_num_threads(), 8_192)
    return max(8_192, 1_024 * torch.get_num_threads())  # two blocks for each thread at least (packed.block_size)


class BatchRunner:
    """Plans batches by tokens and runs them; after running out of memory, with half the budget, for good."""

    def __init__(self, compute: Compute, token_budget: int | None = None) -> None:
        self.token_budget = token_budget or default_token_budget(compute)
        self.multiple = 1  # of tokens, to which the model itself fills up a batch: as of `plan_batches`
        self._transfer = Transfer(compute.device)
        self._abandoned = False
        self._patience = MemoryPatience(compute.description, abandoned=self._is_abandoned)

    def _is_abandoned(self) -> bool:  # a method, as a worker with its encoders goes to other processes (trial.py)
        return self._abandoned

    def abandon(self) -> None:
        """Ends `run` before its next batch, with Interrupted. From any thread."""
        self._abandoned = True

    def run(
        self, sequences: TokenSequences, padded: bool, work: Callable[[np.ndarray, TokenSequences], Iterable[Made]]
    ) -> BatchReport:
        """Calls `work(rows, their sequences)` until every row is done, longest rows first.

        Results go where `work` says; from a GPU some of them are still on their way when this returns.

        `padded`: a batch costs its padded rectangle, not its tokens. A row that does not fit alone becomes an
        error, and so does one without a token. Raises Interrupted once it is abandoned.
        """
        report = BatchReport()
        lengths = sequences.lengths
        report.errors = dict.fromkeys(np.flatnonzero(lengths == 0).tolist(), "the tokenizer leaves nothing of the text")

        def planned(rows: np.ndarray) -> deque[np.ndarray]:
            plans = plan_batches(lengths[rows], self.token_budget, padded=padded, multiple=self.multiple)
            return deque(rows[plan] for plan in plans)

        work_done, all_tokens = work_in_hand(), int(lengths.sum())
        pending, last = planned(np.flatnonzero(lengths)), False
        alone: list[np.ndarray] = []  # rows for which there was no memory even alone, longest first
        while pending or (alone and not last):
            if not pending:  # all others are through; the shortest has the best chance
                pending, alone, last = deque(reversed(alone)), [], True
            if self._abandoned:
                raise Interrupted("Interrupted between two batches")
            rows = pending.popleft()
            batch = sequences.select(rows)
            costs, tokens = filled_up(lengths[rows], self.multiple), len(batch.ids)
            longest = int(costs[0])
            size = longest, len(rows) * longest if padded else int(costs.sum())
            try:
                with torch.inference_mode():
                    report.flights += self._transfer.take(work(rows, batch))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                self._patience.went_through(size)
                report.tokens += tokens
                report.padding += size[1] - tokens
                work_done.reached(report.tokens / all_tokens)
                continue
            finally:
                del batch
            # From here on, with the error, the tensors of the batch are gone.
            give_back(self._transfer.device)
            match self._patience.after_failure(size, len(rows) == 1, last):
                case Next.AGAIN:
                    pending.appendleft(rows)
                case Next.FEWER:
                    self.token_budget = max(min(self.token_budget, size[1]) // 2, 1)
                    pending = planned(np.concatenate([rows, *pending]))
                case Next.LATER:
                    alone.append(rows)
                case Next.NEVER:
                    report.errors[int(rows[0])] = f"the text has {tokens} tokens, {self._patience.lack(size)}"
        return report
