"""What a model folder holds, as hashes that decide whether results are the same."""

import hashlib
import json
import re
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from secbatch.errors import ModelError

_SHA256_NAME = re.compile(r"[0-9a-f]{64}")
_SHARD_NAME = re.compile(r"[\w.-][\w. -]{0,99}", re.ASCII)  # beside the index, never elsewhere
_POINTER = b"version https://git-lfs.github.com/spec/"  # how a file begins that a clone without Git LFS has instead
# A vocabulary as SentencePiece writes it (Kudo and Richardson 2018, arXiv:1808.06226), by the names models give it.
SENTENCEPIECE_FILES = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",  # DeBERTa v2 and v3
    "sentencepiece.model",  # RemBERT
)
# Any one of these holds a vocabulary.
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", *SENTENCEPIECE_FILES)
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
SETTLED = 2_000_000_000  # nanoseconds: a file changed later than that may change again within one tick of its clock
CONFIG_FILES = ("config.json", "generation_config.json")
MOST_OF_TEXT = 256 << 20  # bytes of a file that is read whole and becomes Python's objects; the largest have a tenth


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads the weights from: safetensors where there are any, else PyTorch's pickles.

    Other files of weights (adapters, other formats and precisions) may lie beside them. Shards are those that
    the index names, whether they are there or not. Raises ModelError for an index that cannot be read.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            _readable(folder, [index.name])
            try:
                shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
                if not all(map(_SHARD_NAME.fullmatch, shards)):
                    raise ValueError
                return sorted(folder / shard for shard in shards)
            except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
                raise ModelError(f"{index} is no index of weight files") from None
    return []


def weights_hash(folder: Path) -> str:
    """sha256 over names and contents of the weight files and of the configuration that explains them.

    Raises ModelError for a file that cannot be read, or for a configuration of more than MOST_OF_TEXT.
    """
    return _combined([*weight_files(folder), *_readable(folder, CONFIG_FILES)])


def tokenizer_hash(folder: Path) -> str:
    """sha256 over names and contents of the tokenizer's files. Raises ModelError, as `weights_hash` does."""
    return _combined(_readable(folder, TOKENIZER_FILES))


def _readable(folder: Path, names: Iterable[str]) -> list[Path]:
    files = [folder / name for name in names]
    for file in files:
        if file.is_file() and file.stat().st_size > MOST_OF_TEXT:
            raise ModelError(
                f"model file {file} is larger than {MOST_OF_TEXT >> 20} MiB, which no configuration or tokenizer is;"
                " see what it is, or fetch the model again"
            )
    return files


def _combined(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            digest.update(f"{path.name} {file_hash(path)}\n".encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file's content. Raises ModelError when it cannot be read, or only points to the content."""
    target = path.resolve()
    # The hub's cache names large files by their sha256, and links to them.
    if path.is_symlink() and target.parent.name == "blobs" and _SHA256_NAME.fullmatch(target.name):
        return target.name
    try:
        about = path.stat()
        if time.time_ns() - max(about.st_mtime_ns, about.st_ctime_ns) < SETTLED:
            return _sha256(path)
        # Several tasks name one model: its files are read once. A change of the file shows in one of these.
        return _known(path, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> ModelError:
    """The sentence on a model's file, or folder, that the system does not let be read."""
    mend = "mend its rights" if isinstance(error, PermissionError) else "see what it is, or fetch the model again"
    return ModelError(f"model file {path} cannot be read ({error.strerror}); {mend}")


@lru_cache(maxsize=256)
def _known(path: Path, *identity: int) -> str:
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ModelError(
                f"model file {path} only points to the real one, which Git LFS has; run `git lfs pull` in its folder,"
                " or fetch the model again"
            )
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
