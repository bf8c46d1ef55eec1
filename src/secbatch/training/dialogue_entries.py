"""What the chat model knows: terms with one short answer for each intent, from the glossary and the corpora.

An intent is what a question wants to know of a term: what it is, how to prevent or detect it, why it matters,
an example of it, or how to use it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

INTENTS = ("what", "prevent", "detect", "impact", "example", "use")
GLOSSARY = Path(__file__).parent / "data" / "glossary.jsonl"
GLOSSARY_WEIGHT = 2.0  # of its entries


@dataclass(frozen=True)
class Entry:
    """One term. ``answers`` maps an intent to its answer; ``kind`` decides which question forms fit.

    Kinds: ``attack`` (can be prevented and detected), ``concept`` (can be used), ``technique``, ``software``
    and ``group``. ``weight`` is how often it is asked about, relative to other entries.
    """

    term: str
    aliases: tuple[str, ...]
    kind: str
    answers: dict[str, str]
    source: str
    weight: float

    @property
    def names(self) -> tuple[str, ...]:
        """The term and its other names, the term first."""
        return (self.term, *self.aliases)


def read_glossary() -> list[Entry]:
    """Entries of the hand-written glossary: one JSON object a line with term, aliases, kind and answers."""
    found = map(json.loads, GLOSSARY.read_text(encoding="utf-8").splitlines())
    return [
        Entry(one["term"], tuple(one["aliases"]), one["kind"], one["answers"], "glossary", GLOSSARY_WEIGHT)
        for one in found
    ]


def merge(groups: Iterable[Iterable[Entry]]) -> list[Entry]:
    """All entries in order, where the first entry of a name wins and a name never means two things.

    A later entry whose term is already taken is left out; an alias already taken is dropped.
    """
    taken: set[str] = set()
    merged = []
    for entry in (entry for group in groups for entry in group):
        if entry.term.casefold() in taken:
            continue
        taken.add(entry.term.casefold())
        aliases = []
        for alias in entry.aliases:
            if alias.casefold() not in taken:
                taken.add(alias.casefold())
                aliases.append(alias)
        merged.append(replace(entry, aliases=tuple(aliases)))
    return merged
