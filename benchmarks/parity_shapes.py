"""Models in the true shapes of SecureBERT and Blenderbot with random weights, saved to folders.

"Sharpened": weights are widened until attention and scores are peaked, as those of a trained model are. On plain
random weights every score is about 1 / vocabulary, and a comparison of scores proves little. Sharpen twice as much,
and the rounding of float32 alone moves scores by 1e-5: the stock pipeline is then as far from float64 as a job is.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

SECUREBERT_ENTRIES = 50_265
BLENDERBOT_ENTRIES = 8_008


def securebert_shape(tokenizer: Any, folder: Path, layers: int, sharpened: bool) -> Path:
    """RoBERTa, 768 wide, 12 heads, 514 positions; `tokenizer` is a transformers tokenizer."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=max(SECUREBERT_ENTRIES, len(tokenizer)),
        num_hidden_layers=layers,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        layer_norm_eps=1e-5,
    )
    return _saved(RobertaForMaskedLM(config), tokenizer, folder, layers_by=3.0, scores_by=10.0, sharpened=sharpened)


def blenderbot_shape(tokenizer: Any, folder: Path, full: bool) -> Path:
    """Blenderbot with the decoding of 400M-distill; `full`: its size, too (2 + 12 layers, 1,280 wide)."""
    torch.manual_seed(0)
    width, heads, decoder_layers = (1280, 32, 12) if full else (256, 8, 4)
    config = BlenderbotConfig(
        vocab_size=max(BLENDERBOT_ENTRIES, len(tokenizer)),
        d_model=width,
        encoder_layers=2,
        decoder_layers=decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
        scale_embedding=True,
    )
    model = BlenderbotForConditionalGeneration(config)
    generation: Any = model.generation_config
    generation.max_length, generation.min_length = 60, 20
    generation.num_beams, generation.length_penalty = 10, 0.65
    generation.no_repeat_ngram_size = generation.encoder_no_repeat_ngram_size = 3
    return _saved(model, tokenizer, folder, layers_by=3.0, scores_by=4.0, sharpened=True)


@torch.no_grad()
def _saved(
    model: PreTrainedModel, tokenizer: Any, folder: Path, layers_by: float, scores_by: float, sharpened: bool
) -> Path:
    output: Any = model.get_output_embeddings()
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and "embed" not in name and weight.data_ptr() != output.weight.data_ptr():
            weight.mul_(layers_by if sharpened else 1.0)
        elif name.endswith("bias") and weight.dim() == 1:
            weight.normal_(0.0, 0.1)  # biases of zero would hide that one is left out
    if sharpened:
        output.weight.mul_(scores_by)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
