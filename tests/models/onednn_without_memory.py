"""A thread of which oneDNN has once got no memory: what is found and said then, as JSON."""

import json
import resource
import threading
from pathlib import Path
from typing import Any

import torch

from secbatch.errors import SecbatchError
from secbatch.models.memory_patience import MemoryPatience
from secbatch.models.out_of_memory import is_out_of_memory, onednn_is_stuck

TEXTS = [torch.zeros(height, 8) for height in range(500, 510)]
found: dict[str, Any] = {"failed": None}


def work() -> None:  # on a thread of its own, as what is left behind is the thread's
    torch.set_num_threads(1)  # OpenMP ends the process, with exit code 1, where it gets no memory for a thread
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 16), before[1]))
    try:
        for text in TEXTS:
            torch.nn.functional.gelu(text)
    except RuntimeError as problem:
        found.update(failed=str(problem), lack=is_out_of_memory(problem))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    try:
        found["next"] = MemoryPatience("cpu").after_failure((1, 1), alone=True, last=False).name
        MemoryPatience("cpu", most=0).after_failure((1, 1), alone=True, last=True)
    except SecbatchError as problem:
        found["said"] = str(problem)


thread = threading.Thread(target=work)
thread.start()
thread.join()
found["stuck_elsewhere"] = onednn_is_stuck()
print(json.dumps(found))
