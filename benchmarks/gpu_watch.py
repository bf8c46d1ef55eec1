"""The share of time in which a GPU had work, as its driver counts it."""

import subprocess
import threading
from types import TracebackType

EVERY_MS = 50
WINDOW = 1000 // EVERY_MS  # samples: nvidia-smi's figures are means of up to a second before


class GpuWatch:
    """Asks nvidia-smi, while it is open, in how much of the last moments a kernel was running."""

    def __init__(self, device: str) -> None:
        self._index = device.partition(":")[2] or "0"
        self._samples: list[float] = []

    def __enter__(self) -> "GpuWatch":
        query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        command = ["nvidia-smi", "-i", self._index, *query, "-lms", str(EVERY_MS)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdigit():
                self._samples.append(float(line) / 100)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._reader.join()

    @property
    def busy_share(self) -> float:
        """Mean from the first moment with much work to the last one, but for a second at each end; 0 for short runs."""
        at_work = [place for place, share in enumerate(self._samples) if share >= 0.5]
        part = self._samples[at_work[0] + WINDOW : at_work[-1] + 1 - WINDOW] if at_work else []
        return sum(part) / len(part) if part else 0.0
