"""A model one token at a time: prompts in, then a token a sequence in and the scores of the next one out.

Both classes hold R sequences (rows, or rows times beams) of one batch, all with the same number of new
tokens. The encoder runs once a row and the keys of its text are computed once a row, never once a beam.
"""

import inspect
import math
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secbatch.models.generation_cache import joined, joins, keeps_no_keys

NO_TOKEN = -1  # in tables of ids whose rows differ in length

# Finished rows keep their places until this share of them is free: closing them copies all keys and values.
SHRINK_AT = 0.25
NEVER = math.inf
# Prompt tokens that a model gets at a time on a CPU: what more of them make in a layer leaves its caches.
READ_AT_ONCE = 1024


class NoKeysAndValuesError(Exception):
    """The model's state is no cache whose rows can be taken apart (RWKV and others)."""


class Steps(Protocol):
    """What the search loops need of a model. Sequences lie row by row: the K beams of a row are neighbours."""

    padding: int  # padded prompt positions so far

    @property
    def shrink_at(self) -> float:
        """The share of finished rows from which on it pays to drop them."""
        ...

    def start(self, prompts: list[list[int]], copies: int) -> Tensor:
        """Takes B prompts and makes K = `copies` sequences of each; logits [B * K, V] of the first new token."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Takes the newest token of each sequence [R]; logits [R, V] float32 of the one after it."""
        ...

    def reorder(self, source: Tensor) -> None:
        """Sequence i goes on from sequence source[i] [R], which belongs to the same row."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drops all sequences but `rows` [R'], in their order."""
        ...


@runtime_checkable
class EnteringSteps(Protocol):
    """What `Steps` have besides where rows may begin while others are on their way.

    Those on transformers' caches do not: these hold rows of one length.
    """

    slots: int  # keys and values of its answer for which a row has room

    def enter(self, places: list[int], prompts: list[list[int]]) -> None:
        """Puts a prompt in each of `places`; the next step takes its first token."""
        ...


def pad(sequences: list[list[int]], fill: int, left: bool, device: "torch.device | str") -> Tensor:
    """[B, longest] int64, filled on the left or on the right."""
    width = max(map(len, sequences))
    rows = [[fill] * (width - len(s)) + s if left else s + [fill] * (width - len(s)) for s in sequences]
    return torch.tensor(rows, dtype=torch.long, device=device)


def some_after_others(lengths: list[int], at_once: int) -> Iterator[tuple[slice, int]]:
    """Rows of `lengths` tokens, of which those that come together have `at_once` when padded to the longest left.

    Gives the rows and that length. The rows should come longest first.
    """
    first = 0
    while first < len(lengths):
        width = max(lengths[first:])
        rows = slice(first, first + max(1, at_once // width))
        yield rows, width
        first = rows.stop


def _cache_name(model: Any) -> str:
    """What a forward calls the state that it goes on from; its output calls it so, too."""
    accepts = inspect.signature(model.forward).parameters
    # transformers' name since 5.24, where the others warn and go with 5.40; Mamba's before; the others' before
    return next((name for name in ("cache", "cache_params") if name in accepts), "past_key_values")


def _checked(cache: Any) -> Any:
    if not hasattr(cache, "reorder_cache"):
        raise NoKeysAndValuesError
    return cache


def _mask(real: Tensor, lengths: list[int]) -> Tensor | None:
    """Nothing without padding, as in transformers: attention then takes its faster causal form.

    `lengths`: of the rows of `real`, which need not be asked: a GPU would be waited for.
    """
    return None if min(lengths) == real.shape[1] else real.long()


def _copies(rows: int, copies: int, device: torch.device) -> Tensor:
    """0, 0, 1, 1, … for two copies of each row."""
    return torch.arange(rows, device=device).repeat_interleave(copies)


class EncoderDecoderSteps:
    """A sequence-to-sequence model: the prompt is the encoder's text, padded on the right and masked."""

    shrink_at = SHRINK_AT
    cache: Any

    def __init__(self, model: Any, start_token: int, pad_token: int, at_once: int | None = None) -> None:
        """`at_once`: prompt tokens that the encoder gets at a time on a CPU."""
        self.model, self.start_token, self.pad_token = model, start_token, pad_token
        self.cache_name = _cache_name(model)
        self.at_once, self.padding = at_once or READ_AT_ONCE, 0

    def start(self, prompts: list[list[int]], copies: int) -> Tensor:
        ids = pad(prompts, NO_TOKEN, left=False, device=self.model.device)  # [B, S]
        self.mask = (ids != NO_TOKEN).long()
        lengths = list(map(len, prompts))
        self.padding += ids.numel() - sum(lengths)
        self.encoded = self._encode(ids.masked_fill(ids == NO_TOKEN, self.pad_token), lengths)
        self.cache = None
        logits = self.step(torch.full((len(prompts),), self.start_token, device=self.model.device))
        if copies == 1:
            return logits
        rows = _copies(len(prompts), copies, self.model.device)
        self.keep(rows)
        return logits[rows]

    def _encode(self, ids: Tensor, lengths: list[int]) -> Any:
        """The encoder's output for `ids` [B, S], on a CPU of some rows after the others."""
        encoder, whole = self.model.get_encoder(), ids.shape[1]
        made: list[Tensor] = []
        at_once = self.at_once if ids.device.type == "cpu" else ids.numel()
        for rows, width in some_after_others(lengths, at_once):
            output = encoder(input_ids=ids[rows, :width], attention_mask=self.mask[rows, :width], return_dict=True)
            if rows.stop >= len(ids) and not made:
                return output
            if set(output) != {"last_hidden_state"}:  # what else there is (ProphetNet) is not ours to put together
                return encoder(input_ids=ids, attention_mask=self.mask, return_dict=True)
            made.append(nn.functional.pad(output.last_hidden_state, (0, 0, 0, whole - width)))
        output["last_hidden_state"] = torch.cat(made)
        return output

    def step(self, tokens: Tensor) -> Tensor:
        out = self.model(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=tokens[:, None],
            use_cache=True,
            return_dict=True,
            **{self.cache_name: self.cache},
        )
        self.cache = _checked(getattr(out, self.cache_name, None))
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def reorder(self, source: Tensor) -> None:
        # the keys of the encoder's text are the same for all beams of a row
        self.cache.self_attention_cache.reorder_cache(source)

    def keep(self, rows: Tensor) -> None:
        # the output that the encoder gave, not only its states [R, S, width]: ProphetNet and others ask it for more
        self.encoded["last_hidden_state"] = self.encoded.last_hidden_state[rows]
        self.mask = self.mask[rows]
        self.cache.reorder_cache(rows)


class DecoderSteps:
    """A decoder-only model: prompts padded on the left and masked, positions counted from the first token."""

    shrink_at = SHRINK_AT
    cache: Any

    def __init__(self, model: Any, pad_token: int, at_once: int | None = None) -> None:
        """`at_once`: prompt tokens that are read at a time on a CPU."""
        self.model, self.pad_token = model, pad_token
        self.at_once, self.padding = at_once or READ_AT_ONCE, 0
        accepts = inspect.signature(model.forward).parameters
        self.accepts_positions = "position_ids" in accepts
        self.cache_name = _cache_name(model)
        self.extra = {"logits_to_keep": 1} if "logits_to_keep" in accepts else {}

    def start(self, prompts: list[list[int]], copies: int) -> Tensor:
        ids = pad(prompts, NO_TOKEN, left=True, device=self.model.device)  # [B, S]
        real = ids != NO_TOKEN
        lengths = list(map(len, prompts))
        self.mask = _mask(real, lengths)
        self.positions = (real.long().cumsum(-1) - 1).clamp(min=0)
        at_once = self.at_once if ids.device.type == "cpu" else ids.numel()
        logits = self._read(ids.masked_fill(~real, self.pad_token), real, lengths, at_once)
        if copies == 1:
            return logits
        rows = _copies(len(prompts), copies, self.model.device)
        self.keep(rows)
        return logits[rows]

    def step(self, tokens: Tensor) -> Tensor:
        if keeps_no_keys(self.cache):  # its model takes a mask as one of the new tokens
            self.mask = None
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        self.positions = self.positions[:, -1:] + 1
        logits, self.cache = self._forward(tokens[:, None], self.mask, self.positions, self.cache)
        return logits

    def _read(self, ids: Tensor, real: Tensor, lengths: list[int], at_once: int) -> Tensor:
        """Logits [B, V] after prompts `ids` [B, S] of `lengths`, read some after the others."""
        caches, logits = [], []
        for rows, width in some_after_others(lengths, at_once):
            part = rows, slice(ids.shape[1] - width, None)
            mask = _mask(real[part], lengths[rows])
            scores, cache = self._forward(ids[part], mask, self.positions[part], None)
            apart = ids.device.type == "cpu" and joins(cache)
            if rows.stop < len(ids) and not apart:  # what it holds is not ours to put together
                return self._read(ids, real, lengths, ids.numel())
            self.padding += real[part].numel() - sum(lengths[rows])
            caches.append(cache)
            logits.append(scores)
        self.cache = joined(caches) if apart else cache
        return torch.cat(logits)

    def _forward(self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits [R, V] of the token after `ids` [R, N], which follow what is in `cache`, and the cache after them."""
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=True,
            return_dict=True,
            **{self.cache_name: cache},
            **({"position_ids": positions} if self.accepts_positions else {}),
            **self.extra,
        )
        logits: Tensor = out.logits[:, -1].float()
        return logits, _checked(getattr(out, self.cache_name, None))

    def reorder(self, source: Tensor) -> None:
        self.cache.reorder_cache(source)

    def keep(self, rows: Tensor) -> None:
        self.mask = None if self.mask is None else self.mask[rows]
        self.positions = self.positions[rows]
        self.cache.reorder_cache(rows)  # not batch_select_indices: a layer with keys and a state forgets the state
