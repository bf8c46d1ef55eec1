"""Evaluation of masked LMs: how surprising a model finds the words that are hidden from it.

The masked-LM loss with a fixed mask: 15 % of each text's words, the same ones for every model and every time, all
pieces of a word at once, always by the mask. Perplexity is e to the mean loss of a piece; word perplexity is e to
the mean loss of a word, the sum of its pieces', which models with different vocabularies can be compared by.
"""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secbatch.comparison.evaluation import Measured
from secbatch.comparison.labelled_rows import LabelledRows
from secbatch.comparison.predictions import Predicted, Progress
from secbatch.errors import InputError, ModelError, UnfitModelError, counted
from secbatch.evaluation.perplexity import PERPLEXITY, loss_tally
from secbatch.evaluation.tally import Figure
from secbatch.labelled.files import LabelledFiles
from secbatch.labelled.readers import read_texts
from secbatch.models.device import Compute
from secbatch.models.requests import Request
from secbatch.models.resolve import resolve
from secbatch.models.sequences import TokenSequences, spans
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.models.transfer import Made, on_device

RATE = 0.15  # of a text's words that are hidden, one at least
TEXTS_AT_ONCE = 256
_WORD = re.compile(r"<mask>|(\w+)")


@dataclass(frozen=True)
class HiddenText:
    text: str
    words: tuple[tuple[int, int], ...]  # character range of each hidden word


class HiddenWords(LabelledRows):
    """A column of texts; those without a word are passed over."""

    name = "masked-lm"
    parts_are = ""
    headline: tuple[str, ...] = ("perplexity", "word_perplexity", "loss")

    def __init__(
        self, files: LabelledFiles, text: str, group: str | None = None, seed: int = 0, limit: int | None = None
    ) -> None:
        """`seed`: decides which words are hidden. Raises InputError where no row has a text with a word."""
        labelled = read_texts(files, text, group)
        hidden = [(hide(example.text, seed), example.group) for example in labelled.examples[:limit]]
        kept = [(one, group) for one, group in hidden if one.words]
        notices = [*labelled.notices]
        if len(kept) < len(hidden):
            notices.append(f"{counted(len(hidden) - len(kept), 'text')} without a word left out")
        if not kept:
            raise InputError(f"{files.path}: no text ({text}) has a word in it")
        super().__init__([group for _, group in kept], labelled.files, notices)
        self._texts = [one for one, _ in kept]
        self.method = (
            f"Masked-LM loss with a fixed mask (seed {seed}): {RATE:.0%} of each text's words, the same for every"
            " model, all their pieces masked. perplexity is of a piece, word_perplexity of a word; lower is better."
        )

    @property
    def figures(self) -> Mapping[str, Figure]:
        return PERPLEXITY

    def predict(self, model: str, compute: Compute, progress: Progress | None) -> Predicted:
        resolved = resolve(model)
        encoder = SharedEncoder(resolved, compute)
        if encoder.tokenizer.mask_id is None:
            raise UnfitModelError(f"model {resolved.name} has no mask token, so it has no masked-LM loss")
        encoder.need_head("masked-lm")
        encoder.load()
        used = encoder.precision or compute.dtype
        begin = time.monotonic()
        losses, tokens = np.zeros(self.rows), np.zeros(self.rows, np.int64)
        unknown = 0
        errors: dict[int, str] = {}
        for first in range(0, self.rows, TEXTS_AT_ONCE):
            part = self._texts[first : first + TEXTS_AT_ONCE]
            masked = mask(part, encoder.tokenizer)
            loss, failed = _losses(encoder, masked)
            known = masked.targets != encoder.tokenizer.mask_id
            owners = first + masked.owners[np.repeat(np.arange(len(masked.owners)), masked.counts)][known]
            np.add.at(losses, owners, loss[known])
            np.add.at(tokens, owners, 1)
            unknown += int((masked.targets == encoder.tokenizer.hf.unk_token_id).sum())
            errors |= {first + int(masked.owners[piece]): sentence for piece, sentence in failed.items()}
            if progress is not None:
                progress(len(part))
        if errors:
            row, sentence = min(errors.items())
            raise ModelError(f"model {resolved.name} could not do text {row + 1}: {sentence}")
        words = [len(text.words) for text in self._texts]
        notices = list(encoder.notices)
        if unknown:
            share = unknown / max(1, tokens.sum())
            notices.append(f"{share:.1%} of the hidden pieces are unknown to {resolved.name}: its figures flatter")
        columns: dict[str, list[Any]] = {"loss": losses.tolist(), "tokens": tokens.tolist(), "words": words}
        return Predicted(resolved, columns, {}, time.monotonic() - begin, used, tuple(notices))

    def measure(self, outcomes: Sequence[Predicted]) -> list[Measured]:
        return [
            Measured(
                loss_tally(*(outcome.columns[name] for name in ("loss", "tokens", "words"))),
                more={"hidden_words": sum(outcome.columns["words"]), "hidden_pieces": sum(outcome.columns["tokens"])},
            )
            for outcome in outcomes
        ]

    def notices(self, outcomes: Sequence[Predicted]) -> tuple[str, ...]:
        notices = super().notices(outcomes)
        if len({_how_it_cuts(outcome) for outcome in outcomes}) > 1:
            notices += ("the models cut words into different pieces: compare word_perplexity, not perplexity",)
        return notices


def _how_it_cuts(outcome: Predicted) -> tuple[object, ...]:
    """Equal for models that cut words alike. Not the tokenizer's hash: a training writes its base's file anew."""
    vocabulary = load_tokenizer(outcome.model).hf.get_vocab()
    return frozenset(vocabulary.items()), *outcome.columns["tokens"]


def hide(text: str, seed: int) -> HiddenText:
    """Chooses the words that are hidden, by a hash of seed and text."""
    words = [match.span() for match in _WORD.finditer(text) if match[1]]  # what is behind a <mask> nobody knows
    if not words:
        return HiddenText(text, ())
    digest = hashlib.blake2b(f"{seed}:{text}".encode("utf-8", "replace"), digest_size=16).digest()
    drawn = np.random.default_rng(int.from_bytes(digest, "little")).permutation(len(words))
    chosen = sorted(drawn[: max(1, round(RATE * len(words)))].tolist())
    return HiddenText(text, tuple(words[place] for place in chosen))


@dataclass(frozen=True)
class MaskedPieces:
    """p sequences with masks; a text longer than the model is several."""

    sequences: TokenSequences  # [p]
    owners: np.ndarray  # [p] int64: the text that each is of
    counts: np.ndarray  # [p] int64: masks in each
    targets: np.ndarray  # [M] int64: the hidden tokens, sequence by sequence; the mask for a <mask> of the text itself


def mask(texts: Sequence[HiddenText], tokenizer: TextTokenizer) -> MaskedPieces:
    """Tokenises whole texts, then hides the tokens that have a character of a hidden word. Pieces without are left."""
    sequences, offsets = tokenizer.encode_with_offsets([text.text for text in texts])
    room = tokenizer.max_length - len(tokenizer.before) - len(tokenizer.after)
    pieces: list[np.ndarray] = []
    owners: list[int] = []
    counts: list[int] = []
    targets: list[np.ndarray] = []
    for number, text in enumerate(texts):
        begin, end = int(sequences.offsets[number]), int(sequences.offsets[number + 1])
        hidden = _covered(offsets[begin:end], text.words)
        for start in range(begin, end, room):
            body = sequences.ids[start : min(start + room, end)].copy()
            here = hidden[start - begin : start - begin + len(body)]
            if not here.any():
                continue
            here = here | (body == tokenizer.mask_id)
            targets.append(body[here].astype(np.int64))
            body[here] = tokenizer.mask_id
            pieces.append(np.concatenate([tokenizer.before, body, tokenizer.after]))
            owners.append(number)
            counts.append(int(here.sum()))
    flat = np.concatenate(targets) if targets else np.zeros(0, np.int64)
    return MaskedPieces(TokenSequences.of(pieces), np.array(owners, np.int64), np.array(counts, np.int64), flat)


def _covered(offsets: np.ndarray, words: Sequence[tuple[int, int]]) -> np.ndarray:
    """[t] bool: tokens [t, 2] that have a character of one of `words`, which are in order and apart."""
    if not words:
        return np.zeros(len(offsets), bool)
    starts, ends = np.array(words).T
    after = np.searchsorted(ends, offsets[:, 0], side="right")  # the first word that ends behind the token's start
    known = np.minimum(after, len(words) - 1)
    covered: np.ndarray = (after < len(words)) & (starts[known] < offsets[:, 1])
    return covered


def _losses(encoder: SharedEncoder, masked: MaskedPieces) -> tuple[np.ndarray, dict[int, str]]:
    """[M] negative log likelihood of each target, and sequences that could not be done."""
    lm, mask_id = encoder.lm, encoder.tokenizer.mask_id
    first = np.cumsum(masked.counts) - masked.counts
    losses = np.zeros(len(masked.targets))

    def masks(sequences: TokenSequences) -> np.ndarray:
        return np.flatnonzero(sequences.ids == mask_id)

    def measure(rows: np.ndarray, sequences: TokenSequences, states: torch.Tensor) -> Iterator[Made]:
        places = spans(first[rows], masked.counts[rows])
        for part, logits in lm.logits_of(states):
            targets = on_device(masked.targets[places[part]], logits.device)
            loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
            yield Made(losses, places[part], loss)

    (report,) = encoder.run([Request(masked.sequences, masks, measure, head="masked-lm")])
    return losses, report.errors
