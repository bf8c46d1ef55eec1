"""Train the built-in chat model: ``python -m secbatch.training.chat --corpus DIR --output DIR --minutes N``.

The corpus folder holds definitions (see `dialogue_corpus.FILES`); the output folder gets the weights, the
tokenizer and a model card with the figures measured here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from secbatch.training.chat_batches import Topics, batches
from secbatch.training.chat_card import SAMPLES, figures_table, write_card
from secbatch.training.chat_evaluation import evaluate, talk
from secbatch.training.chat_model import POSITIONS, build_model
from secbatch.training.chat_tokenizer import train_tokenizer
from secbatch.training.chat_training import Schedule, TrainingReport, topic_head, train, train_encoder
from secbatch.training.dialogue import PROMPT_PREFIX, DialogueSampler, evaluation_sets
from secbatch.training.dialogue_corpus import Knowledge, read_knowledge
from secbatch.training.dialogue_entries import Entry, merge, read_glossary

VOCABULARY = 8000
ENCODER_SHARE = 0.1  # of the time, for the first stage
EVALUATION_SEED = 20_000
RUNS = "training.json"  # written last: a folder without it is not whole


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m secbatch.training.chat", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with the corpus files")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and its card")
    parser.add_argument("--minutes", type=float, default=60, help="minutes to train (60; 0: only measure)")
    parser.add_argument("--resume", type=Path, help="model folder to start from, instead of random weights")
    parser.add_argument("--checkpoints", type=Path, help="folder for a checkpoint every ten minutes")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch decides)")
    parser.add_argument("--batch-tokens", type=int, default=500, help="target tokens in a batch, about")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--questions", type=int, default=400, help="held-out questions of each kind")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def vocabulary_texts(entries: list[Entry], knowledge: Knowledge, seed: int) -> list[str]:
    """Text for the tokenizer: mostly what the model will read and write, and some of the corpora."""
    drawn = DialogueSampler(entries, knowledge.unknown_names, seed).draw(20_000)
    written = [answer for entry in entries for answer in entry.answers.values()]
    read = [turn for dialogue in drawn for turn in dialogue.turns[-1:]]
    return [*written * 10, *read, PROMPT_PREFIX, *_sample(knowledge.vocabulary_texts, 8000, seed)]


def _sample(texts: list[str], count: int, seed: int) -> list[str]:
    return random.Random(seed).sample(texts, k=min(count, len(texts)))


def save(model: Any, tokenizer: Any, runs: list[dict[str, Any]], folder: Path) -> None:
    """Write the model (float16 weights), its tokenizer and the runs that made it; what is in memory stays as it is."""
    import copy

    import torch

    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUNS).unlink(missing_ok=True)
    for key in ("is_local", "local_files_only"):  # how it was loaded is no part of the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    copy.deepcopy(model).to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / RUNS).write_text(json.dumps({"runs": runs}, indent=2) + "\n", encoding="utf-8")


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs that made the model in a folder. Raises ``FileNotFoundError`` for one that `save` did not finish."""
    if not (folder / RUNS).is_file():
        raise FileNotFoundError(f"{folder} holds no {RUNS}, so no whole model of this training; name another to resume")
    runs: list[dict[str, Any]] = json.loads((folder / RUNS).read_text(encoding="utf-8"))["runs"]
    return runs


def load(folder: Path) -> tuple[Any, Any]:
    """(model in float32, tokenizer) from a folder written by `save`."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    return (
        AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True),
        AutoTokenizer.from_pretrained(folder, local_files_only=True),
    )


def log(line: str) -> None:
    """Progress goes to standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Train, save, measure and write the card; returns the exit code."""
    try:
        run(parse_arguments(arguments))
    except (FileNotFoundError, ModuleNotFoundError) as error:
        log(f"python -m secbatch.training.chat: {error}")
        return 1
    return 0


def run(options: argparse.Namespace) -> None:
    """What `main` does once its arguments are parsed."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    history = read_runs(options.resume) if options.resume else []
    knowledge = read_knowledge(options.corpus)
    entries = merge([read_glossary(), knowledge.entries])
    log(f"{len(entries)} terms, {sum(len(e.answers) for e in entries)} answers")
    if options.resume:
        model, tokenizer = load(options.resume)
    else:
        tokenizer = train_tokenizer(vocabulary_texts(entries, knowledge, options.seed), VOCABULARY, POSITIONS)
        model = build_model(len(tokenizer))
    log(f"{model.num_parameters()} parameters, {len(tokenizer)} entries in the vocabulary")

    numbers = itertools.count(1)
    encoder_seconds = 0.0 if options.resume else options.minutes * 60 * ENCODER_SHARE

    def runs(report: TrainingReport) -> list[dict[str, Any]]:
        return [*history, asdict(replace(report, encoder_minutes=encoder_seconds / 60))] if report.steps else history

    def checkpoint(report: TrainingReport) -> None:
        if options.checkpoints:
            save(model, tokenizer, runs(report), options.checkpoints / f"checkpoint-{next(numbers):02d}")

    sampler = DialogueSampler(entries, knowledge.unknown_names, options.seed + 1 + len(history))
    topics = Topics()
    head = topic_head(model)
    if encoder_seconds:
        stream = batches(sampler, tokenizer, options.batch_tokens, POSITIONS, options.seed, topics)
        train_encoder(model, head, stream, Schedule(1.5 * options.rate, encoder_seconds, warmup_steps=50), log)
    stream = batches(sampler, tokenizer, options.batch_tokens, POSITIONS, options.seed, topics)
    schedule = Schedule(options.rate, options.minutes * 60 - encoder_seconds)
    report = train(model, head, stream, schedule, log, checkpoint)
    history = runs(report)
    save(model, tokenizer, history, options.output)
    log(f"saved {options.output} after {report.steps} steps, loss {report.loss:.3f}")

    model, tokenizer = load(options.output)  # what is measured is what was written
    sets = evaluation_sets(entries, knowledge.unknown_names, EVALUATION_SEED, options.questions)
    results = evaluate(model, tokenizer, sets)
    log(figures_table(results))
    samples = [talk(model, tokenizer, questions) for questions in SAMPLES]
    write_card(options.output, options.corpus, entries, model.num_parameters(), history, results, samples)


if __name__ == "__main__":
    raise SystemExit(main())
