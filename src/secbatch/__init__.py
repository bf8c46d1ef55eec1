"""secbatch: batch text enrichment for security teams."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from secbatch.finetune_job import FinetuneJob
    from secbatch.finetuning.finetune import FinetuneResult
    from secbatch.finetuning.reporting import TrainingReporter

__version__ = "0.1.0"


def finetune(
    job: "FinetuneJob | str | Path", reporter: "TrainingReporter | None" = None, overwrite: bool = False
) -> "FinetuneResult":
    """Trains a model as a job, or the job file at a path, says; see `secbatch.finetuning.finetune`."""
    from secbatch.finetune_job import FinetuneJob
    from secbatch.finetune_jobfile import load_finetune_job
    from secbatch.finetuning.finetune import finetune as train

    return train(job if isinstance(job, FinetuneJob) else load_finetune_job(job), reporter, overwrite=overwrite)
