"""Tokenizer files to a tokenizer, and how long the sequences may be that it makes."""

import json
import sys
from typing import Any

from secbatch.address_space import check_address_space
from secbatch.errors import ModelError
from secbatch.models.configuration import load_config, padding_id, text_config
from secbatch.models.content_hash import SENTENCEPIECE_FILES, VOCABULARY_FILES
from secbatch.models.resolved import ResolvedModel
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.transformers_calls import explained, quiet

# Position embeddings of these start after the padding index, so that many positions are never used.
_OFFSET_POSITIONS = frozenset(
    (
        *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text"),
        *("xmod", "longformer", "mpnet", "luke", "mluke", "ibert", "lilt", "esm"),
    )
)
_OF_IMAGES_OR_SOUND = "preprocessor_config.json"
_MANY_POSITIONS = 8192  # for models without a bound of their own (relative positions)


def load_tokenizer(resolved: ResolvedModel) -> TextTokenizer:
    """The model's tokenizer. Raises ModelError when its files are missing or broken."""
    config = load_config(resolved)
    if not any((resolved.folder / name).is_file() for name in VOCABULARY_FILES):
        # Without one, transformers makes a tokenizer that knows no word, and says nothing.
        files = f"(tokenizer.json, or vocab.json and merges.txt) in {resolved.folder}"
        if (resolved.folder / _OF_IMAGES_OR_SOUND).is_file():
            raise ModelError(
                f"model {resolved.name} takes images or sound ({_OF_IMAGES_OR_SOUND}) and has no tokenizer {files};"
                " name a model of texts"
            )
        raise ModelError(f"model {resolved.name}: no tokenizer {files}")
    _refuse_other_files(resolved)
    check_address_space()
    if sys.flags.optimize > 1:
        raise ModelError(
            "Python runs without docstrings (-OO, or PYTHONOPTIMIZE=2), and transformers makes its models by reading"
            " them; run it without that option"
        )
    with quiet():
        from transformers import AutoTokenizer

        _refuse_unreadable_pieces(resolved)
        with explained(resolved, "its tokenizer"):
            hf = AutoTokenizer.from_pretrained(resolved.folder, trust_remote_code=False, local_files_only=True)
        if not hf.is_fast:
            raise ModelError(
                f"model {resolved.name}: its tokenizer ({type(hf).__name__}) has no form for the tokenizers"
                " library; save it with a tokenizer.json"
            )
        if _lost_lstrip(resolved, hf):
            from tokenizers import AddedToken

            mask = AddedToken(hf.mask_token, lstrip=True, special=True, normalized=False)
            with explained(resolved, "its tokenizer"):
                hf = AutoTokenizer.from_pretrained(
                    resolved.folder, trust_remote_code=False, local_files_only=True, mask_token=mask
                )
    with explained(resolved, "its tokenizer"):
        tokenizer = TextTokenizer(hf, max_positions(config, hf))
    special = len(tokenizer.before) + len(tokenizer.after)
    if tokenizer.max_length <= special:
        raise ModelError(
            f"model {resolved.name}: a sequence may have {tokenizer.max_length} tokens, by model_max_length in"
            f" tokenizer_config.json or the positions in config.json, and {special} of them are special ones: there is"
            " no room for a text"
        )
    return tokenizer


def _refuse_other_files(resolved: ResolvedModel) -> None:
    """Files of which no hash is taken: those that tokenizer_config.json names, and a chat template beside the usual."""
    template = resolved.folder / "additional_chat_templates" / "default.jinja"
    if template.is_file():
        raise ModelError(
            f"model {resolved.name}: {template} would be read in place of its chat template; make it"
            " chat_template.jinja if it is meant, or remove it"
        )
    path = resolved.folder / "tokenizer_config.json"
    if not path.is_file():
        return
    with explained(resolved, "its tokenizer"):
        names = json.loads(path.read_text(encoding="utf-8"))
        leading = [key for key in ("vocab", "merges") if isinstance(names.get(key), str)]
        if key := next(iter(leading), "fast_tokenizer_files" if "fast_tokenizer_files" in names else None):
            raise ModelError(
                f"model {resolved.name}: its tokenizer_config.json leads to other files ({key}), which are not read;"
                " give the file that is meant its usual name (tokenizer.json, vocab.txt, vocab.json, merges.txt) and"
                " remove the line"
            )


def _refuse_unreadable_pieces(resolved: ResolvedModel) -> None:
    """Without these packages transformers takes a vocabulary of SentencePiece's for one of tiktoken's."""
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    others = [name for name in VOCABULARY_FILES if name not in SENTENCEPIECE_FILES]
    if any((resolved.folder / name).is_file() for name in others):
        return
    name = next(name for name in SENTENCEPIECE_FILES if (resolved.folder / name).is_file())
    if not (is_sentencepiece_available() and is_protobuf_available()):
        raise ModelError(
            f"model {resolved.name}: its tokenizer is {name} alone, which needs the packages sentencepiece and protobuf"
            " to be read; install them (pip install sentencepiece protobuf), or save the tokenizer with a"
            " tokenizer.json where they are"
        )


def _lost_lstrip(resolved: ResolvedModel, hf: Any) -> bool:
    """Whether the mask should swallow the space before it and does not.

    Byte-level vocabularies write the space into the word ("Ġmalware"), so models saw masks without a space
    before them. A tokenizer.json says so itself; one built of vocab.json and merges.txt loses it.
    """
    if hf.mask_token is None or (resolved.folder / "tokenizer.json").is_file():
        return False
    from tokenizers.pre_tokenizers import ByteLevel

    mask = hf.backend_tokenizer.get_added_tokens_decoder().get(hf.mask_token_id)
    return isinstance(hf.backend_tokenizer.pre_tokenizer, ByteLevel) and mask is not None and not mask.lstrip


def max_positions(config: Any, hf: Any) -> int:
    """How many tokens one sequence can have, special tokens counted."""
    text = text_config(config)
    bound = next(
        (
            value
            for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
            if isinstance(value := getattr(text, name, None), int) and value > 0
        ),
        None,
    )
    if bound is not None and config.model_type in _OFFSET_POSITIONS:
        # MPNet counts them from one place, whatever its padding.
        bound -= 2 if config.model_type == "mpnet" else (padding_id(config) or 0) + 1
    stated = hf.model_max_length if hf.model_max_length < 1_000_000 else None
    known = [value for value in (bound, stated) if value]
    return int(min(known)) if known else _MANY_POSITIONS
