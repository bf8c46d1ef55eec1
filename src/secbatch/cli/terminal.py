"""Text for a terminal: nothing that came from data may move the cursor, colour or reorder what is shown."""

import os
import re
import unicodedata

import click

from secbatch.redaction import redacted

_ENDLESS = re.compile(r"\S{1000,}")  # names of which a sentence shows the ends
_SAFE_CONTROLS = re.compile(r"[\t\r\n]+")
# Cc: C0 and C1 controls (escape sequences). Cf: invisible format characters, the bidirectional overrides among
# them. Zl, Zp: line and paragraph separators. Cs, Co: surrogates and private use, which fonts may map to anything.
_HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"}


def printable(text: str) -> str:
    """`text` on one line; characters that a terminal would obey rather than show stand as \\xNN or \\uNNNN."""
    text = _SAFE_CONTROLS.sub(" ", text)
    if text.isprintable():  # which holds of no hidden character
        return text
    hidden = {ord(c): _escape(c) for c in set(text) if unicodedata.category(c) in _HIDDEN}
    return text.translate(hidden) if hidden else text


def sentence(text: str) -> str:
    """`text` on one line and without secrets, with a capital where it starts with a plain word, and a full stop."""
    text = _ENDLESS.sub(lambda word: f"{word[0][:200]}…{word[0][-100:]}", printable(redacted(text)).strip())
    word = re.match(r"[a-z]+(?=[ ,])", text)
    if word:
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def bold(text: str) -> str:
    """`text` as a label; plain for a terminal that would show the codes, and for people who want none."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return text if plain else click.style(text, bold=True)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
