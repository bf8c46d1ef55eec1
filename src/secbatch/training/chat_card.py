"""The chat model's card: what it is, what it was trained on, and the figures measured on it."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from secbatch.training.chat_evaluation import GOOD_F1, Figures
from secbatch.training.corpus import sha256
from secbatch.training.dialogue import PROMPT_PREFIX, UNKNOWN_TERM
from secbatch.training.dialogue_corpus import FILES
from secbatch.training.dialogue_entries import GLOSSARY, Entry

SAMPLES = (
    ("What is DDoS", "How can we prevent it?"),
    ("What is phishing?", "How do I detect it?", "Give me an example"),
    ("what does xss mean", "how can it be mitigated?"),
    ("Who is APT28?", "What do they do?"),
    ("What is Kerberoasting?", "Why does it matter?"),
    ("What is a blorfizator?",),
)


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def figures_table(results: dict[str, Figures]) -> str:
    """A Markdown table of the figures."""
    lines = [
        f'| held-out questions | number | exact | F1 ≥ {GOOD_F1} | mean F1 | "I do not know" |',
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, f in results.items():
        lines.append(f"| {name} | {f.questions} | {f.exact:.1%} | {f.good:.1%} | {f.mean_f1:.3f} | {f.refused:.1%} |")
    return "\n".join(lines)


def corpus_table(corpus: Path) -> str:
    """A Markdown table of the files that were read, with their hashes and licences."""
    lines = ["| file | used for | licence or notice | SHA-256 |", "|---|---|---|---|"]
    for name, (use, licence) in FILES.items():
        if (corpus / name).exists():
            lines.append(f"| `{name}` | {use} | {licence} | `{sha256(corpus / name)}` |")
    lines.append(f"| `{GLOSSARY.name}` | written for this project | as the project | `{sha256(GLOSSARY)}` |")
    return "\n".join(lines)


def write_card(
    folder: Path,
    corpus: Path,
    entries: Sequence[Entry],
    parameters: int,
    runs: Sequence[dict[str, float]],
    results: dict[str, Figures],
    samples: Sequence[Sequence[str]],
) -> None:
    """Write README.md into the model's folder."""
    answers = Counter(entry.source for entry in entries for _ in entry.answers)
    terms = Counter(entry.source for entry in entries)
    counts = "; ".join(f"{source}: {terms[source]} terms, {answers[source]} answers" for source in terms)
    minutes = sum(run["minutes"] + run.get("encoder_minutes", 0.0) for run in runs)
    encoder_minutes = sum(run.get("encoder_minutes", 0.0) for run in runs)
    dialogues = sum(int(run["dialogues"]) for run in runs)
    loss = runs[-1]["loss"] if runs else float("nan")
    steps = sum(int(run["steps"]) for run in runs)
    tokens = sum(int(run["tokens"]) for run in runs)
    talks = "\n\n".join(
        "\n".join(f"> **{'You' if i % 2 == 0 else 'Model'}:** {turn}  " for i, turn in enumerate(turns))
        for turns in samples
    )
    text = f"""# Built-in chat model

A small stand-in so that questions get true answers without a network. It is **not** Blenderbot: it has
Blenderbot's architecture, {parameters / 1e6:.1f} M parameters instead of 400 M, and was trained from random weights on
nothing but the questions and answers described here. It **memorises definitions** and does not reason.

- A question about a term outside its list, or a question that is no "what, how to prevent, how to detect, why,
  an example" about one term, gets "I do not know" at best and the answer to another question at worst.
- It can take an invented or misspelled name for one that it knows, and loses the thread more often the longer a
  conversation is.
- Check what matters.

## Use
Plain transformers (5 or later): `AutoTokenizer` and `AutoModelForSeq2SeqLM` `.from_pretrained` on this folder.

The turns, oldest first, are joined by two spaces, with this before each question or before none (training saw
each in half of the dialogues): `{PROMPT_PREFIX}`
The tokenizer adds the space before the first turn and the end token `</s>`; `apply_chat_template` gives the same
string. Two spaces in a row always mark a new turn. At most 128 tokens; longer conversations are cut from the
left. Generation defaults: greedy, at most 64 new tokens.

## What it was trained on
{len(entries)} terms with {sum(answers.values())} answers ({counts}).
From the corpora: the first sentence of each description, for the techniques, groups and software of ATT&CK that
they speak of most; mitigations, Sigma detections and reported behaviour where they could be linked. Questions are
generated: many forms for each intent (what, prevent, detect, impact, example, use), by name or as a follow-up with
a pronoun, in varying case and punctuation. Names outside the list, and invented ones, are answered with
"{UNKNOWN_TERM}"
Identifiers such as CVE numbers are answered with a hint where to look them up: a model of this size would mix
them up.

{corpus_table(corpus)}

## Training
`python -m secbatch.training.chat --corpus DIR --output DIR --minutes N`: {minutes:.0f} minutes on one CPU thread
shared with other work ({processor()}). First the encoder alone learned to tell which term and intent a question is
about ({encoder_minutes:.1f} minutes, with a head that is thrown away), then the whole model:
{steps:,} steps, {dialogues:,} dialogues, {tokens:,} tokens, float32; loss at the end {loss:.3f} nats a token.
Weights are stored in float16.

## Figures
Measured by the same command on questions kept out of training (with greedy search, the default). *Unseen form*:
the form of the question occurs nowhere in training. *Unseen pair*: the form occurs, but never with this term.
Follow-ups name the term only in an earlier turn. The answers themselves were in training: this measures whether a
question finds its answer, and says nothing about knowledge beyond the list. *Unknown name*: real names that
training left out, *invented word*: words that mean nothing (new ones of the generator
that training uses); there "I do not know" is right. F1 is over words.

{figures_table(results)}

## Samples
With the prompt prefix; the history holds the model's own answers.

{talks}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
