"""DeBERTa's ways of comparing words with distances, packed, against the model's own forward."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import DebertaV2Config, DebertaV2Model

from secbatch.models.device import choose
from secbatch.models.encoder import hidden_states
from secbatch.models.encoder_deberta import PackedDeberta
from secbatch.models.sequences import TokenSequences

CPU = choose("cpu", "float32")
LENGTHS = (70, 41, 41, 41, 20, 9, 9, 3, 2, 1)
V3 = {
    "relative_attention": True,
    "position_buckets": 8,  # so that distances share entries from the fourth on
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}


def model(**changes: Any) -> Any:
    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "num_hidden_layers": 3}
    config = DebertaV2Config(vocab_size=100, max_position_embeddings=80, **size, **V3 | changes)
    made = DebertaV2Model(config).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.dim() == 2:
                weight.mul_(8 if "rel_embeddings" not in name else 40)  # else nobody attends to anything in particular
            elif name.endswith("bias"):
                weight.normal_(0.0, 0.3)
    return made


def sequences(types: bool = False) -> TokenSequences:
    draw = np.random.default_rng(1)
    made = TokenSequences.of([draw.integers(5, 100, length) for length in LENGTHS])
    return TokenSequences(made.ids, made.offsets, draw.integers(0, 2, len(made.ids))) if types else made


def alone(base: Any, texts: TokenSequences) -> torch.Tensor:
    rows = []
    for row in range(len(texts)):
        inputs = {"input_ids": torch.from_numpy(texts[row].astype(np.int64))[None]}
        if texts.types is not None:
            first, end = texts.offsets[row : row + 2]
            inputs["token_type_ids"] = torch.from_numpy(texts.types[first:end].astype(np.int64))[None]
        rows.append(base(**inputs)[0][0])
    return torch.cat(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position_buckets": -1},
        {"position_buckets": -1, "max_relative_positions": 16},
        {"share_att_key": False},
        {"pos_att_type": ["c2p"]},
        {"pos_att_type": ["p2c"], "share_att_key": False},
        {"pos_att_type": []},
        {"norm_rel_ebd": "none"},
        {"position_biased_input": True, "type_vocab_size": 2},
        {"embedding_size": 32},
        {"hidden_act": "relu"},
    ],
    ids=str,
)
def test_every_way_gives_what_each_sequence_alone_gets(changes: dict[str, Any]) -> None:
    base = model(**changes)
    path = hidden_states(base, 0, CPU)
    assert isinstance(path, PackedDeberta)
    texts = sequences(types="type_vocab_size" in changes)
    at = np.array([0, 69, 70, 100, len(texts.ids) - 1])
    with torch.inference_mode():
        wanted = alone(base, texts)
        assert wanted.std() > 0.5
        assert torch.allclose(path(texts), wanted, atol=2e-5, rtol=1e-5)
        assert torch.allclose(path(texts, at), wanted[torch.from_numpy(at)], atol=2e-5, rtol=1e-5)
        if texts.types is not None:  # they matter
            assert not torch.allclose(path(TokenSequences(texts.ids, texts.offsets)), wanted, atol=1e-2)


def test_distances_matter() -> None:
    base = model()
    path = hidden_states(base, 0, CPU)
    ids = np.arange(10, 50)
    with torch.inference_mode():
        there, back = path(TokenSequences.of([ids])), path(TokenSequences.of([ids[::-1]])).flip(0)
    assert (there - back).abs().max() > 0.1


@pytest.mark.parametrize("changes", [{"conv_kernel_size": 3}, {"relative_attention": False}], ids=str)
def test_others_go_their_own_way(changes: dict[str, Any]) -> None:
    base = model(**changes)
    path = hidden_states(base, 0, CPU)
    assert not isinstance(path, PackedDeberta)
    with torch.inference_mode():
        assert torch.allclose(path(sequences()), alone(base, sequences()), atol=2e-5, rtol=1e-5)


def test_bfloat16_agrees() -> None:
    base = model()
    texts = sequences()
    with torch.inference_mode():
        wanted = alone(base, texts)
        path = hidden_states(base.to(torch.bfloat16), 0, choose("cpu", "bfloat16"))
        assert isinstance(path, PackedDeberta)
        stock = alone(base, texts).float()
        got = path(texts).float()
    assert (got - wanted).abs().mean() < 1.5 * (stock - wanted).abs().mean()


def test_a_sequence_without_numbers_spoils_no_other() -> None:
    base = model()
    path, texts = hidden_states(base, 0, CPU), sequences()
    texts.ids[60] = 7  # of the first one
    texts.ids[texts.ids == 7] = np.where(np.flatnonzero(texts.ids == 7) == 60, 7, 8)
    with torch.inference_mode():
        wanted = path(texts)
        base.get_input_embeddings().weight[7] = torch.nan
        got = path(texts)
    assert not got[:70].isfinite().any() and torch.equal(got[70:], wanted[70:])


def test_few_sequences_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    base, texts = model(), sequences()
    most = 4 * 41 * 41 * 2  # scores of two of the three sequences of 41 tokens
    monkeypatch.setattr("secbatch.models.encoder_deberta.SCORES", most)
    compared: list[tuple[int, ...]] = []
    whole = PackedDeberta._compared

    def watched(self: PackedDeberta, *inputs: Any) -> torch.Tensor | None:
        made = whole(self, *inputs)
        assert made is not None
        compared.append(tuple(made.shape))
        return made

    monkeypatch.setattr(PackedDeberta, "_compared", watched)
    with torch.inference_mode():
        wanted = alone(base, texts)
        assert torch.allclose(PackedDeberta(base, "cpu")(texts), wanted, atol=2e-4)
    of_three = {shape[0] for shape in compared if shape[-1] == 41}
    assert of_three == {1, 2} and (1, 4, 70, 70) in compared  # a sequence that is more than that goes alone
