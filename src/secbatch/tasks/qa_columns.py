"""Answers as columns, and as bytes for questions that come again."""

import numpy as np
import pyarrow as pa

from secbatch.tasks.qa_spans import Answers
from secbatch.tasks.row_arrays import offsets

_SPAN = pa.struct(
    [
        pa.field("text", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
    ]
)
_FACTS, _WORDS = 2, 3  # of four bytes: in front of an answer's spans, and for each of them


def answer_fields(name: str, several: bool) -> tuple[pa.Field, ...]:
    """The columns of a qa task `name`; `several`: more than the best span is wanted."""
    fields = (
        pa.field(name, pa.string()),
        pa.field(f"{name}_score", pa.float32()),
        pa.field(f"{name}_start", pa.int32()),
        pa.field(f"{name}_end", pa.int32()),
    )
    return (*fields, pa.field(f"{name}_spans", pa.list_(_SPAN))) if several else fields


def answer_columns(
    name: str, rows: np.ndarray, answers: Answers, contexts: list[str], several: bool
) -> dict[str, pa.Array]:
    """Columns of n rows. `rows`: [n] which of the u answers a row has, -1 for none. `contexts`: [u]

    Without an answer there is no text and no place, and the score is that of "no answer".
    """
    owner = np.repeat(np.arange(len(contexts)), answers.counts)
    places = zip(owner.tolist(), answers.starts.tolist(), answers.ends.tolist(), strict=True)
    texts = pa.array([contexts[number][start:end] for number, start, end in places], pa.string())
    scores, starts, ends = (pa.array(one) for one in (answers.scores, answers.starts, answers.ends))
    first = np.cumsum(answers.counts) - answers.counts
    best = pa.array(first, mask=~answers.answered)  # of each answer, which of the spans; null: none
    score = answers.none.copy()
    score[answers.answered] = answers.scores[first[answers.answered]]
    of_answers = [texts.take(best), pa.array(score), starts.take(best), ends.take(best)]
    if several:
        each = pa.StructArray.from_arrays([texts, scores, starts, ends], fields=list(_SPAN))
        of_answers.append(pa.ListArray.from_arrays(offsets(answers.counts), each))
    take = pa.array(rows, mask=rows < 0)
    fields = answer_fields(name, several)
    return {field.name: column.take(take) for field, column in zip(fields, of_answers, strict=True)}


def packed_answers(answers: Answers, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of the answers `which` [u] bool, one after another, and the length of each."""
    mine = np.repeat(which, answers.counts)
    counts = answers.counts[which]
    sizes = _FACTS + _WORDS * counts
    words = np.empty(int(sizes.sum()), np.int32)
    heads = np.cumsum(sizes) - sizes
    words[heads], words[heads + 1] = answers.answered[which], answers.none[which].view(np.int32)
    rest = np.ones(len(words), bool)
    rest[heads] = rest[heads + 1] = False
    spans = np.stack([answers.starts[mine], answers.ends[mine], answers.scores[mine].view(np.int32)], axis=1)
    words[rest] = spans.ravel()
    return words.view(np.uint8), sizes * 4


def with_known_answers(answers: Answers, known: list[bytes]) -> Answers:
    """The answers, and behind them the `known` ones."""
    records = [np.frombuffer(one, np.int32) for one in known]
    spans = np.concatenate([record[_FACTS:] for record in records]).reshape(-1, _WORDS)
    heads = np.stack([record[:_FACTS] for record in records])
    counts = np.array([(len(record) - _FACTS) // _WORDS for record in records], np.int64)
    return Answers(
        np.concatenate([answers.counts, counts]),
        np.concatenate([answers.starts, spans[:, 0]]),
        np.concatenate([answers.ends, spans[:, 1]]),
        np.concatenate([answers.scores, np.ascontiguousarray(spans[:, 2]).view(np.float32)]),
        np.concatenate([answers.none, np.ascontiguousarray(heads[:, 1]).view(np.float32)]),
        np.concatenate([answers.answered, heads[:, 0].astype(bool)]),
    )
