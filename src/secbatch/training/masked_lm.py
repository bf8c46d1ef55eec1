"""Train the built-in masked LM: ``python -m secbatch.training.masked_lm --corpus DIR --output DIR --minutes N``.

The schedule is a function of the clock: the learning rate falls to zero when the minutes are over, whatever the
machine managed in them. With ``--checkpoint`` an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secbatch.training.corpus import CORPUS_FILES, GENERAL_ENGLISH, Document, read_corpus
from secbatch.training.masked_lm_batches import encode_documents, training_batches
from secbatch.training.masked_lm_evaluation import Probe, evaluate, evaluate_constant, make_probes
from secbatch.training.masked_lm_model import base_encoder_folder, save_model, warm_start
from secbatch.training.masked_lm_training import CheckpointError, TrainingSettings, tell, train
from secbatch.training.masking import is_content_word
from secbatch.training.model_card import MaskedLMFigures, write_card
from secbatch.training.vocabulary import build_tokenizer, count_words, edit_vocabulary

if TYPE_CHECKING:
    from secbatch.training.masking import EncodedSentence

EVALUATED_SOURCES = ("attack", "reports")
MOST_FREQUENT = 10


def held_out_probes(documents: Sequence[Document], source: str) -> list[Probe]:
    """Probes of the held-out documents of a source; sentences that also occur in training are left out."""
    trained = {s for document in documents if not document.held_out for s in document.sentences}
    fresh = dict.fromkeys(
        sentence
        for document in documents
        if document.held_out and document.source == source
        for sentence in document.sentences
        if sentence not in trained
    )
    return make_probes(fresh)


def target_counts(vocabulary_size: int, sources: Mapping[str, Sequence[Sequence[EncodedSentence]]]) -> list[int]:
    """How often each entry stands as a word that masking prefers, over the whole corpus. [V]"""
    counts = np.zeros(vocabulary_size)
    for documents in sources.values():
        for document in documents:
            for sentence in document:
                np.add.at(counts, sentence.ids[sentence.starts], sentence.weights)
    return [int(count) for count in counts]


def run(corpus: Path, output: Path, settings: TrainingSettings, checkpoint: Path | None) -> None:
    """Read the corpus, train, measure, and write model, tokenizer and card to ``output``."""
    import torch
    from transformers import BertForMaskedLM, BertTokenizer

    torch.manual_seed(settings.seed)
    base = base_encoder_folder()
    documents, files = read_corpus(corpus, tell)
    training = [document for document in documents if not document.held_out]
    base_tokenizer = BertTokenizer.from_pretrained(base)
    words = count_words(base_tokenizer, (d.sentences for d in training if d.source != GENERAL_ENGLISH.source))
    vocabulary = edit_vocabulary(base_tokenizer, words, settings.minimum_count, settings.maximum_added)
    tokenizer = build_tokenizer(vocabulary.entries)
    tell(f"vocabulary: {len(vocabulary.entries)} entries, {vocabulary.dropped} dropped, {vocabulary.added} added")
    names = dict.fromkeys(document.source for document in training)
    sources = {name: encode_documents(tokenizer, [d.sentences for d in training if d.source == name]) for name in names}
    corpus_tokens = {
        name: sum(len(s.ids) for document in encoded for s in document) for name, encoded in sources.items()
    }
    tell("tokens: " + ", ".join(f"{name} {tokens}" for name, tokens in corpus_tokens.items()))
    counts = target_counts(len(vocabulary.entries), sources)
    model = warm_start(base, vocabulary, counts)
    special = (
        vocabulary.entries.index("[CLS]"), vocabulary.entries.index("[SEP]"),
        vocabulary.entries.index("[MASK]"), vocabulary.entries.index("[PAD]"),
    )  # fmt: skip
    # A resumed run must not see the batches of its first minutes again.
    seed = settings.seed + (int(checkpoint.stat().st_mtime) if checkpoint and checkpoint.is_file() else 0)
    weights = {entry.source: entry.weight for entry in (*CORPUS_FILES, GENERAL_ENGLISH)}
    batches = training_batches(sources, weights, settings.token_budget, special, seed)
    entries = hashlib.sha256("\n".join(vocabulary.entries).encode()).hexdigest()
    progress = train(model, batches, settings, checkpoint, entries)
    save_model(model, tokenizer, output)
    model = BertForMaskedLM.from_pretrained(output, dtype=torch.float32).eval()  # what is measured is what was written

    by_frequency = [vocabulary.entries[index] for index in np.argsort(counts)[::-1]]
    frequent = [entry for entry in by_frequency if is_content_word(entry)][:MOST_FREQUENT]
    base_words = set(base_tokenizer.get_vocab())
    figures = []
    for source in EVALUATED_SOURCES:
        probes = held_out_probes(documents, source)
        if probes:
            base_coverage = sum(probe.word.lower() in base_words for probe in probes) / len(probes)
            result = evaluate(model, tokenizer, probes)
            tell(f"{source}: {result}")
            figures.append(MaskedLMFigures(source, result, evaluate_constant(frequent, probes), base_coverage))
    write_card(output, model, tokenizer, files, corpus_tokens, vocabulary, settings, progress, figures)
    tell(f"model and card are in {output}")


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(prog="python -m secbatch.training.masked_lm", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder that holds the corpus files")
    parser.add_argument("--output", type=Path, required=True, help="folder to write model and card to")
    parser.add_argument("--minutes", type=float, default=TrainingSettings.minutes, help="length of the training")
    parser.add_argument("--checkpoint", type=Path, help="file to write checkpoints to and to go on from")
    parser.add_argument(
        "--replicas", type=int, default=TrainingSettings.replicas, help="single-threaded copies that share a step"
    )
    options = parser.parse_args()
    try:
        settings = TrainingSettings(minutes=options.minutes, replicas=options.replicas)
        run(options.corpus, options.output, settings, options.checkpoint)
    except (FileNotFoundError, ModuleNotFoundError, CheckpointError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
