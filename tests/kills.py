"""What the kill tests share: nights of a small corpus, and a server that runs and kills them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from secbatch.errors import OutputError
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger

JOB = {
    "name": "night",
    "input": {"path": "in/*.csv", "id": ["id"]},
    "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "text"}},
    "output": {"path": "out", "partition_by": ["day"], "removed": "drop"},
}


class KillServer:
    """Runs the job in a folder, whole or until it is killed."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])}
        self._server = subprocess.Popen(
            [sys.executable, str(here / "kill_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, folder: Path, run: str, **request: Any) -> dict[str, Any]:
        assert self._server.stdin and self._server.stdout
        request = {"folder": str(folder), "run": run, "job": JOB, **request}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        assert answer["killed"] or answer["code"] in (0, request.get("expect", 0)), answer
        return answer

    def close(self) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()


def unused(run: str) -> str:
    """`run`, or another name where the output of this folder knows a run of that name: no two runs have one."""
    layout = Layout(Path("out"))
    if not layout.ledger.exists():
        return run
    with suppress(OutputError), closing(Ledger.read_only(layout.ledger)) as known:  # a damaged one knows nothing
        while known.knows_run(run):
            run = f"again-{run}"
    return run


def write_night(folder: Path, night: int) -> None:
    """Night 0: 66 rows. Later ones change every fifth row, drop two, bring new ones and a second row for an id."""
    place = folder / "in"
    place.mkdir(exist_ok=True)
    rows = []
    for number in range(66 + 6 * night):
        changed = number % 5 == night % 5
        if night and number in (7 * night, 7 * night + 1):
            continue
        day = ("mon", "tue", "wed")[(number + (night if changed else 0)) % 3]
        rows.append(f"{number},{day},text {number} of night {night if changed else 0}")
    rows.append(f"3,mon,a later row for three in night {night}")
    (place / "a.csv").write_text("\n".join(["id,day,text", *rows[:40]]) + "\n")
    (place / "b.csv").write_text("\n".join(["id,day,text", *rows[40:]]) + "\n")


def dataset(folder: Path) -> dict[str, str]:
    """Digest of every file that readers see, by its path."""
    data = folder / "out" / "data"
    files = sorted(path for path in data.rglob("*.parquet"))
    return {str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, symlinks=True)
    return target
