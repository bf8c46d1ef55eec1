"""Where Arrow's columns get their memory."""

import os

import pyarrow as pa


def use_system_memory() -> None:
    """Arrow takes the C library's memory from now on, unless ARROW_DEFAULT_MEMORY_POOL says otherwise.

    The command line sets that variable, which counts within Arrow's own code, too; this is for callers of `run_job`.

    mimalloc, its own choice, keeps and gives back pages at a price: with it the path around the model took an eighth
    more of the processor's time, and a hundred megabytes more at its peak.
    """
    if not os.environ.get("ARROW_DEFAULT_MEMORY_POOL"):
        pa.set_memory_pool(pa.system_memory_pool())
