"""Calls of transformers that other rooms' tests do not see."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_run_and_a_training_that_begin_at_a_time_in_one_process(tmp_path: Path) -> None:
    # Before transformers is imported: its parts need each other, and each thread would begin with other ones.
    code = f"""
from concurrent.futures import ThreadPoolExecutor
from secbatch.finetune_jobfile import load_finetune_job
from secbatch.finetuning.planning import plan_finetune
from secbatch.jobfile import load_job
from secbatch.runner import run_job

training = load_finetune_job("jobs/finetune-classify.yaml", [r"output={tmp_path / "model"}"])
job = load_job("jobs/one-off.yaml", [r"output.path={tmp_path / "out"}"])
with ThreadPoolExecutor(2) as both:
    planned, done = both.submit(plan_finetune, training), both.submit(run_job, job, limit=5)
print(planned.result().rows, done.result().enriched)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "{'train': 120, 'dev': 30} 5\n", done.stderr
