"""A task whose rows can end the process: by their text, and only where they are computed."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from fake_task import Counter, UpperTask

ENDS = {
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "memory": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "leave": lambda: os._exit(7),
}


class PoisonousTask(UpperTask):
    """Texts that are keys of ENDS end the process; so do `left` and `right`, where they are computed together.

    `twice` ends that of the run, and the first that tries the row.
    """

    conversation_column: str | None = None

    def __init__(self, name: str, spec: Any, counter: Counter) -> None:
        super().__init__(name, spec, counter)
        self.log = os.environ["POISON_LOG"]  # a line for each computation: process and rows

    def compute(self, encoded: Any) -> Any:
        texts = encoded.to_pylist()
        with Path(self.log).open("a") as log:
            log.write(f"{os.getpid()} {len(texts)}\n")
        mended = Path(self.log).with_name("mended").exists()
        for text in texts:
            if text in ENDS and not mended:
                ENDS[text]()
        if {"left", "right"} <= set(texts):
            os.abort()
        if "twice" in texts:
            deaths = Path(self.log).with_name("deaths")
            with deaths.open("a") as file:
                file.write("x")
            if deaths.stat().st_size <= 2:
                os.abort()
        return super().compute(encoded)


class Conversations(PoisonousTask):
    conversation_column = "thread"

    def asks(self, table: pa.Table) -> np.ndarray:
        return np.ones(table.num_rows, bool)

    def encode_after(self, *_: Any) -> Any:
        raise NotImplementedError


def made(name: str, spec: Any, *rest: Any) -> PoisonousTask:
    kind = Conversations if spec.top_k == 7 else PoisonousTask
    return kind(name, spec, Counter())
