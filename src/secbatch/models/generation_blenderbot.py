"""Blenderbot's decoder, one token for many rows at different places in their answers.

The keys of the encoder's text are computed once a row and read by all its beams together: for the attention, K
beams are K queries. Keys and values of the answer are written once and never moved: a beam that goes on from
another one inherits a mask of the places it sees, not a copy. So a row can begin while others are on their way.
The arithmetic is that of transformers' BlenderbotForConditionalGeneration, with its own layers.

Shapes: B rows (places), K beams, H heads, D width of a head, S encoder tokens, T decoder positions.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from secbatch.models.generation_steps import NO_TOKEN, pad


def is_blenderbot(model: Any) -> bool:
    from transformers import BlenderbotForConditionalGeneration

    return type(model) is BlenderbotForConditionalGeneration


class BlenderbotSteps:
    """The `Steps` of a batch; see there."""

    can_enter = True

    def __init__(self, model: Any, start_token: int, pad_token: int, positions: int) -> None:
        """`positions`: T, the most decoder positions that any row of the batch needs."""
        self.model, self.decoder = model, model.model.decoder
        self.start_token, self.pad_token, self.positions = start_token, pad_token, positions
        self.heads = model.config.decoder_attention_heads
        self.padding = 0

    def start(self, prompts: list[list[int]], copies: int) -> Tensor:
        places, longest = len(prompts), max(map(len, prompts))
        width = self.model.config.d_model // self.heads
        device, dtype = self.model.device, self.model.dtype
        self.beams = copies
        self.length = torch.zeros(places, dtype=torch.long, device=device)  # [B] decoder positions in use
        self.visible = torch.zeros(places, copies, self.positions * copies, dtype=torch.bool, device=device)
        self.text_mask = torch.zeros(places, 1, 1, longest, dtype=torch.bool, device=device)
        layers = range(len(self.decoder.layers))
        # The last two: a place for each position and beam, [B, H, T * K, D], and the encoder's text, [B, H, S, D].
        answer, text = (
            (places, self.heads, self.positions * copies, width),
            (places, self.heads, longest, width),
        )
        self.keys = [torch.zeros(answer, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.zeros(answer, dtype=dtype, device=device) for _ in layers]
        self.text_keys = [torch.zeros(text, dtype=dtype, device=device) for _ in layers]
        self.text_values = [torch.zeros(text, dtype=dtype, device=device) for _ in layers]
        self.enter(list(range(places)), prompts)
        return self.step(torch.full((places * copies,), self.start_token, device=device))

    def enter(self, places: list[int], prompts: list[list[int]]) -> None:
        ids = pad(prompts, NO_TOKEN, left=False, device=self.model.device)  # [B', S']
        mask = ids != NO_TOKEN
        self.padding += mask.numel() - int(mask.sum())
        ids = ids.masked_fill(~mask, self.pad_token)
        encoded = self.model.model.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        longest = ids.shape[1]
        self.text_mask[places] = False
        self.text_mask[places, 0, 0, :longest] = mask
        self.visible[places], self.length[places] = False, 0
        for number, layer in enumerate(self.decoder.layers):
            self.text_keys[number][places, :, :longest] = self._split(layer.encoder_attn.k_proj(encoded))
            self.text_values[number][places, :, :longest] = self._split(layer.encoder_attn.v_proj(encoded))

    def step(self, tokens: Tensor) -> Tensor:
        rows = torch.arange(len(self.length), device=tokens.device)
        # a row that is through waits on its last position until another takes its place
        position = self.length.clamp(max=self.positions - 1)  # [B]
        self.length = position + 1
        used = int(self.length.max()) * self.beams
        beam = torch.arange(self.beams, device=tokens.device)
        own = position[:, None] * self.beams + beam  # [B, K]: where each beam writes
        self.visible[rows[:, None], beam, own] = True
        mask = self.visible[:, None, :, :used]  # [B, 1, K, used]
        embedded = self.decoder.embed_tokens(tokens.view(-1, self.beams))
        hidden = embedded + self.decoder.embed_positions.weight[position][:, None]  # [B, K, H * D]
        for number, layer in enumerate(self.decoder.layers):
            attention, residual = layer.self_attn, hidden
            hidden = layer.self_attn_layer_norm(hidden)
            keys, values = self.keys[number], self.values[number]
            keys[rows[:, None], :, own] = self._split(attention.k_proj(hidden)).transpose(1, 2)
            values[rows[:, None], :, own] = self._split(attention.v_proj(hidden)).transpose(1, 2)
            query = self._split(attention.q_proj(hidden))
            seen = scaled_dot_product_attention(query, keys[:, :, :used], values[:, :, :used], mask)
            hidden = residual + attention.out_proj(self._join(seen))

            attention, residual = layer.encoder_attn, hidden
            query = self._split(attention.q_proj(layer.encoder_attn_layer_norm(hidden)))
            text_keys, text_values = self.text_keys[number], self.text_values[number]
            seen = scaled_dot_product_attention(query, text_keys, text_values, self.text_mask)
            hidden = residual + attention.out_proj(self._join(seen))

            inner = layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden)))
            hidden = hidden + layer.fc2(inner)
        logits = self.model.lm_head(self.decoder.layer_norm(hidden)) + self.model.final_logits_bias
        return logits.view(len(tokens), -1).float()

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
        for cache in (self.keys, self.values, self.text_keys, self.text_values):
            for number, one in enumerate(cache):
                cache[number] = one[places]

    def _split(self, hidden: Tensor) -> Tensor:
        """[B, N, H * D] -> [B, H, N, D]"""
        return hidden.view(*hidden.shape[:2], self.heads, -1).transpose(1, 2)

    def _join(self, seen: Tensor) -> Tensor:
        """[B, H, N, D] -> [B, N, H * D]"""
        return seen.transpose(1, 2).reshape(seen.shape[0], seen.shape[2], -1)
