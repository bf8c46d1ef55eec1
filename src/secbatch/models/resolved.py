"""A model whose files are at hand."""

from dataclasses import dataclass
from pathlib import Path

# Inside the folder of a model that is being trained: lock, checkpoints, and the model until it is whole.
UNFINISHED = "_training"


@dataclass(frozen=True)
class ResolvedModel:
    """A model in a local folder (a hub cache snapshot, a user's folder, or a built-in)."""

    name: str  # as the job names it
    hub_id: str | None  # owner/name on the hub, None for a folder
    revision: str | None  # commit hash of the snapshot, None for a folder
    folder: Path
    weights_hash: str  # sha256 over the weight files (names and contents)
    tokenizer_hash: str  # sha256 over the tokenizer files
    licence: str | None  # from the catalog, None when unknown
    promoted: str | None = None  # version in the local registry, None for all other models


@dataclass(frozen=True)
class RemoteModel:
    """A model behind an endpoint: of its files nothing is known."""

    name: str  # as the endpoint calls it
    hub_id: None = None
    revision: None = None
    weights_hash: None = None
    tokenizer_hash: None = None
    licence: None = None
    promoted: None = None
