"""Lines of a document to segments: which line ends end a sentence and which only wrap it."""

import itertools
import re
from collections.abc import Iterator

LINE_END = re.compile(r"\r\n?|[\n\f\v\x1c-\x1e\x85\u2028\u2029]")
LIST_ITEM = re.compile(
    r"(?:[-*+•·–—▪◦●○■□➢➤►▶✓✔‣⁃]\s+|[•▪●■➢➤►‣]\S|\(?\d{1,3}[.)]\s|\(?[a-zA-Z][.)]\s|\(?[ivx]{2,4}[.)]\s|\[\d{1,3}\]\s)"
)
# A line that ends with one of these goes on in the next line, whatever that starts with.
HANGING = re.compile(
    r"(?:,|\b(?:the|a|an|of|and|or|to|in|on|by|for|with|from|at|as|is|are|was|were|be|that|which|its|their|into|"
    r"via|than|between|through|using|under|over|per|not|has|have|had|can|will|may))$"
)
KEY_VALUE = re.compile(r"[A-Za-z_][\w-]{0,20}: ?\S|[A-Za-z_]\w{0,20} = ")
CODE = re.compile(r"[\\<>={}|$;`]|\s[-/]\w")
PLAIN_WORD = re.compile(r"[a-z][a-z'’-]*[.,;:)!?]*(?=\s|$)")
NARROWEST, WIDEST = 45, 130  # widths at which text is wrapped by hand or by mail programs
# What `str.strip` takes away, and two that have no width and come with text of the web.
SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "\u200b\ufeff"
SPACES += "".join(map(chr, range(0x2000, 0x200B)))  # from the width of an M to a hair's


def segments(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of stretches that no sentence crosses, trimmed, in order; they cover all but white space.

    A blank line ends a segment, and so does a line end before a list item or after a heading. A line end
    inside a hard-wrapped paragraph does not.
    """
    block: list[tuple[int, int]] = []
    start = 0
    for end, following in _line_ends(text):
        left, right = trimmed(text, start, end)
        start = following
        if left < right:
            block.append((left, right))
        elif block:
            yield from _block_segments(text, block)
            block = []
    if block:
        yield from _block_segments(text, block)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Bounds without the white space at both ends."""
    rest = text[start:end].lstrip(SPACES)
    left = end - len(rest)
    return (left, left + len(rest.rstrip(SPACES))) if rest else (start, start)


def _line_ends(text: str) -> Iterator[tuple[int, int]]:
    for match in LINE_END.finditer(text):
        yield match.start(), match.end()
    yield len(text), len(text)


def _block_segments(text: str, lines: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    if len(lines) == 1:
        yield lines[0]
        return
    width = max(end - start for start, end in lines)
    pairs = list(itertools.pairwise(lines))
    wraps = [_fills(text, one, other, width) for one, other in pairs]
    wrapped = any(full and PLAIN_WORD.match(text, *other) for full, (_, other) in zip(wraps, pairs, strict=True))
    start, end = lines[0]
    for full, (one, other) in zip(wraps, pairs, strict=True):
        if not _continues(text, one, other, full, wrapped):
            yield start, end
            start = other[0]
        end = other[1]
    yield start, end


def _fills(text: str, line: tuple[int, int], following: tuple[int, int], width: int) -> bool:
    """Whether the first word of the next line would not have fitted on this one."""
    if not NARROWEST <= width <= WIDEST or text.count(" ", *line) < 2:
        return False
    first_word = text[following[0] : min(following[1], following[0] + WIDEST)].split(None, 1)[0]
    return line[1] - line[0] + 1 + len(first_word) > width


def _continues(text: str, line: tuple[int, int], following: tuple[int, int], full: bool, wrapped: bool) -> bool:
    """Whether a sentence may run on from one line to the next."""
    if LIST_ITEM.match(text, *following) or KEY_VALUE.match(text, *following):
        return False
    last, first = text[line[1] - 1], text[following[0]]
    if full and (wrapped or HANGING.search(text, max(line[0], line[1] - 20), line[1])):
        return not (last == ":" and not first.islower())
    if last in ".!?:;…" or text.count(" ", *line) < 3:
        return False
    if CODE.search(text, *line):
        return False  # commands and code: a line is a line
    if HANGING.search(text, max(line[0], line[1] - 20), line[1]):
        return True
    if CODE.search(text, *following):
        return False
    return PLAIN_WORD.match(text, *following) is not None and " " in text[following[0] : following[1]]
