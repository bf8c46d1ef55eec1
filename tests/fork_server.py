"""Processes forked from a server that has imported what they need: an interpreter of its own takes seconds."""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest.mock import patch

_IMPORTED = ["pandas", "torch", "transformers", "secbatch.runner", "secbatch.trial", "secbatch.tasks.encoder_task"]


def running() -> ForkServerContext:
    """The context of the server, which runs: with a path on which it finds what is beside this file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED, "poisonous_task", "frozen"])
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    with patch.dict(os.environ, {"PYTHONPATH": path}):
        forkserver.ensure_running()
    return context


def command_line(arguments: list[str], threads: int) -> None:
    """What a process does: `secbatch` with `arguments`."""
    import torch

    from secbatch.cli.main import main

    torch.set_num_threads(threads)
    sys.argv = ["secbatch", *arguments]
    main()
