"""The chat model's tokenizer: byte-level BPE with Blenderbot's special tokens and conversation format.

Ids 0 to 3 are ``<pad>``, ``<s>``, ``</s>`` and ``<unk>``, the only special tokens. Line breaks and tabs
become spaces, and any run of spaces becomes exactly two, which is the mark between turns.
(BPE: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; byte level: Radford et al. 2019.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
# A user turn gets no extra space here: the tokenizer sets the one before the first turn itself.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] | trim }}"
    "{% if not loop.last %}{{ '  ' }}{% endif %}{% endfor %}{{ eos_token }}"
)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, positions: int) -> Any:
    """A fast tokenizer (transformers) trained on ``texts``; ``positions``: its longest input, with end token.

    Long inputs are cut from the left, so that the last question stays.
    """
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"[\t\r\n\u00a0]"), " "),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), "  "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=positions,
        truncation_side="left",
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=CHAT_TEMPLATE,
    )
