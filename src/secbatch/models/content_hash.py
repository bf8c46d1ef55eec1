"""What a model folder holds, as hashes that decide whether results are the same."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from secbatch.errors import ModelError

_SHA256_NAME = re.compile(r"[0-9a-f]{64}")
# Any one of these holds a vocabulary.
VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
_CONFIG_FILES = ("config.json", "generation_config.json")


def weight_files(folder: Path) -> list[Path]:
    """The files that the weights are read from: safetensors where there are any, else PyTorch's pickles."""
    safe = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    return safe or sorted(folder.glob("pytorch_model*.bin"))


def weights_hash(folder: Path) -> str:
    """sha256 over names and contents of the weight files and of the configuration that explains them."""
    return _combined([*weight_files(folder), *(folder / name for name in _CONFIG_FILES)])


def tokenizer_hash(folder: Path) -> str:
    """sha256 over names and contents of the tokenizer's files."""
    return _combined(folder / name for name in _TOKENIZER_FILES)


def _combined(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            digest.update(f"{path.name} {_file_hash(path)}\n".encode())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    target = path.resolve()
    # The hub's cache names large files by their sha256, and links to them.
    if path.is_symlink() and target.parent.name == "blobs" and _SHA256_NAME.fullmatch(target.name):
        return target.name
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"model file {path} cannot be read ({error.strerror})") from None
