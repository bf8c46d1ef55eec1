"""Dialogues for training and evaluation: questions, follow-ups and answers in the conversation format.

Conversation format (Blenderbot's): the turns, oldest first, joined by two spaces, each user turn with the
prompt prefix before it if there is one; the tokenizer sets a space before the first turn and an end token at
the end.
"""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from secbatch.training.dialogue_entries import Entry
from secbatch.training.dialogue_questions import (
    FOLLOW_UP,
    FOLLOW_UP_HELD_OUT,
    NAMED,
    NAMED_HELD_OUT,
    fill,
    follow_up_forms,
    name_as_typed,
    named_forms,
    typed,
)

PROMPT_PREFIX = "Under the context of network and cyber security. "
SEPARATOR = "  "
UNKNOWN_TERM = (
    "I do not know that term. I can explain common security terms and some techniques, groups and software "
    "of MITRE ATT&CK."
)
IDENTIFIER = "I do not look up identifiers. Search for it in the ATT&CK, CAPEC, CWE or CVE catalog."
NO_REFERENT = "I am not sure what you mean. Please name the term you ask about."
NO_EXAMPLE = "I have no example of that."
SMALL_TALK = {
    ("Hello", "Hi", "Hi there", "Good morning", "Hey", "Hello, how are you?"):
        "Hello. Ask me what a security term means and how to prevent or detect it.",
    ("Thank you", "Thanks", "Thanks a lot", "Thank you very much", "Great, thanks"): "You are welcome.",
    ("Who are you?", "What are you?", "What can you do?", "What is your name?", "Are you a robot?", "Help"):
        "I am a small built-in model that explains security terms. I can be wrong, so check what matters.",
    ("Bye", "Goodbye", "See you"): "Goodbye, and stay safe.",
}  # fmt: skip
# Names outside security, which the model must not explain.
EVERYDAY = tuple(
    """
    photosynthesis banana Paris Shakespeare football pizza Mozart gravity weather volcano dinosaurs
    bread history tennis Jupiter coffee whales poetry inflation guitar yoga chemistry Brazil chess
    cheese dolphins opera gardening Napoleon algebra elephants jazz Mars snow painting rice tourism
    cricket Tokyo insulin bees ballet tea novels penguins democracy cooking marathon glaciers violin
    Einstein philosophy bicycles Italy soup moonlight mushrooms
    """.split()  # noqa: SIM905
)

INTENT_WEIGHTS = {"what": 1.5, "prevent": 1.4, "impact": 0.7}  # the others weigh 1
HELD_OUT_PERCENT = 10  # of (term, form) pairs never used in training


@dataclass(frozen=True)
class Dialogue:
    """User and bot turns in order, the last one the user's, and the answer that should follow."""

    turns: tuple[str, ...]
    answer: str
    kind: str
    source: str = ""
    topic: tuple[str, str] = ("", "")  # (term, intent) that the question is about


def conversation(turns: Sequence[str], prefix: str = "") -> str:
    """What the encoder reads: turns joined by two spaces, ``prefix`` before each user turn (0, 2, …)."""
    return SEPARATOR.join(prefix + turn if place % 2 == 0 else turn for place, turn in enumerate(turns))


def pair_held_out(term: str, form: str) -> bool:
    """Whether training never asks for this term in this form."""
    digest = hashlib.sha256(f"{term}\n{form}".encode()).digest()
    return digest[0] % 100 < HELD_OUT_PERCENT


def name_held_out(name: str) -> bool:
    """Whether an unknown name is kept for the evaluation (one in five)."""
    return hashlib.sha256(name.encode()).digest()[1] % 5 == 0


class DialogueSampler:
    """Draws training dialogues without end from entries and unknown names; a seed always gives the same."""

    def __init__(self, entries: Sequence[Entry], unknown_names: Sequence[str], seed: int) -> None:
        self.entries = list(entries)
        known = {name.casefold() for entry in entries for name in entry.names}
        self.unknown = [n for n in unknown_names if not name_held_out(n) and n.casefold() not in known]
        self.chance = random.Random(seed)
        self.items = [(entry, intent) for entry in entries for intent in entry.answers]
        self.weights = [entry.weight * INTENT_WEIGHTS.get(intent, 1.0) for entry, intent in self.items]

    def draw(self, count: int) -> list[Dialogue]:
        """``count`` dialogues: about 9 of 10 about a known term, the rest unknown terms and small talk."""
        items = self.chance.choices(self.items, self.weights, k=count)
        return [self._about(*item) if self.chance.random() > 0.09 else self._other() for item in items]

    def _about(self, entry: Entry, intent: str) -> Dialogue:
        chance = self.chance
        answer = entry.answers[intent]
        if intent != "what" and chance.random() < 0.5:
            return self._finish(
                [*self._history(entry, intent), self._follow_up(entry, intent)],
                answer,
                "follow-up",
                (entry.term, intent),
            )
        turns = [self._named(entry, intent)]
        if chance.random() < 0.12:  # an earlier exchange on something else
            other = chance.choice(self.entries)
            turns = [self._named(other, "what"), other.answers["what"], *turns]
        return self._finish(turns, answer, "single", (entry.term, intent))

    def _history(self, entry: Entry, intent: str) -> list[str]:
        """One exchange about the entry, sometimes two."""
        chance = self.chance
        history = [self._named(entry, "what"), entry.answers["what"]]
        between = [i for i in entry.answers if i not in ("what", intent)]
        if between and chance.random() < 0.2:
            middle = chance.choice(between)
            if chance.random() < 0.3:
                history = [self._named(entry, middle), entry.answers[middle]]
            else:
                history += [self._follow_up(entry, middle), entry.answers[middle]]
        return history

    def _named(self, entry: Entry, intent: str) -> str:
        chance = self.chance
        forms = named_forms(intent, entry.kind)
        if intent == "use" and chance.random() < 0.15:
            forms = NAMED["prevent"]
        name = entry.term if chance.random() < 0.6 else chance.choice(entry.names)
        form = chance.choice(forms)
        for _ in range(8):
            if not pair_held_out(entry.term, form):
                break
            form = chance.choice(forms)
        return typed(fill(form, name_as_typed(name, chance)), chance)

    def _follow_up(self, entry: Entry, intent: str) -> str:
        chance = self.chance
        forms = follow_up_forms(intent, entry.kind)
        if intent == "use" and chance.random() < 0.15:
            forms = FOLLOW_UP["prevent"]
        form = chance.choice(forms)
        for _ in range(8):
            if not pair_held_out(entry.term, form):
                break
            form = chance.choice(forms)
        return typed(form, chance)

    def _other(self) -> Dialogue:
        chance = self.chance
        draw = chance.random()
        if draw < 0.06:
            questions, answer = chance.choice(list(SMALL_TALK.items()))
            return self._finish([typed(chance.choice(questions), chance)], answer, "small talk")
        if draw < 0.14:
            form = chance.choice(FOLLOW_UP[chance.choice(("prevent", "detect", "impact", "example", "use"))])
            return self._finish([typed(form, chance)], NO_REFERENT, "no referent")
        if draw < 0.24:
            return self._finish([self._no_example()], NO_EXAMPLE, "no example")
        intent = chance.choice(("what", "what", "what", "prevent", "detect", "example", "use", "impact"))
        if draw < 0.38:
            question = typed(fill(chance.choice(NAMED[intent]), identifier(chance)), chance)
            return self._finish([question], IDENTIFIER, "identifier")
        question = typed(fill(chance.choice(NAMED[intent]), self._unknown_name()), chance)
        if draw < 0.5:
            following = typed(chance.choice(FOLLOW_UP[chance.choice(("prevent", "detect", "example"))]), chance)
            return self._finish([question, UNKNOWN_TERM, following], UNKNOWN_TERM, "unknown")
        return self._finish([question], UNKNOWN_TERM, "unknown")

    def _no_example(self) -> str:
        without = [entry for entry in self.chance.choices(self.entries, k=20) if "example" not in entry.answers]
        name = without[0].term if without else self._unknown_name()
        return typed(fill(self.chance.choice(NAMED["example"]), name), self.chance)

    def _unknown_name(self) -> str:
        draw = self.chance.random()
        if draw < 0.25:
            return made_up_name(self.chance)
        if draw < 0.4 or not self.unknown:
            return self.chance.choice([n for n in EVERYDAY if not name_held_out(n)])
        return self.chance.choice(self.unknown)

    def _finish(self, turns: list[str], answer: str, kind: str, topic: tuple[str, str] | None = None) -> Dialogue:
        prefix = PROMPT_PREFIX if self.chance.random() < 0.5 else ""
        return Dialogue(
            tuple(prefix + t if i % 2 == 0 else t for i, t in enumerate(turns)),
            answer,
            kind,
            topic=topic or (kind, kind),
        )


def identifier(chance: random.Random) -> str:
    """An identifier of a vulnerability, technique, weakness or the like, at random."""
    return chance.choice((
        f"CVE-{chance.randint(1999, 2027)}-{chance.randint(1, 60000):04d}",
        f"CVE-{chance.randint(2010, 2027)}-{chance.randint(1, 60000):04d}",
        f"T{chance.randint(1001, 1700)}",
        f"T{chance.randint(1001, 1700)}.{chance.randint(1, 20):03d}",
        f"CWE-{chance.randint(1, 1400)}",
        f"CAPEC-{chance.randint(1, 700)}",
        f"S{chance.randint(1, 1300):04d}",
        f"G{chance.randint(1, 1100):04d}",
    ))  # fmt: skip


def made_up_name(chance: random.Random) -> str:
    """A pronounceable word or two that means nothing."""
    word = "".join(chance.choice("bcdfghjklmnprstvwz") + chance.choice("aeiou") for _ in range(chance.randint(2, 4)))
    word += chance.choice(("", "n", "x", "r", *string.ascii_lowercase))
    word = chance.choice((word, word.title()))
    return word + chance.choice(("", "", "", " attack", " malware", "Bot", " group", "Loader"))


def evaluation_sets(
    entries: Sequence[Entry], unknown: Sequence[str], seed: int, count: int
) -> dict[str, list[Dialogue]]:
    """Held-out questions, up to ``count`` of each set, without the prompt prefix on half of them.

    ``unseen form``: forms that training has for no term. ``unseen pair``: a form that training has, but never
    for this term. Each for single questions and for follow-ups. ``unknown name``: real names kept out of training,
    ``invented word``: words that mean nothing, from the generator that training uses.
    """
    chance = random.Random(seed)
    items = [(entry, intent) for entry in entries for intent in entry.answers]
    sets: dict[str, list[Dialogue]] = {}

    def add(name: str, turns: Sequence[str], answer: str, source: str = "") -> None:
        prefix = PROMPT_PREFIX if chance.random() < 0.5 else ""
        marked = tuple(prefix + t if i % 2 == 0 else t for i, t in enumerate(turns))
        sets.setdefault(name, []).append(Dialogue(marked, answer, name, source))

    for entry, intent in chance.sample(items, k=len(items)):
        pairs = [f for f in NAMED[intent] if pair_held_out(entry.term, f)]
        name = chance.choice(entry.names)
        answer = entry.answers[intent]
        if len(sets.get("single, unseen form", ())) < count:
            add(
                "single, unseen form",
                [fill(chance.choice(NAMED_HELD_OUT[intent]), name)],
                answer,
                entry.source,
            )
        if pairs and len(sets.get("single, unseen pair", ())) < count:
            add("single, unseen pair", [fill(chance.choice(pairs), name)], answer, entry.source)
        if intent == "what":
            continue
        first = [fill("What is {t}?", name), entry.answers["what"]]
        if len(sets.get("follow-up, unseen form", ())) < count:
            add(
                "follow-up, unseen form",
                [*first, chance.choice(FOLLOW_UP_HELD_OUT[intent])],
                answer,
                entry.source,
            )
        pairs = [f for f in FOLLOW_UP[intent] if pair_held_out(entry.term, f)]
        if pairs and len(sets.get("follow-up, unseen pair", ())) < count:
            add("follow-up, unseen pair", [*first, chance.choice(pairs)], answer, entry.source)
        between = [i for i in entry.answers if i not in ("what", intent)]
        if pairs and between and len(sets.get("second follow-up, unseen pair", ())) < count:
            middle = chance.choice(between)
            second = [*first, chance.choice(FOLLOW_UP[middle]), entry.answers[middle]]
            add("second follow-up, unseen pair", [*second, chance.choice(pairs)], answer, entry.source)
    known = {n.casefold() for entry in entries for n in entry.names}
    kept = [n for n in (*unknown, *EVERYDAY) if name_held_out(n) and n.casefold() not in known]
    for name in chance.sample(kept, k=min(count // 2, len(kept))):
        add(
            "unknown name",
            [fill(chance.choice(("What is {t}?", "Explain {t}.", "What exactly is {t}?")), name)],
            UNKNOWN_TERM,
        )
    for _ in range(count // 4):
        add("invented word", [fill("What is {t}?", made_up_name(chance))], UNKNOWN_TERM)
    return sets
