"""Cleaning and sentence splitting of corpus text: links, citations and tags go, the words stay."""

from __future__ import annotations

import html
import re

_CITATION = re.compile(r"\s*\(Citation:[^()]*(?:\([^()]*\)[^()]*)*\)")
_LINK = re.compile(r"\[([^\[\]]*)\]\((?:[^()\s]|\([^()]*\))*\)")
_TAG = re.compile(
    r"</?(?:code|br|p|b|i|em|strong|ul|ol|li|h[1-6]|div|span|a|sup|sub|pre|xhtml:[a-z]+)\b[^<>]*/?>", re.IGNORECASE
)
_MARKUP = re.compile(r"\*\*|`+|^\s*(?:[-*•]|#+|\d+[.)])\s+", re.MULTILINE)
_SPACE = re.compile(r"[ \t\u00a0\u200b]+")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"})

_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|al|Inc|Corp|Ltd|Co|No|Fig|Dr|Mr|Mrs|Ms|St|Jr|U\.S|approx|ver)\.|\b[A-Z]\.)$"
)
_BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")

MINIMUM_WORDS = 4
MAXIMUM_CHARACTERS = 1_200


def clean_description(text: str) -> str:
    """Text of a knowledge-base description without citations, link targets, tags and list marks."""
    text = _CITATION.sub("", html.unescape(text))
    text = _LINK.sub(r"\1", text)
    return clean_report(_TAG.sub(" ", text))


def clean_report(text: str) -> str:
    """Text of a report with typographic quotes, marks of lists and runs of spaces made plain.

    Line breaks stay: they end a sentence.
    """
    text = _MARKUP.sub("", text.translate(_QUOTES))
    return "\n".join(_SPACE.sub(" ", line).strip() for line in text.splitlines())


def split_sentences(text: str) -> list[str]:
    """Sentences of cleaned text, in order, those with too few words to be one left out.

    Sentences end at a line break, or at ``.``, ``!``, ``?`` before a space and a capital or digit, unless an
    abbreviation stands before it.
    """
    sentences = []
    for line in text.splitlines():
        start = 0
        for boundary in _BOUNDARY.finditer(line):
            if _ABBREVIATION.search(line[start : boundary.start()].rstrip("\"')]")):
                continue
            sentences.append(line[start : boundary.start()].strip())
            start = boundary.end()
        sentences.append(line[start:].strip())
    return [s for s in sentences if len(s.split()) >= MINIMUM_WORDS and len(s) <= MAXIMUM_CHARACTERS]
