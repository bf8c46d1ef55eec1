"""Spans as a column, and as bytes for texts that come again."""

import numpy as np
import pyarrow as pa

from secbatch.tasks.ner_spans import Spans
from secbatch.tasks.row_arrays import offsets

_SPAN = pa.struct(
    [
        pa.field("text", pa.string()),
        pa.field("label", pa.string()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
        pa.field("score", pa.float32()),
    ]
)
_WORDS = 4  # of four bytes, for each span


def span_fields(name: str) -> tuple[pa.Field, ...]:
    """The column of a ner task `name`."""
    return (pa.field(name, pa.list_(_SPAN)),)


def span_columns(
    name: str, rows: np.ndarray, found: Spans, texts: list[str], types: tuple[str, ...]
) -> dict[str, pa.Array]:
    """The column of n rows. `rows`: [n] which of the `texts` a row has, -1 for none."""
    owner = np.repeat(np.arange(len(texts)), found.counts).tolist()
    places = zip(owner, found.starts.tolist(), found.ends.tolist(), strict=True)
    words = [texts[text][start:end] for text, start, end in places]
    arrays = [
        pa.array(words, pa.string()),
        pa.array(types, pa.string()).take(pa.array(found.types, pa.int32())),
        pa.array(found.starts, pa.int32()),
        pa.array(found.ends, pa.int32()),
        pa.array(found.scores, pa.float32()),
    ]
    of_texts = pa.ListArray.from_arrays(offsets(found.counts), pa.StructArray.from_arrays(arrays, fields=list(_SPAN)))
    return {name: of_texts.take(pa.array(rows, mask=rows < 0))}


def packed_spans(found: Spans, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of the spans of the texts `which` [u] bool, one after another, and the length of each text's."""
    mine = np.repeat(which, found.counts)
    words = np.empty((int(mine.sum()), _WORDS), np.int32)
    words[:, 0], words[:, 1], words[:, 2] = found.types[mine], found.starts[mine], found.ends[mine]
    words[:, 3] = found.scores[mine].view(np.int32)
    return words.reshape(-1).view(np.uint8), found.counts[which] * _WORDS * 4


def with_known_spans(found: Spans, known: list[bytes]) -> Spans:
    """The spans found, and behind them those of `known` texts."""
    words = np.frombuffer(b"".join(known), np.int32).reshape(-1, _WORDS)
    counts = np.array([len(one) // (_WORDS * 4) for one in known], np.int64)
    return Spans(
        np.concatenate([found.counts, counts]),
        np.concatenate([found.types, words[:, 0]]),
        np.concatenate([found.starts, words[:, 1]]),
        np.concatenate([found.ends, words[:, 2]]),
        np.concatenate([found.scores, np.ascontiguousarray(words[:, 3]).view(np.float32)]),
    )
