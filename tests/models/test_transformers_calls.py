"""Calls of transformers that other rooms' tests do not see."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "begun", ["secbatch.finetuning.planning.plan_finetune", "secbatch.finetuning.finetune.finetune"]
)
def test_a_run_and_a_training_that_begin_at_a_time_in_one_process(tmp_path: Path, begun: str) -> None:
    # Before transformers is imported: its parts need each other, and each thread would begin with other ones.
    code = f"""
from concurrent.futures import ThreadPoolExecutor
from secbatch.finetune_jobfile import load_finetune_job
from {begun.rpartition(".")[0]} import {begun.rpartition(".")[2]} as begin
from secbatch.jobfile import load_job
from secbatch.runner import run_job

small = [r"output={tmp_path / "model"}", "hyperparameters.epochs=1"]
training = load_finetune_job("jobs/finetune-classify.yaml", small)
job = load_job("jobs/one-off.yaml", [r"output.path={tmp_path / "out"}"])
with ThreadPoolExecutor(2) as both:
    trained, done = both.submit(begin, training), both.submit(run_job, job, limit=5)
print(bool(trained.result()), done.result().enriched)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True 5\n", done.stderr
