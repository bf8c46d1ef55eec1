"""Models for benchmarks of chat: the shapes of real ones, with random weights."""

from typing import Any

import torch
from transformers import (
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

END = 2  # the end token of all
# The end token's logit varies this much more than others' from step to step, about a mean below theirs.
END_SPREAD, END_MEAN = 5.0, -4.0
GREEDY_END_MEAN = -1.0  # beams find an end sooner


def blenderbot(end_mean: float = END_MEAN) -> Any:
    """facebook/blenderbot-400M-distill: its config and its generation config."""
    torch.manual_seed(0)
    layers: dict[str, Any] = {
        "encoder_layers": 2,
        "decoder_layers": 12,
        "encoder_attention_heads": 32,
        "decoder_attention_heads": 32,
    }
    sizes: dict[str, Any] = {
        "d_model": 1280,
        "encoder_ffn_dim": 5120,
        "decoder_ffn_dim": 5120,
        "max_position_embeddings": 128,
    }
    tokens: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END, "decoder_start_token_id": 1}
    config = BlenderbotConfig(
        vocab_size=8008, scale_embedding=True, forced_eos_token_id=END, **layers, **sizes, **tokens
    )
    model = BlenderbotForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(
        num_beams=10,
        min_length=20,
        max_length=60,
        length_penalty=0.65,
        no_repeat_ngram_size=3,
        encoder_no_repeat_ngram_size=3,
        forced_eos_token_id=END,
        **tokens,
    )
    with torch.no_grad():
        model.model.shared.weight[END] *= END_SPREAD
        model.final_logits_bias[0, END] = end_mean
    return model


def blenderbot_without_ngram_rules() -> Any:
    model = blenderbot()
    model.generation_config.no_repeat_ngram_size = model.generation_config.encoder_no_repeat_ngram_size = 0
    return model


def llama() -> Any:
    """A small decoder-only model with grouped keys, as instruct models have them."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=END,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=END)
    with torch.no_grad():
        model.lm_head.weight[END] *= END_SPREAD
    return model


def flan_t5_small() -> Any:
    """google/flan-t5-small's sizes."""
    torch.manual_seed(0)
    tokens: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": END, "decoder_start_token_id": 0}
    sizes: dict[str, Any] = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
    sizes["tie_word_embeddings"] = False
    config = T5Config(vocab_size=32_128, feed_forward_proj="gated-gelu", **sizes, **tokens)
    model = T5ForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(**tokens)
    with torch.no_grad():
        model.lm_head.weight[END] *= END_SPREAD
    return model
