"""The picture beside a model card."""

import os
import subprocess
import sys
from pathlib import Path

DRAW = """
import sys
from pathlib import Path
from secbatch.finetuning.curve import draw_curve
history = [{"epoch": 1, "train_loss": 1.0, "dev": {"loss": 1.0}}]
record = {"name": "a", "objective": "classify", "history": history, "chosen_by": "loss", "best_epoch": 1}
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
