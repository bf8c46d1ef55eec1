"""A tokenizer for text that nobody vouches for: `<mask>` is the only special token that it can contain.

A stock tokenizer turns `</s>`, `[SEP]` or `<|im_end|>` in a text into control tokens, so a row could end its
own sequence or speak for the assistant. Here every special token answers only to a secret name that no text
can hold, and its printed form is ordinary characters; all else (normaliser, pre-tokeniser, merges,
post-processor, added words) is the model's own, so other texts get the model's own tokens.
"""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from secbatch.models.tokenizer_growth import check_growth

MASK = "<mask>"  # the mask in every data file, whatever the model's own mask token is


def untrusted_tokenizer(backend: Tokenizer, mask_token: str | None) -> tuple[Tokenizer, dict[str, str]]:
    """A copy of `backend` in which special tokens, the mask among them, are hidden.

    Returns the copy and the secret name of each special token, by its printed form; `mask_token` is always
    among them unless it is None. The mask, too, has a secret name, as normalisers can turn other characters
    (the full-width ＜mask＞) into those of `<mask>`: whoever encodes puts the secret one in place of MASK.
    Raises ValueError for a tokenizer that can make texts longer without bound.
    """
    spec = json.loads(backend.to_str())
    check_growth(spec)
    spec["truncation"] = spec["padding"] = None
    hidden = {token["content"] for token in spec["added_tokens"] if token["special"]}
    if mask_token is not None:
        hidden.add(mask_token)
    if MASK in _vocabulary(spec["model"]):
        hidden.add(MASK)  # an ordinary entry must not answer to the mask's name
    key = secrets.token_hex(8)
    secret = {name: f"\ufdd0{key}:{number}\ufdd1" for number, name in enumerate(sorted(hidden))}
    for token in spec["added_tokens"]:
        if token["content"] in secret:
            # Not normalized: matched in the raw text, before a normaliser could change either.
            token["normalized"] = False
            token["single_word"] = False
            token["content"] = secret[token["content"]]
    _rename(spec["model"], secret)
    copy = Tokenizer.from_str(json.dumps(spec))
    copy.encode_special_tokens = False
    return copy, secret


def trusted(text: str, secret: Mapping[str, str]) -> str:
    """`text` with each special token under its secret name."""
    for name in sorted(secret, key=len, reverse=True):
        text = text.replace(name, secret[name])
    return text


def _vocabulary(model: Mapping[str, Any]) -> set[str]:
    entries = model["vocab"]
    return set(entries) if isinstance(entries, dict) else {piece for piece, _ in entries}


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Renames vocabulary entries in place (BPE, WordPiece, WordLevel: a dict; Unigram: pairs)."""
    # A name that merges read or build must stay: BPE looks the pieces of its merges up by name.
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model.get("merges", ())]
    prefix = model.get("continuing_subword_prefix") or ""
    merged = {piece for pair in merges for piece in (*pair, "".join(pair), pair[0] + pair[1].removeprefix(prefix))}
    names = {old: new for old, new in names.items() if old not in merged}
    entries = model["vocab"]
    if isinstance(entries, dict):
        for old, new in names.items():
            if old in entries:
                entries[new] = entries.pop(old)
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in entries]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
