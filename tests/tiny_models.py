"""Small random models with real tokenizers trained on a few sentences, saved to a folder.

"Sharpened" means that the logits are scaled until the distributions are peaked, as those of a trained model
are: on plain random weights every score is about 1 / vocabulary, and a comparison of scores proves nothing.
"""

import hashlib
import json
import string
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    DebertaV2Config,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    FunnelConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LongformerConfig,
    MarianConfig,
    MarianMTModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    MPNetConfig,
    MPNetForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from secbatch.models.resolved import ResolvedModel

SENTENCES = [
    "Adversaries may compromise sites, then include malicious content to collect authentication cookies.",
    "Once credentials are obtained, they can be used to perform lateral movement.",
    "Ransomware encrypts files and demands payment; phishing steals passwords and tokens.",
    "A SQL injection occurs when an attacker inserts code into a server.",
    "The malware beacons to evil[.]com over TCP/443 and drops C:\\Windows\\evil.dll (CVE-2021-44228).",
    "What is DDoS? A distributed denial of service attack floods a host with packets.",
    "How can we prevent it? Rate limiting, filtering and scrubbing reduce the traffic.",
    "Naïve façade, Москва, 北京, emoji 🙂 and العربية appear in reports, too.",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_bpe(specials: list[str], size: int = 700, prefix_space: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """As RoBERTa's: `<s> … </s>`, and a mask that swallows the space before it."""
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    backend = byte_bpe(["<s>", "<pad>", "</s>", "<unk>", mask])
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=mask,
    )


def modernbert_tokenizer() -> PreTrainedTokenizerFast:
    """As ModernBERT's: byte-level, `[CLS] … [SEP]`, the mask swallows the space, an added ordinary word."""
    mask = AddedToken("[MASK]", lstrip=True, special=True, normalized=False)
    backend = byte_bpe(["[UNK]", "[CLS]", "[SEP]", "[PAD]", mask])
    backend.add_tokens([AddedToken("|||IP_ADDRESS|||", normalized=True)])
    backend.post_processor = _cls_sep(backend)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token=mask,
    )


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """As BERT's, uncased: WordPiece, `[CLS] … [SEP]`."""
    backend = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.model = models.WordPiece(_word_pieces(backend), unk_token="[UNK]")
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(_BERT_SPECIALS)
    backend.post_processor = _cls_sep(backend)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )


_BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _word_pieces(backend: Tokenizer) -> dict[str, int]:
    """Characters, endings and whole words of the sentences, the same every time: training one is left to chance."""
    words = [
        word
        for sentence in SENTENCES
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(sentence))
    ]
    characters = sorted(set("".join(words)))
    endings = sorted({word[-size:] for word in words for size in (2, 3) if len(word) > size + 1})
    pieces = [*characters, *(f"##{piece}" for piece in characters + endings), *words]
    return {piece: number for number, piece in enumerate(dict.fromkeys(_BERT_SPECIALS + pieces))}


def _cls_sep(backend: Tokenizer) -> Any:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )


def blenderbot_tokenizer() -> PreTrainedTokenizerFast:
    """As Blenderbot's: byte-level, an end token after each text, nothing before it."""
    backend = byte_bpe(["<pad>", "<s>", "</s>", "<unk>"], prefix_space=True)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=128,
    )


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """As an instruct model's: byte-level, `<|im_start|>role … <|im_end|>` through a chat template."""
    backend = byte_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def unigram_tokenizer(specials: list[str], last: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """As T5's and Marian's: Unigram pieces with a mark for the space, `</s>` after a text, nothing before it."""
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    pieces = {f"▁{word}": -5.0 for word in words} | {word[:3]: -7.0 for word in words if len(word) > 3}
    pieces |= dict.fromkeys(sorted({*"▁", *"".join(words), *string.printable.strip()}), -9.0)
    vocabulary = [*((name, 0.0) for name in specials), *pieces.items(), *((name, 0.0) for name in last)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=specials.index("<unk>"), byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    end = backend.token_to_id("</s>")
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=64
    )


_SHAPE = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}


def make_roberta(folder: Path, seed: int = 0, sharpen: float = 30.0, **changes: Any) -> Path:
    tokenizer = roberta_tokenizer()
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        **_SHAPE,
        num_hidden_layers=3,
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        layer_norm_eps=1e-5,
        **changes,
    )
    return _save(RobertaForMaskedLM, config, tokenizer, folder, seed, sharpen)


def make_bert(folder: Path, seed: int = 0, sharpen: float = 30.0, **changes: Any) -> Path:
    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        **_SHAPE,
        num_hidden_layers=3,
        max_position_embeddings=64,
        pad_token_id=0,
        **changes,
    )
    return _save(BertForMaskedLM, config, tokenizer, folder, seed, sharpen)


def make_modernbert(folder: Path, seed: int = 0, sharpen: float = 30.0, **changes: Any) -> Path:
    tokenizer = modernbert_tokenizer()
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in {
            "pad": "[PAD]",
            "cls": "[CLS]",
            "sep": "[SEP]",
            "bos": "[CLS]",
            "eos": "[SEP]",
        }.items()
    }
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        **_SHAPE,
        num_hidden_layers=4,
        max_position_embeddings=64,
        local_attention=16,
        global_attn_every_n_layers=3,
        **ids,
        **changes,
    )
    return _save(ModernBertForMaskedLM, config, tokenizer, folder, seed, sharpen)


# Embeddings that are narrower than the layers.
_NARROW: dict[str, Any] = _SHAPE | {"num_hidden_layers": 3, "embedding_size": 32, "max_position_embeddings": 64}


def make_electra(folder: Path, seed: int = 0, sharpen: float = 120.0) -> Path:
    tokenizer = bert_tokenizer()
    return _save(
        ElectraForMaskedLM, ElectraConfig(vocab_size=len(tokenizer), **_NARROW), tokenizer, folder, seed, sharpen
    )


def make_albert(folder: Path, seed: int = 0, sharpen: float = 120.0) -> Path:
    """An architecture without a fast path of its own."""
    tokenizer = bert_tokenizer()
    return _save(
        AlbertForMaskedLM, AlbertConfig(vocab_size=len(tokenizer), **_NARROW), tokenizer, folder, seed, sharpen
    )


def make_mpnet(folder: Path, seed: int = 0, sharpen: float = 30.0) -> Path:
    """Scores depend on how far apart two tokens are."""
    tokenizer = roberta_tokenizer()
    config = MPNetConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=66,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        **_SHAPE | {"num_hidden_layers": 3},
    )
    return _save(MPNetForMaskedLM, config, tokenizer, folder, seed, sharpen)


def make_distilbert(folder: Path, seed: int = 0, sharpen: float = 30.0) -> Path:
    tokenizer = bert_tokenizer()
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=64, n_heads=4, hidden_dim=128, n_layers=3, max_position_embeddings=64
    )
    return _save(DistilBertForMaskedLM, config, tokenizer, folder, seed, sharpen)


# the generation config of facebook/blenderbot-400M-distill
BLENDERBOT = {
    "encoder_no_repeat_ngram_size": 3,
    "forced_eos_token_id": 2,
    "length_penalty": 0.65,
    "max_length": 60,
    "min_length": 20,
    "no_repeat_ngram_size": 3,
    "num_beams": 10,
}


def make_blenderbot(folder: Path, seed: int = 0, sharpen: float = 6.0, **changes: Any) -> Path:
    tokenizer = blenderbot_tokenizer()
    config = BlenderbotConfig(
        vocab_size=len(tokenizer),
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        forced_eos_token_id=2,
        scale_embedding=True,
        **changes,
    )
    return _save(BlenderbotForConditionalGeneration, config, tokenizer, folder, seed, sharpen, widen=3.0)


_ENCODER_DECODER = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
}


def make_bart(folder: Path, seed: int = 0, sharpen: float = 6.0) -> Path:
    """As facebook/bart-large-cnn: `<s> … </s>`, starts with `</s>`, forced `<s>`, beams with early stopping."""
    tokenizer = roberta_tokenizer()
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = BartConfig(vocab_size=len(tokenizer), **_ENCODER_DECODER, **tokens)
    folder = _save(BartForConditionalGeneration, config, tokenizer, folder, seed, sharpen, widen=8.0)
    own = {"early_stopping": True, "length_penalty": 2.0, "max_length": 24, "min_length": 6, "no_repeat_ngram_size": 3}
    forced = {"forced_bos_token_id": 0, "forced_eos_token_id": 2}
    GenerationConfig(num_beams=4, **own, **forced, **tokens).save_pretrained(folder)
    return folder


def make_t5(folder: Path, seed: int = 0, sharpen: float = 6.0) -> Path:
    """As T5: relative positions, `</s>` after a text, a sentinel token; greedy."""
    tokenizer = unigram_tokenizer(["<pad>", "</s>", "<unk>"], last=("<extra_id_0>",))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    config = T5Config(vocab_size=len(tokenizer), tie_word_embeddings=False, **shape, **tokens)
    return _save(T5ForConditionalGeneration, config, tokenizer, folder, seed, sharpen, widen=3.0)


def make_marian(folder: Path, seed: int = 0, sharpen: float = 6.0) -> Path:
    """As opus-mt: the padding token last, first in the decoder and forbidden, scores of beams made whole again."""
    tokenizer = unigram_tokenizer(["</s>", "<unk>"], last=("<pad>",))
    pad = len(tokenizer) - 1
    tokens = {"pad_token_id": pad, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": pad}
    config = MarianConfig(vocab_size=len(tokenizer), **_ENCODER_DECODER, **tokens)
    folder = _save(MarianMTModel, config, tokenizer, folder, seed, sharpen, widen=8.0)
    own = {"bad_words_ids": [[pad]], "renormalize_logits": True, "forced_eos_token_id": 0, "max_length": 24}
    own["no_repeat_ngram_size"] = 2
    GenerationConfig(num_beams=3, **own, **tokens).save_pretrained(folder)
    return folder


def make_llama_chat(folder: Path, seed: int = 0, sharpen: float = 6.0, **changes: Any) -> Path:
    tokenizer = chat_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **_SHAPE,
        num_hidden_layers=3,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    )
    return _save(LlamaForCausalLM, config, tokenizer, folder, seed, sharpen, widen=3.0)


def make_fine_tuned(
    folder: Path, kind: str, head: str, seed: int = 0, sharpen: float = 30.0, words: Any = None, **changes: Any
) -> Path:
    """A model with a head of its own. `head`: SequenceClassification, TokenClassification or QuestionAnswering."""
    tokenizer = words or (bert_tokenizer() if kind in _WORD_PIECES else roberta_tokenizer())
    config_class, shape = _FINE_TUNED[kind]
    config = config_class(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **shape, **changes)
    torch.manual_seed(seed)
    model = getattr(transformers, f"AutoModelFor{head}").from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "classifi" in name or name.startswith(("score", "qa_outputs")):
                last = weight.dim() == 2 and weight.shape[0] != weight.shape[1]
                weight.mul_(sharpen if last else 4.0)
            elif weight.dim() == 2 and "embed" not in name:
                weight.mul_(8.0)
            elif name.endswith("bias"):
                weight.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def with_token_types(folder: Path) -> Path:
    """The same tokenizer by the name of one that tells the two texts of a pair apart for the model."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "BertTokenizer"}))
    return folder


_WORD_PIECES = frozenset({"bert", "albert", "distilbert", "electra", "deberta", "funnel"})
_NO_SPECIALS = {"bos_token_id": None, "eos_token_id": None, "cls_token_id": None, "sep_token_id": None}
_SMALL: dict[str, Any] = {**_SHAPE, "num_hidden_layers": 2, "max_position_embeddings": 64}
_FINE_TUNED: dict[str, tuple[Any, dict[str, Any]]] = {
    "roberta": (RobertaConfig, {**_SMALL, "max_position_embeddings": 66, "type_vocab_size": 1}),
    "mpnet": (MPNetConfig, {**_SMALL, "max_position_embeddings": 66}),
    "bert": (BertConfig, _SMALL),
    "electra": (ElectraConfig, {**_SMALL, "embedding_size": 32}),
    "albert": (AlbertConfig, {**_SMALL, "embedding_size": 32}),
    "distilbert": (
        DistilBertConfig,
        {"dim": 64, "n_heads": 4, "hidden_dim": 128, "n_layers": 2, "max_position_embeddings": 64},
    ),
    "deberta": (
        DebertaV2Config,
        {**_SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 64},
    ),
    "longformer": (LongformerConfig, {**_SMALL, "attention_window": [16, 16], "max_position_embeddings": 66}),
    "funnel": (FunnelConfig, {"d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128, "block_sizes": [1, 1, 1]}),
    "modernbert": (ModernBertConfig, {**_SMALL, "local_attention": 16, **_NO_SPECIALS}),
    "llama": (LlamaConfig, {**_SMALL, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None}),
    "bart": (
        BartConfig,
        {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "max_position_embeddings": 64,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
    ),
}


def _save(
    model_class: Any, config: Any, tokenizer: Any, folder: Path, seed: int, sharpen: float, widen: float = 8.0
) -> Path:
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        # Random weights of the usual size hardly attend or distinguish: widen them, then widen the logits.
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name and not _is_output(model, weight):
                weight.mul_(widen)
            elif name.endswith("bias"):
                weight.normal_(0.0, 0.1)
        model.get_output_embeddings().weight.mul_(sharpen)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _is_output(model: Any, weight: torch.Tensor) -> bool:
    return weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()


def resolved(folder: Path, name: str = "tiny") -> ResolvedModel:
    """The folder as a resolved model, hashed as cheaply as a test needs."""

    def digest(suffixes: tuple[str, ...]) -> str:
        files = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    return ResolvedModel(name, None, None, folder, digest((".safetensors", ".bin")), digest((".json",)), None)
