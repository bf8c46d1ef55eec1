"""transformers' cache of keys and values: put together from prompts read apart, and with room for what follows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import LongTensor, Tensor
from torch.nn.functional import pad
from transformers import cache_utils
from transformers.cache_utils import DynamicCache, DynamicLayer

# Those whose tensors have one row for each sequence, and whose columns end at the newest token; not all are in each
# version of transformers.
_LAYERS = (
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
)
_STATES = ("conv_states", "recurrent_states")  # of such layers: tensors by number
# Columns for new tokens, as a share of those in use: moving all to a larger place once in so many steps costs little.
_ROOM = 1 / 8


def joins(cache: Any) -> bool:
    """Whether the rows of such caches can be put together."""
    return type(cache) is DynamicCache and all(map(_is_known, cache.layers))


def keeps_no_keys(cache: Any) -> bool:
    """Whether it holds nothing but a state, as Mamba's: padding has been kept out of it, no column is to be hidden."""
    layers = cache.layers if type(cache) is DynamicCache else []
    return bool(layers) and all(type(layer) is getattr(cache_utils, "LinearAttentionLayer", None) for layer in layers)


def _is_known(layer: Any) -> bool:
    known = any(type(layer) is getattr(cache_utils, name, None) for name in _LAYERS)
    return known and all(isinstance(getattr(layer, name, {}), dict) for name in _STATES)


def joined(caches: Sequence[Any]) -> Any:
    """One cache of all rows in their order. The first one has the most columns; all are of no use any more.

    Layer by layer, so that hardly anything is there twice. Missing columns are filled on the left, with zeros: a mask
    hides them.
    """
    whole = caches[0]
    for place in range(len(whole.layers)):
        whole.layers[place] = _joined([cache.layers[place] for cache in caches])
    return whole


def _joined(layers: list[Any]) -> Any:
    first = layers[0]
    if type(first) is DynamicLayer and first.is_initialized:
        keys, values = ([getattr(layer, name) for layer in layers] for name in ("keys", "values"))
        for layer in layers:
            layer.keys = layer.values = None  # not `reset`: before transformers 5.18 that fills them with zeros
        return GrowingLayer(keys, values)
    for name in ("keys", "values"):
        if getattr(first, name, None) is not None:
            width = getattr(first, name).shape[-2]
            parts = [getattr(layer, name) for layer in layers]
            setattr(first, name, torch.cat([pad(part, (0, 0, width - part.shape[-2], 0)) for part in parts]))
    for name in _STATES:
        states = getattr(first, name, {})
        for number in [number for number, state in states.items() if state is not None]:
            states[number] = torch.cat([getattr(layer, name)[number] for layer in layers])
    for layer in layers[1:]:
        layer.__dict__.clear()
    return first


class GrowingLayer(DynamicLayer):
    """Keys and values with room behind them: a new token's are written there, and the others stay where they are."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: list[Tensor], values: list[Tensor]) -> None:
        """Of some rows after the others, [B, H, N, D] each; the first have the most columns N. Empties the lists."""
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys[0].dtype, keys[0].device, True
        used = keys[0].shape[-2]
        self._room = [_with_room(keys), _with_room(values)]
        self._use(used)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        used, more = self.keys.shape[-2], key_states.shape[-2]
        if not self._room or used + more > self._room[0].shape[-2]:
            self._room = []
            self._room = [_with_room([self.keys], more), _with_room([self.values], more)]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, used : used + more] = states
        self._use(used + more)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        self._room = []  # what follows puts other tensors in its place
        super().reorder_cache(beam_idx)

    def _use(self, columns: int) -> None:
        self.keys, self.values = (room[:, :, :columns] for room in self._room)


def _with_room(parts: list[Tensor], more: int = 0) -> Tensor:
    """`parts` [B, H, N, D] below each other, and columns for `more` tokens and some to come. Empties the list."""
    first, rows = parts[0], sum(map(len, parts))
    used = first.shape[-2]
    room = first.new_empty(rows, first.shape[1], used + more + max(1, int(used * _ROOM)), first.shape[3])
    begin = 0
    while parts:
        part = parts.pop(0)
        end, gap = begin + len(part), used - part.shape[-2]
        room[begin:end, :, :gap] = 0
        room[begin:end, :, gap:used] = part
        begin = end
    return room
