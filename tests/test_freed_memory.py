"""Freed memory stays with the process while batches follow each other, and goes back when they are through."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_task import install
from nights import LINES, job, write

from secbatch import finished_shards, running
from secbatch.publishing import Publisher
from secbatch.runner import run_job

COUNT = """
import ctypes, resource
import numpy as np
from secbatch.freed_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        held = [np.ones(6_000_000, np.float32) for _ in range(4)]  # 24 MB each
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
kept = keep_freed_memory()
faults()
print(kept, first, faults())
"""

GIVEN_BACK = """
import threading
from secbatch.freed_memory import give_back_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

def work():
    held = [bytearray(b"x" * 50_000) for _ in range(2000)]  # 100 MB, each piece too small for a mapping of its own
    del held[:-1]  # the last stays, so that what is before it is no end of the heap that goes back by itself
    done.set()
    ended.wait()

done, ended = threading.Event(), threading.Event()
thread = threading.Thread(target=work)
thread.start()
done.wait()
before = resident()
given = give_back_freed_memory()
print(given, before, resident())
ended.set()
"""


def before_and_after(code: str) -> tuple[int, int]:
    """What a process of its own prints, behind whether its C library can do that."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    can, before, after = done.stdout.split()
    if can == "False":
        pytest.skip("another C library")
    return int(before), int(after)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt")
def test_memory_is_used_again_without_page_faults() -> None:
    first, then = before_and_after(COUNT)
    assert then < 1000 < first


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc_trim")
def test_what_a_thread_has_freed_goes_back_to_the_system() -> None:
    before, after = before_and_after(GIVEN_BACK)
    assert before - after > 80


def test_a_run_gives_memory_back_once_its_shards_are_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    publish = Publisher.publish

    def seen(self: Publisher, *given: Any, final: bool, **more: Any) -> Any:
        events.append("final" if final else "first")
        return publish(self, *given, final=final, **more)

    monkeypatch.setattr(Publisher, "publish", seen)
    monkeypatch.setattr(running, "forget", lambda folder: events.append("forgotten"))
    monkeypatch.setattr(running, "give_back_freed_memory", lambda: events.append("given back"))
    monkeypatch.setattr(finished_shards, "PUBLISH_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    install(monkeypatch)
    write("a.csv", "id,text,note", *LINES)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda *_: (10,))
    run_job(job())
    assert events[-4:] == ["forgotten", "given back", "final", "forgotten"]
    assert set(events[:-4]) == {"first"}  # versions that are shown on the way
