"""The picture beside a model card."""

import os
import subprocess
import sys
from pathlib import Path

DRAW = """
import sys
from pathlib import Path
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
