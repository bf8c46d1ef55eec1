"""The limit on threads: `ulimit -u` of a user's processes, or `pids.max` of a control group."""

import os
import resource
import threading

from secbatch.errors import SecbatchError, counted

RUN, TRIAL = 10, 2  # threads that a run takes at least, and a process in which rows are tried
EACH, MOST = 4, 64  # those for each processor, and processors that count
STACK = 1 << 18  # bytes for a thread that only waits; systems have a least size: Linux on ARM 128 KiB, others less
_REFUSALS = ("can't start new thread", "Failed to launch worker thread")  # Python's words, and Arrow's


def check_threads(own: int = RUN) -> None:
    """Raises SecbatchError where fewer threads can be started than are needed: `own`, and those for each processor.

    Libraries fail there in many ways: OpenBLAS interrupts the process when it is loaded, OpenMP ends it amid a batch,
    and weights seem to be broken.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return  # what each thread that was tried leaves reserved (64 MiB, by glibc) would be missed
    wanted = own + EACH * min(MOST, _processors())
    found = _startable(wanted)
    if found < wanted:
        raise SecbatchError(
            f"the system lets this process start {counted(found, 'more thread')}, and about {wanted} are needed;"
            " raise the limit (ulimit -u, or pids.max of its control group), or use fewer processors (OMP_NUM_THREADS)"
        )


def refused(error: BaseException) -> SecbatchError | None:
    """The sentence for `error`, where it comes of a thread that could not be started."""
    if any(words in str(error) for words in _REFUSALS):
        return SecbatchError(
            "the system lets this process start no more threads; raise the limit (ulimit -u, or pids.max of its"
            " control group), and run again"
        )
    return None


def _processors() -> int:
    """As many as the libraries start threads for."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit() and int(named):
        return int(named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _startable(wanted: int) -> int:
    """How many threads of `wanted` can run at a time."""
    over = threading.Event()
    waiting: list[threading.Thread] = []
    before = threading.stack_size(STACK)
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            waiting.append(thread)
    except RuntimeError:  # the limit
        pass
    finally:
        threading.stack_size(before)
        over.set()
        for thread in waiting:
            thread.join()
    return len(waiting)
