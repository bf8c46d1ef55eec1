"""The rules that change a step's scores before a token is chosen, for a whole batch without a Python loop.

They follow the definitions of transformers' logits processors, in their order, but each row has its own
prompt length and its own encoder text: padding never counts as a token, so a row's scores do not depend on
the batch it fell into. -1 marks "no token" in every table of ids.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secbatch.models.generation_settings import GenerationSettings
from secbatch.models.generation_steps import NO_TOKEN


@dataclass(frozen=True)
class RowFacts:
    """What the rules know of each of R sequences, the same at every step."""

    prompt_length: Tensor  # [R] int64: tokens of the decoder's prompt
    limit: Tensor  # [R] int64: the most new tokens
    encoder_ids: Tensor | None  # [R, S] int64, NO_TOKEN where the encoder's text is shorter

    def select(self, rows: Tensor) -> "RowFacts":
        encoder_ids = None if self.encoder_ids is None else self.encoder_ids[rows]
        return replace(self, prompt_length=self.prompt_length[rows], limit=self.limit[rows], encoder_ids=encoder_ids)

    def put(self, rows: Tensor, facts: "RowFacts") -> None:
        """Writes `facts` over `rows` [R']."""
        self.prompt_length[rows], self.limit[rows] = facts.prompt_length, facts.limit
        if self.encoder_ids is not None and facts.encoder_ids is not None:
            self.encoder_ids[rows] = NO_TOKEN
            self.encoder_ids[rows, : facts.encoder_ids.shape[1]] = facts.encoder_ids


def apply_rules(
    settings: GenerationSettings, scores: Tensor, history: Tensor, new_tokens: Tensor, facts: RowFacts
) -> Tensor:
    """Scores [R, V] float32 after the rules of `settings`, for sequences of `new_tokens` [R] new tokens.

    history: [R, L] int64, prompt and new tokens, ending at the newest; NO_TOKEN where a row is shorter.
    """
    length = facts.prompt_length + new_tokens  # [R]
    if settings.repetition_penalty != 1.0:
        scores = _repetition_penalty(scores, history, settings.repetition_penalty)
    if settings.no_repeat_ngram_size > 0:
        scores = _ban_ngrams(scores, history, history, settings.no_repeat_ngram_size)
    if settings.encoder_no_repeat_ngram_size > 0 and facts.encoder_ids is not None:
        scores = _ban_ngrams(scores, facts.encoder_ids, history, settings.encoder_no_repeat_ngram_size)
    if settings.end_tokens and (settings.min_length > 0 or settings.min_new_tokens > 0):
        too_short = (length < settings.min_length) | (new_tokens < settings.min_new_tokens)
        scores = _forbid(scores, settings.end_tokens, too_short)
    if settings.forced_bos_token_id is not None:
        scores = _force(scores, (settings.forced_bos_token_id,), length == 1)
    if settings.forced_eos_token_ids:
        scores = _force(scores, settings.forced_eos_token_ids, facts.limit == new_tokens + 1)
    if settings.suppress_tokens:
        scores = _forbid(scores, settings.suppress_tokens, torch.ones_like(length, dtype=torch.bool))
    if settings.begin_suppress_tokens:
        # after a forced first token, the second is the first that the model chooses
        delay = (facts.prompt_length == 1).long() if settings.forced_bos_token_id is not None else 0
        scores = _forbid(scores, settings.begin_suppress_tokens, length == facts.prompt_length + delay)
    return scores


def narrow(settings: GenerationSettings, scores: Tensor) -> Tensor:
    """Temperature, top-k, top-p and min-p of scores [R, V] for sampling; a token cut off becomes -inf."""
    # beam search needs one token beside the end tokens to go on with
    keep = len(settings.end_tokens) + 1 if settings.num_beams > 1 else 1
    if settings.temperature != 1.0:
        scores = scores / settings.temperature
    if settings.top_k > 0:
        count = min(max(settings.top_k, keep), scores.shape[-1])
        scores = scores.masked_fill(scores < scores.topk(count).values[:, -1:], -math.inf)
    if settings.top_p < 1.0:
        ascending, order = scores.sort(dim=-1)
        cut = ascending.softmax(-1).cumsum(-1) <= 1 - settings.top_p
        cut[:, -keep:] = False
        scores = scores.masked_fill(torch.zeros_like(cut).scatter(1, order, cut), -math.inf)
    if settings.min_p is not None:
        probabilities = scores.softmax(-1)
        cut = probabilities < settings.min_p * probabilities.amax(-1, keepdim=True)
        cut.scatter_(1, scores.topk(min(keep, scores.shape[-1])).indices, False)
        scores = scores.masked_fill(cut, -math.inf)
    return scores


def _repetition_penalty(scores: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Divides positive and multiplies negative scores of tokens already there (CTRL, arXiv:1909.05858)."""
    seen = _mark(history, scores)
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def _ban_ngrams(scores: Tensor, text: Tensor, history: Tensor, size: int) -> Tensor:
    """Forbids each token that would end an n-gram of `text` [R, S] begun by the newest of `history`."""
    if text.shape[1] < size or history.shape[1] < size - 1:
        return scores
    newest = history[:, history.shape[1] - (size - 1) :]  # [R, n-1]
    windows = text.unfold(1, size, 1)  # [R, S-n+1, n]
    begun = (windows[..., :-1] == newest[:, None]).all(-1) & (newest != NO_TOKEN).all(-1, keepdim=True)
    return scores.masked_fill(_mark(torch.where(begun, windows[..., -1], NO_TOKEN), scores), -math.inf)


def _mark(ids: Tensor, scores: Tensor) -> Tensor:
    """[R, V] bool: which tokens of the vocabulary stand in `ids` [R, L]."""
    vocabulary = scores.shape[1]
    marks = torch.zeros(scores.shape[0], vocabulary + 1, dtype=torch.bool, device=scores.device)
    # ids outside the vocabulary (NO_TOKEN, added tokens without a score) go to a spare column
    inside = torch.where((ids >= 0) & (ids < vocabulary), ids, vocabulary)
    return marks.scatter_(1, inside, True)[:, :vocabulary]


def _forbid(scores: Tensor, tokens: tuple[int, ...], rows: Tensor) -> Tensor:
    columns = torch.tensor([token for token in tokens if token < scores.shape[1]], device=scores.device)
    scores = scores.clone()
    scores[:, columns] = scores[:, columns].masked_fill(rows[:, None], -math.inf)
    return scores


def _force(scores: Tensor, tokens: tuple[int, ...], rows: Tensor) -> Tensor:
    if not bool(rows.any()):
        return scores
    forced = torch.full_like(scores[:1], -math.inf)
    forced[:, list(tokens)] = 0.0
    return torch.where(rows[:, None], forced, scores)
