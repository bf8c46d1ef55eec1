"""How much of mapped files is in this process's memory."""

import re
from pathlib import Path

import pytest

SMAPS = Path("/proc/self/smaps")
needs_smaps = pytest.mark.skipif(not SMAPS.exists(), reason="no /proc/self/smaps here")


def resident(folder: Path) -> int:
    """Bytes, of all files below `folder`."""
    size, inside = 0, False
    for line in SMAPS.read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            size += int(line.split()[1]) << 10
    return size
