"""What makes two trainings the same: a hash over all that decides the weights."""

import hashlib
import json
from typing import Any

from secbatch.finetune_job import FinetuneJob
from secbatch.finetuning.dataset import Dataset
from secbatch.models.device import Compute
from secbatch.models.resolved import ResolvedModel

CODE_VERSION = 1  # raised by hand when the same job gives other weights


def fingerprint(
    job: FinetuneJob, data: Dataset, base: ResolvedModel, compute: Compute, compared: ResolvedModel | None = None
) -> str:
    """sha256, hexadecimal. Names and places of files do not count; their contents do, in the order that they are read.

    The order of the examples decides the split and the steps.
    """
    wanted = job.model_dump(mode="json", include={"objective", "hyperparameters", "data"})
    for key in ("train", "dev", "test"):
        wanted["data"].pop(key)
    about: dict[str, Any] = {
        **wanted,
        "files": {name: [file.sha256 for file in side.files] for name, side in data.sides.items()},
        "separate_dev": job.data.dev is not None,
        "base": [base.weights_hash, base.tokenizer_hash],
        "compared": compared and compared.weights_hash,
        "precision": compute.dtype,
        "code": CODE_VERSION,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
