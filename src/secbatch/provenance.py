"""Where results come from: models, versions and fingerprints, for the parts' footers and the runs' records."""

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import secbatch
from secbatch.redaction import redacted_values

if TYPE_CHECKING:
    from secbatch.models.resolved import RemoteModel, ResolvedModel
    from secbatch.preparing import Setup


def provenance(setup: "Setup") -> dict[str, Any]:
    """Models by task, precision and versions of what computes, as JSON-like values."""
    import tokenizers
    import torch
    import transformers

    models = {name: {**about_model(model), "licence": model.licence} for name, model in setup.models.items()}
    versions = {
        "secbatch": secbatch.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "pyarrow": pa.__version__,
    }
    return {"models": models, "precision": setup.compute.dtype, "versions": versions}


def about_model(model: "ResolvedModel | RemoteModel") -> dict[str, Any]:
    """A model as records name it."""
    return {
        "model": model.name,
        "hub_id": model.hub_id,
        "revision": model.revision,
        "promoted": model.promoted,
        "weights": model.weights_hash,
        "tokenizer": model.tokenizer_hash,
    }


def footer(setup: "Setup") -> dict[bytes, bytes]:
    """Metadata of every part."""
    job = setup.job
    specs = {name: spec.model_dump(mode="json") for name, spec in job.tasks.items()}
    about = {"job": job.name, "tasks": setup.worker.fingerprints, "specs": specs, **provenance(setup)}
    return {b"secbatch": json.dumps(redacted_values(about)).encode()}
