"""Sentences of documents: the names of a document's rows differ in the last piece, the sentence's number.

Of two documents with one name in an input the last one counts, whole: the sentences that only an earlier one has go
with those that it replaces.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from secbatch.row_hash import column_digests
from secbatch.store.present import Winners, shard_of


def first_sentences(names: pa.ChunkedArray) -> np.ndarray:
    """uint64 [n, 2]: of each sentence, the identity of its document's first one, which every document has."""
    first = pc.replace_substring_regex(names.cast(pa.large_string()), r"/[0-9]+$", "/0")
    return column_digests(first)


def of_earlier_documents(names: pa.Array) -> np.ndarray:
    """bool [n]: rows of a shard, in the order of the input, after which a document of their name begins anew."""
    documents = pc.replace_substring_regex(names, r"/[0-9]+$", "").dictionary_encode().indices.to_numpy()
    begins = np.flatnonzero(pc.ends_with(names, "/0").to_numpy(zero_copy_only=False))
    last = np.full(len(names), -1)  # place of each document's last beginning; there are no more documents than rows
    np.maximum.at(last, documents[begins], begins)
    return np.arange(len(names)) < last[documents]


def of_earlier_shards(names: pa.ChunkedArray, shards: np.ndarray, winners: Winners) -> np.ndarray:
    """bool [n]: sentences of these shards (int64 [n]) whose documents begin anew in a later shard."""
    places = winners.find(first_sentences(names))
    found = places >= 0
    found[found] = shard_of(winners.entries(places[found])) > shards[found]
    return found
