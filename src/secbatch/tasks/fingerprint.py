"""A task's fingerprint: two runs with one fingerprint give a row the same result."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from secbatch.models.device import Compute
from secbatch.models.resolved import ResolvedModel


def fingerprint(
    kind: str, code_version: int, parameters: Mapping[str, Any], model: ResolvedModel, compute: Compute
) -> str:
    """Hex sha256 of what decides a task's result.

    `code_version` is raised by hand when a change of code changes results; `parameters` must be plain JSON
    values.
    """
    facts = {
        "task": kind,
        "code": code_version,
        "parameters": dict(parameters),
        "model": model.hub_id,
        "revision": model.revision,
        "weights": model.weights_hash,
        "tokenizer": model.tokenizer_hash,
        "precision": compute.dtype,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
