"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

COUNT = """
import ctypes, resource
import numpy as np
from secbatch.models.freed_memory import keep_freed_memory

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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt")
def test_memory_is_used_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    kept, first, then = done.stdout.split()
    if kept == "False":
        pytest.skip("another C library")
    assert int(then) < 1000 < int(first)
