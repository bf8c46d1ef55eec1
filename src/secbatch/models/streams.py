"""Pieces of work on a CPU side by side, each by some of its cores, instead of one after another by all of them.

An operation that all cores share is over when the slowest of them is through with its part, and only then the next one
begins; a forward is some hundred such operations. Where others use the machine, too, some core is always late. Pieces
that have nothing to do with each other need not wait: whoever is through with a step takes the next one that is left,
of whatever piece. (OpenVINO's name for it is throughput streams:
https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/optimizing-throughput.html.)
"""

import threading
from collections import deque
from collections.abc import Generator, Sequence
from typing import Generic, TypeVar

import torch

from secbatch.waiting import wait_until

Made = TypeVar("Made")
Steps = Generator[None, None, Made]  # pauses between its steps; returns what they made


def side_by_side(works: Sequence[Steps[Made]], most: int) -> list[Made]:
    """What each of `works` returns, in their order. All their first steps come first, then the second ones, and so on.

    torch's threads are divided among as many streams as there are works, but `most` and one for each thread at most;
    the caller's thread is one of the streams. What a step raises is raised when no other one runs any more.
    """
    threads = torch.get_num_threads()
    count = min(threads, len(works), most)
    work = _Work(works)
    if count < 2:
        work.go_on()
        return work.made()
    shares = [threads // count + (n < threads % count) for n in range(count)]
    try:
        begun = [share for share in shares[1:] if work.begin(share)]
        torch.set_num_threads(threads - sum(begun))
        work.go_on()
        wait_until(work.is_over)
    finally:
        work.stop()  # after an interrupt, wherever it came
        try:
            wait_until(work.is_over)
        finally:
            torch.set_num_threads(threads)
    return work.made()


class _Work(Generic[Made]):
    """What is left to do, and what came of it."""

    def __init__(self, works: Sequence[Steps[Made]]) -> None:
        self._waiting = deque(enumerate(works))  # those that nobody is at
        self._made: dict[int, Made] = {}
        self._failures: list[Exception] = []
        self._stopped = False
        self._begun = 0
        self._over: list[None] = []  # one for each thread that has ended
        self._grad, self._inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def begin(self, threads: int) -> bool:
        """Starts another stream of so many of torch's threads; whether the system lets it have one."""
        try:
            threading.Thread(target=self._helped, args=(threads,), name="stream", daemon=True).start()
        except RuntimeError:  # no more threads are allowed: those that there are do its part
            return False
        self._begun += 1
        return True

    def is_over(self) -> bool:
        """Whether no stream but the caller's does anything any more."""
        return len(self._over) >= self._begun  # an interrupt may come before one that runs is counted

    def stop(self) -> None:
        self._stopped = True

    def go_on(self) -> None:
        """Does steps as long as any is left that nobody else is at."""
        while not self._stopped:
            try:
                number, work = self._waiting.popleft()
            except IndexError:
                return
            try:
                next(work)
            except StopIteration as end:
                self._made[number] = end.value
            else:
                self._waiting.append((number, work))

    def made(self) -> list[Made]:
        if self._failures:
            raise self._failures.pop()
        return [self._made[number] for number in sorted(self._made)]

    def _helped(self, threads: int) -> None:
        try:
            with torch.inference_mode(self._inference), torch.set_grad_enabled(self._grad):
                # OpenMP has a number for each thread that asks it; the first question sets it to what was said last.
                torch.get_num_threads()
                torch.set_num_threads(threads)
                self.go_on()
        except Exception as failure:  # carried to the caller's thread, where it is raised
            self._failures.append(failure)
            self._stopped = True
        finally:
            self._over.append(None)
