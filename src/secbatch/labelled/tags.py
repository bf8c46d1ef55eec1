"""Tags of words (BIO, BIOES, IO) to spans and back.

BIO after Ramshaw and Marcus 1995 (cmp-lg/9505040); a span that no tag opens is opened by its first, as the
CoNLL 2000 and 2003 shared tasks' conlleval reads it. L and U (BILOU) are E and S by other names.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TAG = re.compile(r"([BIESLUM])[-_](\S.*)")
_SAME = {"L": "E", "U": "S", "M": "I"}  # BILOU and BMES


@dataclass(frozen=True)
class TagSpan:
    """Words `first` up to, not including, `last`."""

    first: int
    last: int
    label: str


def split_tag(tag: str) -> tuple[str, str] | None:
    """("B", "Malware") of B-Malware, ("O", "") of O, None for what is no tag."""
    if tag in ("O", "o"):
        return "O", ""
    match = _TAG.fullmatch(tag)
    return (_SAME.get(match[1], match[1]), match[2].strip()) if match else None


def spans_of(tags: Sequence[str]) -> tuple[list[TagSpan], int]:
    """The spans that the tags of one sentence mark, and how many tags continue what nothing opened.

    Every tag must be one (see `split_tag`).
    """
    spans: list[TagSpan] = []
    start, label, unopened = None, "", 0
    for place, tag in enumerate(tags):
        kind, name = split_tag(tag) or ("O", "")
        continues = kind in "IE" and start is not None and name == label
        if start is not None and not continues:
            spans.append(TagSpan(start, place, label))
            start = None
        if kind != "O" and not continues:
            start, label = place, name
            unopened += kind in "IE"
        if kind in "ES" and start is not None:
            spans.append(TagSpan(start, place + 1, label))
            start = None
    if start is not None:
        spans.append(TagSpan(start, len(tags), label))
    return spans, unopened


def scheme_of(tags: set[str]) -> str:
    """BIOES, BIO or IO: the richest form that these tags use."""
    kinds = {parts[0] for tag in tags if (parts := split_tag(tag))}
    return "BIOES" if kinds & {"E", "S"} else "BIO" if "B" in kinds else "IO"
