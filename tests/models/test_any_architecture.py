"""Architectures that are laid out in another way than most: each gives what its own forward gives, or says why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from tiny_models import bert_tokenizer, resolved
from torch_threads import one_thread  # noqa: F401
from transformers import (
    AutoModel,
    BigBirdConfig,
    CLIPConfig,
    CLIPModel,
    ConvBertConfig,
    DPRConfig,
    DPRQuestionEncoder,
    FNetConfig,
    FNetForMaskedLM,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernVBertConfig,
    ModernVBertForMaskedLM,
    NystromformerConfig,
    Phi3Config,
    Qwen3Config,
    ReformerConfig,
    ReformerModel,
)

from secbatch.errors import ModelError
from secbatch.models.device import choose
from secbatch.models.encoder import MaskedLM, hidden_states
from secbatch.models.load import LoadedModel, load_model
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences
from secbatch.models.shared_encoder import SharedEncoder

CPU = choose("cpu", "float32")
VOCABULARY = 120
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 80,
}


def some_sequences() -> TokenSequences:
    generator = np.random.default_rng(1)
    return TokenSequences.of([generator.integers(5, VOCABULARY, length) for length in (60, 41, 41, 20, 7, 3, 1)])


def rows(sequences: TokenSequences) -> list[torch.Tensor]:
    return [torch.from_numpy(sequences[row].astype(np.int64))[None] for row in range(len(sequences))]


def saved(model: Any, folder: Path) -> ResolvedModel:
    model.save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return resolved(folder)


def test_a_model_that_also_takes_images_reads_texts() -> None:
    """What its configuration says of the text stands in a part of it."""
    torch.manual_seed(0)
    own = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    text = {"model_type": "modernbert", "vocab_size": VOCABULARY, "local_attention": 16, **SMALL, **own}
    image = {"model_type": "siglip_vision_model", "image_size": 8, "patch_size": 4, **SMALL}
    config = ModernVBertConfig(text_config=text, vision_config=image, image_token_id=5)
    assert not hasattr(config, "pad_token_id")
    model = ModernVBertForMaskedLM(config).eval()
    lm = MaskedLM(LoadedModel(model, config), 0, CPU)
    sequences, positions = some_sequences(), np.array([0, 70, 150])
    sequences.ids[sequences.ids == config.image_token_id] = 6
    with torch.inference_mode():
        (got,) = [logits for _, logits in lm.logits(sequences, positions)]
        wanted = torch.cat([model(input_ids=ids).logits[0] for ids in rows(sequences)])[positions]
    assert torch.allclose(got, wanted, atol=1e-5)


def test_a_model_that_gives_one_vector_a_text_is_asked_for_all_of_them() -> None:
    torch.manual_seed(0)
    base = DPRQuestionEncoder(DPRConfig(vocab_size=VOCABULARY, **SMALL)).eval()
    sequences = some_sequences()
    path = hidden_states(base, 0, CPU)
    with torch.inference_mode():
        wanted = torch.cat(
            [base(input_ids=ids, output_hidden_states=True).hidden_states[-1][0] for ids in rows(sequences)]
        )
        assert torch.allclose(path(sequences), wanted, atol=1e-5)


def test_an_architecture_that_padding_disturbs_in_longer_texts_only_is_not_padded() -> None:
    """Reformer sorts a text's tokens and looks at them chunk by chunk: padding moves them."""
    torch.manual_seed(0)
    chunks = {"lsh_attn_chunk_length": 16, "local_attn_chunk_length": 16}
    shape = {"attention_head_size": 8, "axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16], "hash_seed": 0}
    layers = {"attn_layers": ["local", "lsh"], "num_buckets": 4, "feed_forward_size": 64, "num_attention_heads": 4}
    config = ReformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        max_position_embeddings=128,
        is_decoder=False,
        **shape,
        **layers,
        **chunks,
    )
    base = ReformerModel(config).eval()
    for weight in base.parameters():
        if weight.dim() > 1:
            weight.data.mul_(5)
    sequences = TokenSequences.of([np.arange(5, 5 + length) for length in (100, 70, 70, 20, 3)])
    path = hidden_states(base, 0, CPU)
    with torch.inference_mode():
        wanted = torch.cat([base(input_ids=ids, attention_mask=torch.ones_like(ids))[0][0] for ids in rows(sequences)])
        assert torch.allclose(path(sequences), wanted, atol=1e-4)


@pytest.mark.parametrize("padded", [True, False])
def test_long_texts_do_not_turn_the_positions_of_short_ones(padded: bool) -> None:
    """LongRoPE, in a model that is padded and in one that is packed."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.5, 2.5, 4.0, 6.0]}
    turned = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32, **factors}
    if padded:
        own = {"rope_parameters": turned, "original_max_position_embeddings": 32}
        config = Phi3Config(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SMALL, **own)
    else:
        if Version(transformers.__version__) < Version("5.21"):
            pytest.skip("transformers' own forward fails: it looks for another name than it gave")
        layers = {"full_attention": turned, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
        own = {"rope_parameters": layers, "local_attention": 16}
        config = ModernBertConfig(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SMALL, **own)
    torch.manual_seed(0)
    base = AutoModel.from_config(config).eval()
    for weight in base.parameters():
        if weight.dim() > 1:
            weight.data.mul_(5)
    sequences = some_sequences()
    path = hidden_states(base, 0, CPU)
    with torch.inference_mode():
        wanted = torch.cat([base(input_ids=ids)[0][0] for ids in rows(sequences)])
        assert torch.allclose(path(sequences), wanted, atol=1e-4)


def test_a_short_text_does_not_change_what_long_ones_look_at(tmp_path: Path) -> None:
    """BigBird's blocks of keys: it looks at all keys, for good, once it has seen a short text."""
    blocks = {"block_size": 4, "num_random_blocks": 1}  # for texts of more than 28 tokens
    torch.manual_seed(0)
    model = AutoModel.from_config(BigBirdConfig(vocab_size=VOCABULARY, pad_token_id=0, **blocks, **SMALL))
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.mul_(5)
    model = load_model(saved(model, tmp_path), "encoder", CPU).model
    sequences = some_sequences()
    path = hidden_states(model, 0, CPU)
    assert not path.packed  # texts that are short are padded
    with torch.inference_mode():
        new = [AutoModel.from_pretrained(tmp_path).eval() for _ in rows(sequences)]
        wanted = torch.cat([one(input_ids=ids)[0][0] for one, ids in zip(new, rows(sequences), strict=True)])
        for _ in range(2):
            assert torch.allclose(path(sequences), wanted, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("config", "is_padded"),
    [
        (NystromformerConfig(vocab_size=VOCABULARY, **SMALL), False),
        (ConvBertConfig(vocab_size=VOCABULARY, embedding_size=32, head_ratio=1, **SMALL), False),
        (Qwen3Config(vocab_size=VOCABULARY, num_key_value_heads=2, head_dim=8, **SMALL), True),
    ],
    ids=["nystromformer", "convbert", "qwen3"],
)
def test_padding_that_disturbs_is_seen_in_bfloat16_too(config: Any, is_padded: bool, precision: str) -> None:
    """A text's vector would be another one beside longer texts."""
    torch.manual_seed(0)
    compute = choose("cpu", precision)
    base = AutoModel.from_config(config).eval()
    for weight in base.parameters():
        if weight.dim() > 1:
            weight.data.mul_(3)
    assert hidden_states(base.to(compute.torch_dtype), 0, compute).packed is not is_padded


@pytest.mark.parametrize("heads", [1, 4])
def test_convbert_is_never_padded(heads: int) -> None:
    """Its convolutions reach into the padding, also where bfloat16 rounds by as much as that changes."""
    torch.manual_seed(0)
    compute = choose("cpu", "bfloat16")
    config = ConvBertConfig(vocab_size=VOCABULARY, embedding_size=32, **{**SMALL, "num_attention_heads": heads})
    base = AutoModel.from_config(config).eval().to(compute.torch_dtype)
    assert hidden_states(base, 0, compute).packed


def test_a_model_without_embeddings_of_tokens_is_refused(tmp_path: Path) -> None:
    config = CLIPConfig(
        text_config={"vocab_size": VOCABULARY, **SMALL}, vision_config={**SMALL, "image_size": 8, "patch_size": 4}
    )
    encoder = SharedEncoder(saved(CLIPModel(config), tmp_path), CPU)
    encoder.need_states()
    with pytest.raises(ModelError, match="tiny is a clip model without embeddings of tokens, so it cannot read texts"):
        encoder.load()


def test_whatever_a_first_forward_raises_is_told(
    tiny: Callable[[str], ResolvedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = SharedEncoder(tiny("distilbert"), CPU)
    encoder.need_states()
    monkeypatch.setattr("transformers.DistilBertModel.forward", lambda *_, **__: None.last)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"a forward over a few tokens fails \('NoneType' object has no attribute"):
        encoder.load()


def test_a_model_that_does_not_run_in_bfloat16_is_computed_in_float32(tmp_path: Path) -> None:
    """FNet's Fourier transform knows no bfloat16, which `precision: auto` means where the hardware has it."""
    torch.manual_seed(0)
    config = FNetConfig(vocab_size=300, type_vocab_size=1, tpu_short_seq_length=80, **SMALL)
    model = saved(FNetForMaskedLM(config), tmp_path)
    sequences = some_sequences()
    made = []
    for precision in ("float32", "bfloat16"):
        encoder = SharedEncoder(model, choose("cpu", precision))
        another = SharedEncoder(model, choose("cpu", precision), base=encoder)
        another.need_head("masked-lm")
        for each in (encoder, another):
            each.load()
            said = f"model {model.name} does not run in bfloat16: it is computed in float32"
            assert (said in each.notices) == (precision == "bfloat16")
            assert not each.batch_free
        with torch.inference_mode():
            ((_, logits),) = another.lm.logits(sequences, np.array([3, 70]))
            made.append((encoder._states()(sequences), logits))
    assert made[0][0].equal(made[1][0]) and made[0][1].equal(made[1][1])


def test_a_decoder_that_embeds_keeps_no_keys_and_values(tiny: Callable[[str], ResolvedModel]) -> None:
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        assert load_model(tiny("llama_chat"), "encoder", CPU).model(input_ids=ids).past_key_values is None
        generating = load_model(tiny("llama_chat"), "causal", CPU).model
        assert isinstance(generating, LlamaForCausalLM) and generating(input_ids=ids).past_key_values is not None
