"""The vectors of a reference, made once a run; more of them than memory should hold lie on disk."""

import os
import tempfile
from pathlib import Path

import numpy as np

from secbatch.errors import ModelError
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.windows import from_start
from secbatch.tasks.pooling import Pooling, not_finite, pooling_request
from secbatch.tasks.reference import Reference

IN_MEMORY = 256 << 20  # bytes of vectors


def reference_vectors(
    reference: Reference, encoder: SharedEncoder, width: int, pooling: Pooling, normalize: bool
) -> np.ndarray:
    """[R, width] float32, in the order of the rows; equal texts have equal vectors, bit for bit.

    Raises ModelError when one of them cannot be made, InputError when the files have changed.
    """
    matrix = _matrix(len(reference), width, encoder.scratch)
    first = reference.first_with_text()
    for start, texts in reference.texts():
        own = first[start : start + len(texts)]
        new = np.flatnonzero(own == np.arange(start, start + len(texts)))
        sequences = from_start([texts[place] for place in new.tolist()], encoder.tokenizer)
        made = np.zeros((len(new), width), np.float32)
        (report,) = encoder.run([pooling_request(sequences, made, pooling, normalize)])
        for place, sentence in (report.errors | not_finite(made, encoder.model.name)).items():
            raise ModelError(
                f"{reference.key}: of the row with id {reference.ids[start + int(new[place])]}: {sentence}"
            )
        matrix[start + new] = made
        repeated = np.flatnonzero(own != np.arange(start, start + len(texts)))
        matrix[start + repeated] = matrix[own[repeated]]
    return matrix


def _matrix(rows: int, width: int, scratch: Path | None) -> np.ndarray:
    size = rows * width * 4
    if scratch is None or size <= IN_MEMORY:
        return np.zeros((rows, width), np.float32)
    with tempfile.TemporaryFile(dir=scratch, prefix="reference-") as file:  # without a name: nothing is left behind
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a map of a file that outgrows the disk would end the process
        except OSError as error:
            raise ModelError(
                f"the vectors of the reference need {size / 1e9:.1f} GB of disk beside the output ({error.strerror})"
            ) from None
        return np.memmap(file, np.float32, "r+", shape=(rows, width))
