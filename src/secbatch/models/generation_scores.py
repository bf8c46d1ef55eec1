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

RUN = 64  # neighbours among scores of which `largest` looks at the largest first


@dataclass(frozen=True)
class RowFacts:
    """What the rules know of each of R sequences, the same at every step."""

    prompt_length: Tensor  # [R] int64: tokens of the decoder's prompt
    limit: Tensor  # [R] int64: the most new tokens
    encoder_ids: Tensor | None  # [R, S] int64, the prompt, NO_TOKEN where it is shorter

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
) -> None:
    """Writes the rules of `settings` into scores [R, V] float32, for sequences of `new_tokens` [R] new tokens.

    history: [R, L] int64, prompt and new tokens, ending at the newest; NO_TOKEN where a row is shorter.
    """
    length = facts.prompt_length + new_tokens  # [R]
    if settings.repetition_penalty != 1.0:
        _repetition_penalty(scores, history, settings.repetition_penalty)
    if settings.no_repeat_ngram_size > 0:
        _ban_ngrams(scores, history, history, settings.no_repeat_ngram_size)
    if settings.encoder_no_repeat_ngram_size > 0 and facts.encoder_ids is not None:
        _ban_ngrams(scores, facts.encoder_ids, history, settings.encoder_no_repeat_ngram_size)
    if settings.end_tokens and (settings.min_length > 0 or settings.min_new_tokens > 0):
        too_short = (length < settings.min_length) | (new_tokens < settings.min_new_tokens)
        _forbid(scores, settings.end_tokens, too_short)
    if settings.forced_bos_token_id is not None:
        _force(scores, (settings.forced_bos_token_id,), length == 1)
    if settings.forced_eos_token_ids:
        _force(scores, settings.forced_eos_token_ids, facts.limit == new_tokens + 1)
    if settings.suppress_tokens:
        _forbid(scores, settings.suppress_tokens, torch.ones_like(length, dtype=torch.bool))
    if settings.begin_suppress_tokens:
        # after a forced first token, the second is the first that the model chooses
        delay = (facts.prompt_length == 1).long() if settings.forced_bos_token_id is not None else 0
        _forbid(scores, settings.begin_suppress_tokens, length == facts.prompt_length + delay)


def narrow(settings: GenerationSettings, scores: Tensor) -> Tensor:
    """Temperature, top-k, top-p and min-p of scores [R, V] for sampling; a token cut off becomes -inf."""
    return _cut(settings, _tempered(settings, scores))


def narrow_to_some(settings: GenerationSettings, scores: Tensor) -> tuple[Tensor, Tensor | None]:
    """As `narrow`, but without most of what top-k cuts off.

    Scores [R, C] and the tokens that they are of, [R, C] ascending; None: those of all tokens, as they stand.
    """
    scores = _tempered(settings, scores)
    tokens = _some_tokens(settings, scores)
    return _cut(settings, scores if tokens is None else scores.gather(1, tokens)), tokens


def _tempered(settings: GenerationSettings, scores: Tensor) -> Tensor:
    return scores if settings.temperature == 1.0 else scores / settings.temperature


def _some_tokens(settings: GenerationSettings, scores: Tensor) -> Tensor | None:
    """All tokens that top-k leaves of scores [R, V], with others where a row has fewer: [R, C] ascending; None: all."""
    most = scores.shape[1] // 8
    if not 0 < settings.top_k <= most or scores.device.type != "cpu":  # asking a GPU would wait for it
        return None
    values, places = largest(scores, settings.top_k)
    left = int(torch.count_nonzero(scores >= values[:, -1:], dim=-1).max())
    if left > most:  # where rules forbid nearly all
        return None
    if left > settings.top_k:  # top-k leaves the equals of its last one, too
        places = largest(scores, left)[1]
    return places.sort(dim=-1).values


def _cut(settings: GenerationSettings, scores: Tensor) -> Tensor:
    # beam search needs one token beside the end tokens to go on with
    keep = len(settings.end_tokens) + 1 if settings.num_beams > 1 else 1
    if settings.top_k > 0:
        count = min(max(settings.top_k, keep), scores.shape[-1])
        scores = scores.masked_fill(scores < scores.topk(count).values[:, -1:], -math.inf)
    if settings.top_p < 1.0:
        ascending, order = scores.sort(dim=-1, stable=True)  # which of equals are cut depends on no others
        cut = ascending.softmax(-1).cumsum(-1) <= 1 - settings.top_p
        cut[:, -keep:] = False
        scores = scores.masked_fill(torch.zeros_like(cut).scatter(1, order, cut), -math.inf)
    if settings.min_p is not None:
        probabilities = scores.softmax(-1)
        cut = probabilities < settings.min_p * probabilities.amax(-1, keepdim=True)
        cut.scatter_(1, scores.topk(min(keep, scores.shape[-1])).indices, False)
        scores = scores.masked_fill(cut, -math.inf)
    return scores


def largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of scores [R, N], best first, and their places, as `topk`.

    They lie in the `count` runs with the largest maxima: the search for those is all that reads the whole.
    """
    rows, width = scores.shape
    runs = width // RUN
    if runs <= 4 * count:
        values, places = scores.topk(count)
        return values, places
    whole = scores[:, : runs * RUN].view(rows, runs, RUN)
    chosen = whole.amax(-1).topk(count).indices  # [R, count]
    places = (chosen[..., None] * RUN + torch.arange(RUN, device=scores.device)).flatten(1)
    rest = torch.arange(runs * RUN, width, device=scores.device).expand(rows, -1)
    places = torch.cat([places, rest], 1)
    values, found = scores.gather(1, places).topk(count)
    return values, places.gather(1, found)


def _repetition_penalty(scores: Tensor, history: Tensor, penalty: float) -> None:
    """Divides positive and multiplies negative scores of tokens already there (CTRL, arXiv:1909.05858)."""
    seen = (history >= 0) & (history < scores.shape[1])
    tokens = history.clamp(0, scores.shape[1] - 1)
    before = scores.gather(1, tokens)
    after = torch.where(before < 0, before * penalty, before / penalty)
    scores.scatter_reduce_(1, tokens, torch.where(seen, after, before), "amin" if penalty > 1 else "amax")


def _ban_ngrams(scores: Tensor, text: Tensor, history: Tensor, size: int) -> None:
    """Forbids each token that would end an n-gram of `text` [R, S] begun by the newest of `history`."""
    if text.shape[1] < size or history.shape[1] < size - 1:
        return
    newest = history[:, history.shape[1] - (size - 1) :]  # [R, n-1]
    windows = text.unfold(1, size, 1)  # [R, S-n+1, n]
    last = windows[..., -1]
    begun = (windows[..., :-1] == newest[:, None]).all(-1) & (newest != NO_TOKEN).all(-1, keepdim=True)
    begun &= (last >= 0) & (last < scores.shape[1])
    banned = torch.where(begun, -math.inf, math.inf).to(scores.dtype)
    scores.scatter_reduce_(1, last.clamp(0, scores.shape[1] - 1), banned, "amin")


def _forbid(scores: Tensor, tokens: tuple[int, ...], rows: Tensor) -> None:
    for token in tokens:
        if 0 <= token < scores.shape[1]:  # configurations have tokens that no model gives: -1
            scores[:, token].masked_fill_(rows, -math.inf)


def _force(scores: Tensor, tokens: tuple[int, ...], rows: Tensor) -> None:
    if rows.device.type == "cpu" and not bool(rows.any()):  # asking a GPU would wait for it
        return
    scores.masked_fill_(rows[:, None], -math.inf)
    for token in tokens:
        scores[:, token].masked_fill_(rows, 0.0)
