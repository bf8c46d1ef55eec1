"""Question forms: how people ask for each intent, by name or with a pronoun, and how they type.

Each intent has forms for training and forms that only the evaluation uses. ``{t}`` stands for the term.
"""

from __future__ import annotations

import random
import re

# Forms that name the term.
NAMED: dict[str, tuple[str, ...]] = {
    "what": (
        "What is {t}?", "What is {t}?", "What is {t}?", "What's {t}?", "What is a {t}?", "What is an {t}?",
        "What are {t}?",
        "What does {t} mean?", "Explain {t}.", "Define {t}.", "Tell me about {t}.", "Can you explain {t}?",
        "Please explain {t}.", "Explain {t} to me.", "What is meant by {t}?", "Describe {t}.", "{t}?", "{t}",
        "Give me a definition of {t}.", "What is the meaning of {t}?", "What do you know about {t}?",
        "Could you tell me what {t} is?", "I want to know what {t} is.", "Do you know what {t} is?",
        "Explain what {t} is.", "What is {t} in cyber security?", "Hi, what is {t}?", "definition of {t}",
        "What kind of thing is {t}?", "Can you define {t}?", "Please tell me what {t} means.",
    ),
    "prevent": (
        "How can {t} be prevented?", "How can we prevent {t}?", "How can I prevent {t}?",
        "How do I prevent {t}?",
        "How do you prevent {t}?", "How to prevent {t}?", "How can {t} be mitigated?",
        "How do we mitigate {t}?",
        "How to mitigate {t}?", "How can I protect against {t}?", "How do I protect myself from {t}?",
        "How can we stop {t}?", "How do I defend against {t}?", "What can I do against {t}?",
        "Mitigation for {t}?",
        "How can {t} be stopped?", "What are the mitigations for {t}?",
        "How do we protect our network from {t}?",
        "How can we defend ourselves against {t}?", "What helps against {t}?", "Tell me how to prevent {t}.",
        "Prevention of {t}", "How should we mitigate {t}?", "What are good defenses against {t}?",
    ),
    "detect": (
        "How can {t} be detected?", "How can we detect {t}?", "How do I detect {t}?", "How to detect {t}?",
        "How can I recognize {t}?", "What are the signs of {t}?", "How do I know if there is {t}?",
        "How is {t} detected?",
        "How do we notice {t}?", "Detection of {t}", "How do you spot {t}?",
        "What should I look for to detect {t}?",
        "How would I find {t}?", "Tell me how to detect {t}.", "How can we discover {t}?",
    ),
    "impact": (
        "Why does {t} matter?", "Why is {t} important?", "What is the impact of {t}?",
        "Why should I care about {t}?",
        "What are the consequences of {t}?", "Why is {t} relevant?", "What is the effect of {t}?",
        "Tell me why {t} matters.", "What makes {t} important?", "What is the significance of {t}?",
    ),
    "example": (
        "Give me an example of {t}.", "What is an example of {t}?", "Can you give an example of {t}?",
        "Show me an example of {t}.", "Example of {t}?", "Do you have an example of {t}?",
        "Name an example of {t}.",
    ),
    "use": (
        "How do I use {t}?", "How can we use {t}?", "How should {t} be used?", "How can {t} be implemented?",
        "How do we implement {t}?", "What are best practices for {t}?", "How do I set up {t}?",
        "How to use {t}?",
        "What should I do about {t}?", "How do I get {t} right?", "How should we handle {t}?",
    ),
}  # fmt: skip
NAMED_HELD_OUT: dict[str, tuple[str, ...]] = {
    "what": ("What exactly is {t}?", "Could you describe {t}?", "How would you define {t}?",
             "I have heard of {t}, what is it?", "Can you tell me about {t}?"),
    "prevent": ("What is the best way to prevent {t}?", "How can an organization protect itself against {t}?",
                "What should be done to mitigate {t}?", "Which measures prevent {t}?"),
    "detect": ("What is the best way to detect {t}?", "How could a defender detect {t}?",
               "How can you tell {t} is happening?"),
    "impact": ("Why is it that {t} matters?", "What is so important about {t}?"),
    "example": ("Could you give me one example of {t}?", "Is there an example of {t}?"),
    "use": ("What is the best way to use {t}?", "How would you implement {t}?"),
}  # fmt: skip

# Extra forms for groups, and for what software and groups do.
GROUP_WHAT = ("Who is {t}?", "Who are {t}?", "Who is {t}?", "Tell me who {t} is.")
ACTOR_EXAMPLE = (
    "What does {t} do?",
    "What has {t} done?",
    "Give me an example of what {t} does.",
    "How does {t} work?",
)

# Follow-ups: the term is in an earlier turn.
FOLLOW_UP: dict[str, tuple[str, ...]] = {
    "what": ("What is it?", "Explain it again.", "What does it mean?", "What was that again?"),
    "prevent": (
        "How can we prevent it?", "How can we prevent it?", "How can I prevent it?", "How do I prevent it?",
        "How to prevent it?", "How can it be prevented?", "How can it be mitigated?",
        "How do we mitigate it?",
        "How can I protect against it?", "How do I protect myself from it?", "How can we stop it?",
        "How do I defend against it?", "What can I do against it?", "And how can we prevent it?",
        "How can we prevent this?", "How can that be prevented?", "What helps against it?",
        "How do we stop that?",
        "How can we prevent them?", "What are the mitigations?",
        "OK, and how do we protect our network from it?",
    ),
    "detect": (
        "How can we detect it?", "How do I detect it?", "How can it be detected?", "How to detect it?",
        "How can I recognize it?", "What are the signs of it?", "How do we notice it?",
        "And how is it detected?",
        "How can we detect this?", "How do I spot it?", "What should I look for?", "How can we detect them?",
    ),
    "impact": (
        "Why does it matter?", "Why is it important?", "What is the impact?", "Why should I care?",
        "What are the consequences?", "Why does that matter?", "Why is this important?",
        "So why does it matter?",
    ),
    "example": ("Give me an example.", "Can you give an example?", "What is an example?",
                "Show me an example.",
                "Do you have an example?", "Give an example of it."),
    "use": ("How do I use it?", "How can we use it?", "How can it be implemented?", "How do we implement it?",
            "What are the best practices?", "How should it be used?", "How do we do it?", "How to use it?"),
}  # fmt: skip
FOLLOW_UP_HELD_OUT: dict[str, tuple[str, ...]] = {
    "prevent": ("What is the best way to prevent it?", "How can an organization protect itself against it?",
                "Which measures prevent it?", "How could this be stopped?"),
    "detect": ("What is the best way to detect it?", "How could a defender detect it?",
               "How would I find it?"),
    "impact": ("Why is it so important?", "What is its impact?"),
    "example": ("Could you give me one example?", "Is there an example?"),
    "use": ("What is the best way to use it?", "How would you implement it?"),
}  # fmt: skip
ACTOR_EXAMPLE_FOLLOW_UP = (
    "What does it do?",
    "What do they do?",
    "What have they done?",
    "How does it work?",
)


def named_forms(intent: str, kind: str) -> tuple[str, ...]:
    """Training forms that name the term, for an intent and a kind of entry."""
    if intent == "what" and kind == "group":
        return NAMED["what"] + GROUP_WHAT * 2
    if intent == "example" and kind in ("group", "software"):
        return NAMED["example"] + ACTOR_EXAMPLE
    return NAMED[intent]


def follow_up_forms(intent: str, kind: str) -> tuple[str, ...]:
    """Training forms with a pronoun, for an intent and a kind of entry."""
    if intent == "example" and kind in ("group", "software"):
        return FOLLOW_UP["example"] + ACTOR_EXAMPLE_FOLLOW_UP
    return FOLLOW_UP[intent]


def fill(form: str, name: str) -> str:
    """The question: the form with the term in it, its first letter a capital."""
    question = form.replace("{t}", name)
    return question if form.startswith("{t}") else question[0].upper() + question[1:]


def typed(question: str, chance: random.Random) -> str:
    """The question as somebody may type it: punctuation left out, case changed, now and then a slip."""
    draw = chance.random()
    if draw < 0.22:
        question = question.rstrip("?.")
    elif draw < 0.25:
        question = question.rstrip("?.") + chance.choice(("??", " ?", "!", "."))
    draw = chance.random()
    if draw < 0.22:
        question = question.lower()
    elif draw < 0.24:
        question = question.upper()
    elif draw < 0.26:
        question = question.title()
    if chance.random() < 0.03 and len(question) > 12:
        at = chance.randrange(4, len(question) - 2)
        question = question[:at] + question[at + 1 :]
    return re.sub(r" {2,}", " ", question)


def name_as_typed(name: str, chance: random.Random) -> str:
    """A term in the case it may be typed in: an acronym stays as it is, words are often put in lower case."""
    if chance.random() < 0.3:
        return name.lower() if any(c.islower() for c in name) else name
    if chance.random() < 0.1 and name[0].islower():
        return name.title()
    return name
