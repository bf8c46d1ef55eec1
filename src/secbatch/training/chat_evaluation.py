"""Figures of a chat model: its answers to held-out questions against the answers it was taught."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secbatch.training.dialogue import PROMPT_PREFIX, UNKNOWN_TERM, Dialogue, conversation

GOOD_F1 = 0.8


@dataclass(frozen=True)
class Figures:
    """Results on one set: shares of all its questions. ``good`` is token F1 of at least 0.8 with the
    reference, ``refused`` is "I do not know that term"."""

    questions: int
    exact: float
    good: float
    mean_f1: float
    refused: float


def token_f1(answer: str, reference: str) -> float:
    """F1 over words without case and punctuation, as SQuAD measures it (https://arxiv.org/abs/1606.05250)."""
    given, wanted = (Counter(re.findall(r"\w+", text.lower())) for text in (answer, reference))
    common = sum((given & wanted).values())
    if common == 0:
        return float(given == wanted)
    precision, recall = common / sum(given.values()), common / sum(wanted.values())
    return 2 * precision * recall / (precision + recall)


def generate_answers(model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 32) -> list[str]:
    """Answers to conversations with the model's own generation defaults, in the order of ``texts``."""
    import torch

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    answers = [""] * len(texts)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        inputs = tokenizer([texts[i] for i in places], return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            outputs = model.generate(**inputs)
        for place, text in zip(places, tokenizer.batch_decode(outputs, skip_special_tokens=True), strict=True):
            answers[place] = text.strip()
    return answers


def measure(dialogues: Sequence[Dialogue], answers: Sequence[str]) -> Figures:
    """Figures of these answers."""
    scores = [token_f1(answer, dialogue.answer) for dialogue, answer in zip(dialogues, answers, strict=True)]
    count = len(dialogues)
    return Figures(
        questions=count,
        exact=sum(answer == d.answer for d, answer in zip(dialogues, answers, strict=True)) / count,
        good=sum(score >= GOOD_F1 for score in scores) / count,
        mean_f1=sum(scores) / count,
        refused=sum(answer == UNKNOWN_TERM for answer in answers) / count,
    )


def evaluate(model: Any, tokenizer: Any, sets: dict[str, list[Dialogue]]) -> dict[str, Figures]:
    """Figures of every set; sets about known terms also split by where the term is defined."""
    results: dict[str, Figures] = {}
    for name, dialogues in sets.items():
        answers = generate_answers(model, tokenizer, [conversation(d.turns) for d in dialogues])
        results[name] = measure(dialogues, answers)
        for label, wanted in (("glossary", True), ("corpora", False)):
            part = [(d, a) for d, a in zip(dialogues, answers, strict=True) if (d.source == "glossary") is wanted]
            if part and all(d.source for d, _ in part):
                results[f"{name} ({label})"] = measure([d for d, _ in part], [a for _, a in part])
    return results


def talk(model: Any, tokenizer: Any, questions: Sequence[str], prefix: str = PROMPT_PREFIX) -> list[str]:
    """The turns of a conversation in which the model's own answers are the history."""
    turns: list[str] = []
    for question in questions:
        turns.append(question)
        turns += generate_answers(model, tokenizer, [conversation(turns, prefix)])
    return turns
