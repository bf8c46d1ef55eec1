"""Questions with their contexts as sequences that a model can take; a long context in overlapping windows."""

from dataclasses import dataclass

import numpy as np

from secbatch.models.overlapping import pieces
from secbatch.models.pairs import PairFrame
from secbatch.models.sequences import TokenSequences
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.windows import CHARACTERS_PER_TOKEN

QUESTION_SHARE = 2  # a question has at most 1/QUESTION_SHARE of the positions; its end is left out


@dataclass(frozen=True)
class QuestionWindows:
    """w windows of u pairs; the windows of a pair stand side by side."""

    sequences: TokenSequences  # [w]
    counts: np.ndarray  # [u] int64, windows of each pair
    body: np.ndarray  # [w] int64: where the context's tokens begin in the flat ids
    sizes: np.ndarray  # [w] int64: how many of them there are
    null: np.ndarray  # [w] int64: place in the flat ids of the token that stands for "no answer"
    first: np.ndarray  # [w] int64: which of the contexts' tokens the window begins with
    starts: np.ndarray  # [N] int32: characters of its context that each of the contexts' tokens stands for
    ends: np.ndarray  # [N] int32


def question_windows(
    pairs: list[tuple[str, str]], frame: PairFrame, tokenizer: TextTokenizer, overlap: int
) -> QuestionWindows:
    """`pairs`: (question, context). `overlap`: tokens that neighbouring windows share, half a window at most."""
    questions = list(dict.fromkeys(question for question, _ in pairs))
    contexts = list(dict.fromkeys(context for _, context in pairs))
    limit = tokenizer.max_length
    most = max((limit - frame.special_tokens) // QUESTION_SHARE, 1)
    asked = tokenizer.encode([question[: most * CHARACTERS_PER_TOKEN] for question in questions], special_tokens=False)
    cut, owners, shifts = pieces(contexts)
    located = tokenizer.located(cut)
    lengths, offsets = located.sequences.lengths, located.sequences.offsets
    shift = np.repeat(shifts, lengths).astype(np.int32)
    of_context = np.searchsorted(owners, np.arange(len(contexts) + 1))  # the first piece of each
    question_number = {question: number for number, question in enumerate(questions)}
    context_number = {context: number for number, context in enumerate(contexts)}
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    counts = np.zeros(len(pairs), np.int64)
    places: list[tuple[int, int, int]] = []  # of each window: first token, tokens, tokens before the context
    for pair, (question, context) in enumerate(pairs):
        words = asked[question_number[question]][:most]
        head = len(frame.before) + len(words) + len(frame.between)
        room = max(limit - head - len(frame.after), 1)
        number = context_number[context]
        for piece in range(of_context[number], of_context[number + 1]):
            for start in _starts(int(lengths[piece]), room, min(overlap, room // 2)):
                first = int(offsets[piece]) + start
                body = located.sequences.ids[first : min(first + room, int(offsets[piece + 1]))]
                ids.append(frame.ids(words, body))
                if frame.types is not None:
                    types.append(frame.types_of(len(words), len(body)))
                places.append((first, len(body), head))
                counts[pair] += 1
    sequences = TokenSequences.of(ids)
    if types:
        sequences = TokenSequences(sequences.ids, sequences.offsets, np.concatenate(types))
    table = np.array(places, np.int64).reshape(-1, 3)
    begin, end = sequences.offsets[:-1], sequences.offsets[1:]
    null = begin + frame.null if frame.null >= 0 else end + frame.null
    return QuestionWindows(
        sequences,
        counts,
        begin + table[:, 2],
        table[:, 1],
        null,
        table[:, 0],
        located.starts + shift,
        located.ends + shift,
    )


def _starts(tokens: int, room: int, overlap: int) -> list[int]:
    """The first token of each window over `tokens`; the last window ends where they end."""
    if tokens <= room:
        return [0]
    step = max(room - overlap, 1)
    return [*range(0, tokens - room, step), tokens - room]
