"""The picture beside a model card."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from secbatch.errors import EXIT_FAILURE

DRAW = """
import sys
from pathlib import Path

import pytest

from secbatch.errors import EXIT_FAILURE
from secbatch.finetuning.curve import draw_curve
history = [{"epoch": 1, "train_loss": 1.0, "dev": {"loss": 1.0, "f1_micro": 0.5}}]
record = {"name": "a", "objective": "classify", "history": history, "chosen_by": "f1_micro", "best_epoch": 1}
draw_curve(record, Path(sys.argv[1]))
"""


def test_a_home_that_cannot_be_written_is_no_matter(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.touch()  # nobody can make a folder in it, root neither
    unset = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {"HOME": str(home)}
    picture = tmp_path / "curve.png"
    command = [sys.executable, "-c", DRAW, str(picture)]
    drawn = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert drawn.stderr == "" and picture.stat().st_size > 1000


def test_the_users_own_settings_of_latex_end_no_training(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    command = [sys.executable, "-c", DRAW, "curve.png"]
    drawn = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (drawn.returncode, drawn.stderr) == (0, "") and (tmp_path / "curve.png").stat().st_size > 1000


JOB = "{name: a, objective: classify, model: builtin/mlm, data: {train: x.csv, text: t, label: l}, output: out}"
EVALUATE = "evaluate builtin/mlm --data x.csv --objective fill-mask --text t --label l --plot plot.png"


@pytest.mark.parametrize("command", ["finetune job.yaml", "finetune job.yaml --dry-run", EVALUATE])
@pytest.mark.parametrize(("backend", "settings"), [("nonsense", b""), ("agg", b"# caf\xe9\n")])
def test_settings_that_matplotlib_does_not_take_are_told_first(
    command: str, backend: str, settings: bytes, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text("t,l\n" + "an <mask>,attack\n" * 4 + "a <mask>,flood\n" * 4)
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "matplotlibrc").write_bytes(settings)
    run = subprocess.run(
        [sys.executable, "-m", "secbatch", *command.split()],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": backend},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (run.returncode, run.stdout) == (EXIT_FAILURE, "")
    assert run.stderr.startswith("Error: Matplotlib, which draws the plots, cannot be loaded with the settings")
    assert "mend MPLBACKEND, or the file matplotlibrc" in run.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "plot.png").exists()
