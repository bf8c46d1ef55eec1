"""How many threads a forward on a CPU has."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
NAMED_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # whoever sets these knows better
FORKED = (
    "this process was forked from one in which a job had run, and a fork has none of its threads: one thread is used;"
    " for more, start processes by 'spawn' or 'forkserver' of multiprocessing"
)
_with_several: set[int] = set()  # processes in which torch has had several threads here


def settle_threads() -> int:
    """Lets torch have no more threads than the process has processors; returns how many it has.

    torch counts the machine's processors. In a container that may use fewer of them (`docker --cpus`, `limits.cpu` of
    Kubernetes) its threads would take turns and wait for each other. More threads than torch has are never asked for,
    and what OMP_NUM_THREADS or MKL_NUM_THREADS says stands. For the whole process; see `restored_threads`.
    """
    import torch

    if forked_from_threads():  # it would wait for them for ever, or crash
        torch.set_num_threads(1)
        return 1
    threads = _settled()
    if threads > 1:
        _with_several.add(os.getpid())
    return threads


def forked_from_threads() -> bool:
    """Whether this process has torch as another left it, in which it had several threads.

    https://github.com/pytorch/pytorch/issues/17199
    """
    return bool(_with_several) and os.getpid() not in _with_several


def _settled() -> int:
    import torch

    threads: int = torch.get_num_threads()
    if any(os.environ.get(name) for name in NAMED_BY):
        return threads
    allowed = allowed_processors()
    if allowed is not None and allowed < threads:
        torch.set_num_threads(allowed)
        return allowed
    return threads


@contextmanager
def restored_threads() -> Iterator[None]:
    """A caller that has torch already gets it back with the threads that it had."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if torch and torch.get_num_threads() != before:
            torch.set_num_threads(before)


def allowed_processors() -> int | None:
    """As many as the quota of the process's control groups comes to, at least 1; None without one.

    https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/scheduler/sched-bwc.html
    """
    shares = [share for folder in _own_folders() if (share := _quota(folder)) is not None]
    return max(1, math.ceil(min(shares))) if shares else None


def _own_folders() -> Iterator[Path]:
    """Where a quota may be written: version 2 and 1, of the process's own group and those above it."""
    try:
        lines = OWN_GROUPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container sees its own group as the root.
        for root in (CGROUPS / controllers, CGROUPS / "cpu") if controllers else (CGROUPS,):
            group = root / place.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _quota(folder: Path) -> float | None:
    """Processors, where the group has a limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no such file
        return None
    return share if share > 0 else None
