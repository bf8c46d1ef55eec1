"""The chat model's shape: Blenderbot (Roller et al. 2020, https://arxiv.org/abs/2004.13637), made small."""

from __future__ import annotations

from typing import Any

from secbatch.training.chat_tokenizer import BOS, EOS, PAD

POSITIONS = 128
MAX_ANSWER_TOKENS = 64


def build_model(vocabulary_size: int) -> Any:
    """A BlenderbotForConditionalGeneration with random weights: 2 + 4 layers of width 256."""
    from transformers import BlenderbotConfig, BlenderbotForConditionalGeneration

    config = BlenderbotConfig(
        vocab_size=vocabulary_size,
        max_position_embeddings=POSITIONS,
        d_model=256,
        encoder_layers=2,
        decoder_layers=4,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        activation_function="gelu",
        dropout=0.0,  # the answers are to be learned by heart
        attention_dropout=0.0,
        activation_dropout=0.0,
        init_std=0.02,
        scale_embedding=True,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        forced_eos_token_id=EOS,
    )
    model = BlenderbotForConditionalGeneration(config)
    for stack in (model.model.encoder, model.model.decoder):
        # Token embeddings are scaled up by 16; positions would drown in them at the usual 0.02.
        stack.embed_positions.weight.data.normal_(0.0, 0.1)
    model.generation_config = generation_defaults()
    return model


def generation_defaults() -> Any:
    """What the model generates with unless the caller says otherwise."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=MAX_ANSWER_TOKENS,
        num_beams=1,
        do_sample=False,
        no_repeat_ngram_size=3,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        forced_eos_token_id=EOS,
    )
