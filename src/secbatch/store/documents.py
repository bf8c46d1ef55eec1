"""Sentences of documents: the names of a document's rows differ in the last piece, the sentence's number."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.row_hash import digests


def first_sentences(names: pa.ChunkedArray) -> np.ndarray:
    """uint64 [n, 2]: of each sentence, the identity of its document's first one, which every document has."""
    first = pc.replace_substring_regex(names.cast(pa.large_string()), r"/[0-9]+$", "/0")
    return digests(first.cast(pa.large_binary()).to_pylist())
