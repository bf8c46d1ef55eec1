"""Blenderbot's decoder, one token for many rows at different places in their answers.

The keys of the encoder's text are computed once a row and read by all its beams together: for the attention, K
beams are K queries. Keys and values of the answer are written once and never moved: a beam that goes on from
another one inherits a mask of the slots it sees, not a copy. A slot that no beam sees any more is used again, so
that what a row keeps is one entry for each token its beams have in common and not K. So, too, a row can begin
while others are on their way.
The arithmetic is that of transformers' BlenderbotForConditionalGeneration.

Shapes: B rows (places), K beams, H heads, D width of a head, S encoder tokens, T decoder positions, C slots.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from secbatch.models import streams
from secbatch.models.device import cpu_has_amx_bf16
from secbatch.models.generation_attention import attention
from secbatch.models.generation_graph import Recorded
from secbatch.models.generation_steps import NEVER, NO_TOKEN, READ_AT_ONCE, SHRINK_AT, pad
from secbatch.models.linear import Linear
from secbatch.models.packed import ROWS

SLOTS_AT_A_TIME = 64  # by how many slots a row the cache grows
# On a GPU: steps for which there is room when it is asked whether there is room, since asking waits for it; and
# sequences of which fewer take no less time, so that a step is not recorded anew for them.
STEPS_AHEAD = 4
FEWEST_SEQUENCES = 1024
# On a CPU so many sequences of a step, or more, go side by side with others: for fewer, all weights would come from
# memory too often. AMX does as much with them in a quarter of the time at most.
SEQUENCES_OF_A_PART, ON_AMX = 96, 4
ENTERING_AT_ONCE = 32  # texts that the encoder gets together on a CPU: like lengths are neighbours, and padding is work
ALIGNED = 16  # attention kernels copy a mask whose rows do not lie at multiples of 16 bytes


def is_blenderbot(model: Any) -> bool:
    from transformers import BlenderbotForConditionalGeneration

    return type(model) is BlenderbotForConditionalGeneration


@dataclass(frozen=True)
class Layer:
    """One decoder layer. Keys and values of a head lie side by side, [..., H, 2 * D], and are written together."""

    own_norm: nn.LayerNorm
    own: Linear  # H * D -> query [H * D], keys and values [H * 2 * D]
    own_out: Linear
    text_norm: nn.LayerNorm
    text_query: Linear
    text: Linear  # encoder's H * D -> keys and values [H * 2 * D]
    text_out: Linear
    norm: nn.LayerNorm
    up: Linear
    down: Linear


class BlenderbotDecoder:
    """The decoder's weights, laid out for single steps; made once a model."""

    def __init__(self, model: Any, owned: bool = False) -> None:
        """`model`: BlenderbotForConditionalGeneration in eval mode on its device.

        `owned`: it gives away its decoder's linear layers as they are laid out, and decodes no more itself.
        """
        self.model, self.owned, decoder = model, owned, model.model.decoder
        self.heads = model.config.decoder_attention_heads
        self.head_width = model.config.d_model // self.heads
        self.tokens, self.positions, self.norm = decoder.embed_tokens, decoder.embed_positions, decoder.layer_norm
        self.activation = None if model.config.activation_function == "gelu" else decoder.layers[0].activation_fn
        self.layers = [self._layer(layer) for layer in decoder.layers]
        self.head = Linear(model.lm_head.weight.detach(), model.final_logits_bias[0])
        attention(model.device, model.dtype, self.head_width)  # compiled before it is wanted: what prevents it is told

    def _layer(self, layer: Any) -> Layer:
        own, text = layer.self_attn, layer.encoder_attn
        weight, bias = self._keys_and_values(own)
        own_weight = torch.cat([own.q_proj.weight.detach(), weight])
        made = Layer(
            own_norm=layer.self_attn_layer_norm,
            own=Linear(own_weight, torch.cat([own.q_proj.bias.detach(), bias])),
            own_out=Linear.of(own.out_proj),
            text_norm=layer.encoder_attn_layer_norm,
            text_query=Linear.of(text.q_proj),
            text=Linear(*self._keys_and_values(text)),
            text_out=Linear.of(text.out_proj),
            norm=layer.final_layer_norm,
            up=Linear.of(layer.fc1),
            down=Linear.of(layer.fc2),
        )
        for module in layer.modules() if self.owned else ():
            if isinstance(module, nn.Linear):
                module.to("meta")
        return made

    def _keys_and_values(self, attention: Any) -> tuple[Tensor, Tensor]:
        """Weight [H * 2 * D, in] and bias of keys and values, head by head."""
        modules = (attention.k_proj, attention.v_proj)
        weights = [module.weight.detach().view(self.heads, -1, module.in_features) for module in modules]
        biases = [module.bias.detach().view(self.heads, -1) for module in modules]
        return torch.cat(weights, 1).flatten(0, 1), torch.cat(biases, 1).flatten()

    def inner(self, layer: Layer, x: Tensor) -> Tensor:
        return layer.up.gelu(x) if self.activation is None else self.activation(layer.up(x))


class BlenderbotSteps:
    """The `Steps` of a batch; see there."""

    def __init__(self, decoder: BlenderbotDecoder, start_token: int, pad_token: int, positions: int) -> None:
        """`positions`: T, the most decoder positions that any row of the batch needs."""
        self.decoder, self.model = decoder, decoder.model
        self.start_token, self.pad_token, self.positions = start_token, pad_token, positions
        self.heads, self.padding, self.slots = decoder.heads, 0, 0
        self.attention = attention(self.model.device, self.model.dtype, decoder.head_width)
        # On a GPU a step's shapes stay as they are until there is no room left, so that it can be recorded.
        cuda = self.model.device.type == "cuda"
        self.record: type[Recorded] | None = Recorded if cuda else None
        self._recorded: Recorded | None = None

    @property
    def steps_ahead(self) -> int:
        return STEPS_AHEAD if self.record else 1

    @property
    def shrink_at(self) -> float:
        if self.record is None:
            return SHRINK_AT
        return 0.5 if len(self.length) * self.beams > FEWEST_SEQUENCES else NEVER

    def start(self, prompts: list[list[int]], copies: int) -> Tensor:
        places, longest = len(prompts), max(map(len, prompts))
        longest = self._aligned(longest)
        width = self.model.config.d_model // self.heads
        device, dtype = self.model.device, self.model.dtype
        self.beams, self.live = copies, 0  # slots of any row that beams see are no more than `live`
        self.most_slots = self._aligned(self.positions * copies)
        self.slots = min(self._aligned(copies * self.steps_ahead + SLOTS_AT_A_TIME), self.most_slots)
        self.length = torch.zeros(places, dtype=torch.long, device=device)  # [B] decoder positions in use
        self.visible = torch.zeros(places, copies, self.slots, dtype=torch.bool, device=device)  # [B, K, C]
        self.text_mask = torch.full((places, 1, 1, longest), -math.inf, dtype=dtype, device=device)
        # Keys and values of the answers, [B, H, C, 2 * D], and of the encoder's texts, [B, H, S, 2 * D].
        own, text = (places, self.heads, self.slots, 2 * width), (places, self.heads, longest, 2 * width)
        self.own = [torch.zeros(own, dtype=dtype, device=device) for _ in self.decoder.layers]
        self.text = [torch.zeros(text, dtype=dtype, device=device) for _ in self.decoder.layers]
        self.enter(list(range(places)), prompts)
        return self.step(torch.full((places * copies,), self.start_token, device=device))

    def enter(self, places: list[int], prompts: list[list[int]]) -> None:
        fitting = max(1, READ_AT_ONCE // max(map(len, prompts)))
        at_once = len(prompts) if self.record else min(ENTERING_AT_ONCE, fitting)
        rows = torch.tensor(places, device=self.model.device)
        self.text_mask[rows] = -math.inf
        self.visible[rows], self.length[rows] = False, 0
        for start in range(0, len(prompts), at_once):
            self._enter(rows[start : start + at_once], prompts[start : start + at_once])

    def _enter(self, rows: Tensor, prompts: list[list[int]]) -> None:
        """The texts of `rows` [B'], to whose places nothing of others belongs any more."""
        ids = pad(prompts, NO_TOKEN, left=False, device=self.model.device)  # [B', S']
        mask = ids != NO_TOKEN
        self.padding += ids.numel() - sum(map(len, prompts))
        ids = ids.masked_fill(~mask, self.pad_token)
        encoded = self.model.model.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        longest = ids.shape[1]
        self.text_mask[rows, 0, 0, :longest] = torch.where(mask, 0.0, -math.inf).to(self.text_mask.dtype)
        filled = nn.functional.pad(encoded.flatten(0, 1), (0, 0, 0, -ids.numel() % ROWS))  # see packed.py
        for number, layer in enumerate(self.decoder.layers):
            pairs = layer.text(filled)[: ids.numel()].view(*ids.shape, self.heads, -1)
            self.text[number][rows, :, :longest] = pairs.transpose(1, 2)

    def step(self, tokens: Tensor) -> Tensor:
        slots, used = self._take_slots()
        # each of the B * K * H new pairs of keys and values goes to a line of the cache [B * H * C, 2 * D]
        row_and_head = torch.arange(len(self.length) * self.heads, device=tokens.device).view(-1, 1, self.heads)
        lines = (row_and_head * self.slots + slots[..., None]).view(-1)
        zero = torch.zeros((), dtype=self.text_mask.dtype, device=tokens.device)
        mask = zero.where(self.visible[:, None, :, :used], -math.inf)  # [B, 1, K, used]
        inputs = tokens, self.length.repeat_interleave(self.beams), lines, mask
        self.length = self.length + 1
        if self.record is None:
            return self._layers(*inputs)
        self._recorded = self._recorded or self.record(self._layers, inputs)
        return self._recorded(*inputs)

    def _layers(self, tokens: Tensor, position: Tensor, lines: Tensor, mask: Tensor) -> Tensor:
        """Logits [B * K, V] float32. tokens, position: [B * K]. lines, mask: as `step` makes them."""
        rows = len(mask)
        parts = 1 if self.record else self._parts(rows)
        firsts = [rows * part // parts for part in range(parts + 1)]
        works = []
        for first, end in pairwise(firsts):
            sequences = slice(first * self.beams, end * self.beams)
            pairs = slice(sequences.start * self.heads, sequences.stop * self.heads)
            inputs = tokens[sequences], position[sequences], lines[pairs], mask[first:end]
            works.append(self._through(slice(first, end), *inputs))
        made = streams.side_by_side(works, parts)
        return torch.cat(made) if parts > 1 else made[0]

    def _parts(self, rows: int) -> int:
        """How many parts of so many rows go side by side."""
        amx = self.text_mask.dtype == torch.bfloat16 and cpu_has_amx_bf16()
        fewest = SEQUENCES_OF_A_PART * (ON_AMX if amx else 1)
        return max(1, min(rows, torch.get_num_threads(), rows * self.beams // fewest))

    def _through(
        self, rows: slice, tokens: Tensor, position: Tensor, lines: Tensor, mask: Tensor
    ) -> streams.Steps[Tensor]:
        """Logits of `rows`, to which the other arguments belong. A layer is a step."""
        decoder, used = self.decoder, mask.shape[-1]
        hidden = decoder.tokens(tokens) + decoder.positions.weight[position]  # [B' * K, H * D]
        width = hidden.shape[1]
        for layer, own, text in zip(decoder.layers, self.own, self.text, strict=True):
            yield
            made = layer.own(layer.own_norm(hidden))
            own.view(-1, own.shape[-1]).index_copy_(0, lines, made[:, width:].reshape(len(lines), -1))
            seen = self._attend(made[:, :width], own[rows, :, :used], mask)
            hidden = layer.own_out.plus(seen, hidden)
            seen = self._attend(layer.text_query(layer.text_norm(hidden)), text[rows], self.text_mask[rows])
            hidden = layer.text_out.plus(seen, hidden)
            hidden = layer.down.plus(decoder.inner(layer, layer.norm(hidden)), hidden)
        yield
        return decoder.head(decoder.norm(hidden)).float()

    def _take_slots(self) -> tuple[Tensor, int]:
        """[B, K]: where each beam writes; and how many slots of each row there are to be looked at."""
        # a row that is through begins anew until another takes its place
        over = self.length >= self.positions
        self.length = self.length.masked_fill(over, 0)
        self.visible &= ~over[:, None, None]
        taken = self.visible.any(1)  # [B, C]
        if self.live + self.beams > self.slots and self.slots < self.most_slots:
            self.live = int(taken.sum(1).max())
            needed = self.live + self.beams * self.steps_ahead
            if needed > self.slots:
                self._grow(min(self._aligned(needed + SLOTS_AT_A_TIME), self.most_slots) - self.slots)
                taken = self.visible.any(1)
        self.live += self.beams
        places = torch.arange(self.slots, device=taken.device)
        slots = places.masked_fill(taken, self.slots).topk(self.beams, largest=False).values
        self.visible.scatter_(2, slots[..., None], True)
        if self.record is not None:
            return slots, self.slots
        return slots, int(torch.where(self.visible.any(1).any(0), places, 0).max()) + 1

    def _aligned(self, count: int) -> int:
        return count + -count % ALIGNED if self.record else count

    def _grow(self, more: int) -> None:
        self.slots, self._recorded = self.slots + more, None
        self.visible = nn.functional.pad(self.visible, (0, more))
        for number, own in enumerate(self.own):
            self.own[number] = nn.functional.pad(own, (0, 0, 0, more))

    def reorder(self, source: Tensor) -> None:
        beams = source.view(-1, self.beams) % self.beams  # [B, K]
        self.visible = self.visible.gather(1, beams[..., None].expand_as(self.visible))

    def keep(self, rows: Tensor) -> None:
        places = rows.view(-1, self.beams)[:, 0] // self.beams
        self.length, self.visible, self.text_mask = (
            self.length[places],
            self.visible[places],
            self.text_mask[places],
        )
        self._recorded = None
        for cache in (self.own, self.text):
            for number, one in enumerate(cache):
                cache[number] = one[places] if self.record else self._moved(one, places)

    def _moved(self, cache: Tensor, places: Tensor) -> Tensor:
        """`cache[places]` in the memory of `cache`: rows that are where they are to be are not copied."""
        others = torch.nonzero(places != torch.arange(len(places))).view(-1)
        cache[others] = cache[places[others]]
        return cache[: len(places)]

    def _attend(self, query: Tensor, pairs: Tensor, mask: Tensor) -> Tensor:
        """query: [B * K, H * D]; pairs: [B, H, N, 2 * D] keys and values; mask: [B, 1, K or 1, N]. [B * K, H * D]."""
        rows, width = len(pairs), pairs.shape[-1] // 2
        query = query.view(rows, -1, self.heads, width).transpose(1, 2)  # [B, H, K, D]
        return self.attention(query, pairs, mask).reshape(-1, self.heads * width)
