"""How much longer a tokenizer's steps may make a text: without a bound, forty of them that double it never end."""

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Regex, normalizers

MOST = 128  # times as long, at most; Unicode's own (NFKD) make one character 18
MOST_ADDED = 1024  # characters put before or taken from a text
MOST_STEPS = 256  # of one kind; real tokenizers have up to ten
_MANY = ("normalizers", "pretokenizers", "decoders", "processors")  # where the steps of a sequence stand
# What a regular expression looks at without reading it: such a one may match nothing, between any two characters.
_LOOKS_AROUND = re.compile(r"\(\?|[\^$]|\\[AbBGKyYzZ1-9kg]")
_UNDONE = ("decoder", "post_processor")  # where ByteLevel makes bytes of characters again, or moves places alone


def check_growth(spec: Mapping[str, Any]) -> None:
    """`spec`: a tokenizer.json. Raises ValueError where it has no bound that is known beforehand."""
    for kind in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        steps = list(_steps(spec.get(kind)))
        if len(steps) > MOST_STEPS:
            raise ValueError(f"its {kind} has {len(steps):,} steps, and {MOST_STEPS} are admitted")
        growth = 1.0
        for step in steps:
            growth *= 1.0 if step["type"] == "ByteLevel" and kind in _UNDONE else _growth(step)
            if growth > MOST:
                raise ValueError(f"its {kind} can make a text more than {MOST} times as long")
            if _added(step) > MOST_ADDED:
                raise ValueError(
                    f"its {kind} puts before a text, or takes from it, more than {MOST_ADDED:,} characters"
                )


def _steps(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if step is None:
        return
    inner = next((step[name] for name in _MANY if name in step), None)
    if inner is None:
        yield step
    else:
        for one in inner:
            yield from _steps(one)


def _growth(step: Mapping[str, Any]) -> float:
    kind = step["type"]
    if kind == "Replace":
        written, read = len(step["content"]), _read(step["pattern"])
        return max(1.0, written / read) if read else 1.0 + written
    if kind == "Precompiled":  # SentencePiece's table: after the number of its bytes a trie, then texts that end with 0
        table = base64.b64decode(step["precompiled_charsmap"] or "")
        texts = table[4 + int.from_bytes(table[:4], "little") :]
        return max([1.0, *(len(text.decode(errors="replace")) for text in texts.split(b"\0"))])
    if kind == "ByteLevel":  # a character for each byte of one
        return 4.0
    if kind == "TemplateProcessing":
        return max(1.0, len(step["single"]), len(step["pair"]))
    return 1.0


def _read(pattern: Mapping[str, str]) -> int:
    """How many characters it takes away, at least."""
    if "String" in pattern:
        return len(pattern["String"])
    expression = pattern["Regex"]
    if _LOOKS_AROUND.search(expression):
        return 0
    found = normalizers.Replace(Regex(expression), "x").normalize_str("\ufdd0")  # which no text holds
    return 0 if len(found) > 1 else 1


def _added(step: Mapping[str, Any]) -> int:
    if step["type"] == "Prepend":
        return len(step["prepend"])
    if step["type"] == "Strip" and "start" in step:  # the decoder; the normalizer of that name strips white space
        return int(max(step["start"], step["stop"]))
    return 0
