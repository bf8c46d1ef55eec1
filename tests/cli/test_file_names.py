"""Names that are not ASCII, in a process whose locale knows no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
name: test
input: {path: %s}
tasks: {vec: {type: embed, model: builtin/mlm, text: text}}
output: {path: %s}
device: cpu
"""


@pytest.mark.parametrize(
    ("job", "source", "output", "words"),
    [
        ("job.yaml", "bücher/a.csv", "out", "'bücher' cannot be the name of a file here: "),
        ("job.yaml", "in.csv", "ausgäbe", "'ausgäbe' cannot be the name of a file here: "),
        ("job.yaml", "files", "out", "'files/ä.csv' cannot be the name of a file here: "),
        ("jöb.yaml", "in.csv", "out", "Argument 'jöb.yaml' cannot be used: "),
    ],
)
def test_a_name_that_the_locale_cannot_write_is_one_sentence(
    tmp_path: Path, job: str, source: str, output: str, words: str
) -> None:
    for file in ("in.csv", "bücher/a.csv", "files/ä.csv"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("id,text\n1,a\n", encoding="utf-8")
    (tmp_path / job).write_text(JOB % (source, output), encoding="utf-8")
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-m", "secbatch", "run", job],
        cwd=tmp_path,
        env={**os.environ, **plain},
        capture_output=True,
        encoding="utf-8",
    )
    told = done.stderr.replace(f"{tmp_path}/", "")  # Python 3.13 names the whole path
    assert words in told and "UTF-8 locale (LC_ALL=C.UTF-8)" in done.stderr
    assert done.stderr.count("\n") <= 4 and done.returncode in (1, 2)
    assert not (tmp_path / "out").exists()
