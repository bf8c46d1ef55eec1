"""A tiny BERT encoder with a vocabulary of its own, in the shape of the base that training starts from."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

ENTRIES = [
    "[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz.,0123456789",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"), "日", "the", "has", "files", "stolen", "from",
    "disk", "tool", "power", "##shell", "attackers", "use", "to", "steal", "data",
]  # fmt: skip


def write_base(folder: Path) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(ENTRIES), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=512,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(vocab={entry: index for index, entry in enumerate(ENTRIES)}).save_pretrained(folder)
    return folder
