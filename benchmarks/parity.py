"""Does a job give what transformers gives, text by text? python benchmarks/parity.py [--tokenizer DIR] [--model M]

Jobs in float32 on Parquet rows, the way a user runs them, against `pipeline("fill-mask")` and `last_hidden_state` of
one sentence alone, both in float64 so that the rounding seen is ours alone, and `generate` of one question alone
(float32; greedy, and beam 10). By default: the built-in models, a
RoBERTa in SecureBERT's true shape (random weights, plain and sharpened) and a Blenderbot, with the built-in
tokenizers. Ends with exit code 1 when a figure is outside of what the documentation promises. Such a line says where
it is furthest apart and is followed by a second try, which shows whether this machine gives the same figures again.
"""

import argparse
import csv
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import parity_shapes
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
from transformers.utils import logging

from secbatch.jobfile import validate
from secbatch.models.generation_settings import DEFAULT_NEW_TOKENS
from secbatch.models.resolve import resolve
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.runner import run_job
from secbatch.sources.sentences import split_sentences
from secbatch.task_specs import CHAT_PROMPT
from secbatch.tasks.generated_text import clean

SAMPLES = Path(__file__).parents[1] / "sample_data"
NEAR = 1e-6  # neighbours closer than this may swap
LIMITS = {"score": 1e-5, "relative": 1e-3, "vector": 1e-5}
SPARE = 50  # words of the pipeline beyond top_k, where a neighbour of the last one may stand


@dataclass
class Line:
    """One line of the table."""

    model: str
    what: str
    rows: int = 0
    compared: int = 0
    differ: int = 0
    absolute: float = 0.0
    relative: float | None = None
    limit: float = LIMITS["score"]
    furthest: str = ""  # where `absolute` was seen

    def see(self, absolute: float, where: str) -> None:
        if absolute > self.absolute:
            self.absolute, self.furthest = absolute, where

    @property
    def fits(self) -> bool:
        return not self.differ and self.absolute <= self.limit and (self.relative or 0.0) <= LIMITS["relative"]

    def __str__(self) -> str:
        relative = f"{self.relative:.1e}" if self.relative is not None else "-"
        figures = f"{self.rows:>5} {self.compared:>9} {self.differ:>7} {self.absolute:>9.1e} {relative:>9}"
        return f"{self.model:<24} {self.what:<32} {figures}  {'ok' if self.fits else 'DIFFERS'}"


def sentences(texts: str | None, column: str) -> list[str]:
    """Sentences of the documents in a Parquet or CSV file; of the bundled reports when there is none."""
    path = Path(texts) if texts else SAMPLES / "reports.parquet"
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            documents = [row[column] for row in csv.DictReader(file)]
    else:
        documents = pq.read_table(path, columns=[column]).column(column).to_pylist()
    return [text[a:b] for text in documents if text for a, b in split_sentences(text) if "<mask>" not in text[a:b]]


def masked(found: list[str], count: int) -> list[str]:
    """`count` sentences with one to three words masked, at the ends and at punctuation as well."""
    chance = random.Random(0)
    rows = []
    for sentence in chance.sample(found, min(count, len(found))):
        words = sentence.split()
        for place in chance.sample(range(len(words)), min(len(words), chance.choice((1, 1, 2, 3)))):
            words[place] = "<mask>" + ("," if words[place].endswith(",") else "")
        rows.append(" ".join(words))
    return rows


def enriched(task: dict[str, Any], texts: list[str]) -> list[dict[str, Any]]:
    """The rows that a job with this one task makes of `texts`, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table({"n": range(len(texts)), "text": texts}), f"{folder}/texts.parquet")
        values = {
            "name": "parity",
            "input": {"path": f"{folder}/texts.parquet", "id": ["n"]},
            "tasks": {"t": {"text": "text", **task}},
            "output": {"path": f"{folder}/out"},
            "device": "cpu",
            "precision": "float32",
        }
        run_job(validate(values, "parity"))
        return sorted(pq.read_table(f"{folder}/out/data").to_pylist(), key=lambda row: row["n"])


def fill_mask(model: str, label: str, texts: list[str], top_k: int) -> Line:
    resolved = resolve(model)
    tokenizer = load_tokenizer(resolved).hf
    stock = AutoModelForMaskedLM.from_pretrained(resolved.folder, dtype=torch.float64)
    peer: Any = pipeline("fill-mask", model=stock, tokenizer=tokenizer, device="cpu")
    line = Line(label, f"fill-mask, top {top_k}", relative=0.0)
    top_score: list[float] = []
    for row in enriched({"type": "fill-mask", "model": model, "top_k": top_k}, texts):
        if row["t_truncated"]:
            continue
        wanted = peer(
            row["text"].replace("<mask>", tokenizer.mask_token), top_k=min(top_k + SPARE, stock.config.vocab_size)
        )
        line.rows += 1
        for mine, theirs in zip(row["t_predictions"], [wanted] if isinstance(wanted[0], dict) else wanted, strict=True):
            top_score.append(mine[0]["score"])
            for got, one in zip(mine, theirs[: len(mine)], strict=True):
                line.compared += 1
                gap = abs(got["score"] - one["score"])
                line.see(gap, f"{got['token']!r} has {got['score']:.9f}, not {one['score']:.9f}, in {row['text']!r}")
                line.relative = max(line.relative or 0.0, gap / one["score"] if one["score"] else 0.0)
                near = [w["token_str"].strip() for w in theirs if abs(w["score"] - one["score"]) <= NEAR]
                if got["token"] not in near:
                    line.differ += 1
                    line.furthest = f"{got['token']!r} stands where {one['token_str']!r} should, in {row['text']!r}"
    line.what += f" (best {sum(top_score) / max(len(top_score), 1):.3f})"
    return line


def embed(model: str, label: str, texts: list[str]) -> Line:
    resolved = resolve(model)
    tokenizer = load_tokenizer(resolved)
    stock = AutoModel.from_pretrained(resolved.folder, dtype=torch.float64).eval()
    line = Line(label, "embed, mean", limit=LIMITS["vector"])
    for row in enriched({"type": "embed", "model": model}, texts):
        ids = tokenizer.hf(row["text"], return_tensors="pt").input_ids
        if ids.shape[1] > tokenizer.max_length:
            continue
        with torch.inference_mode():
            alone = stock(input_ids=ids).last_hidden_state[0].mean(0)
        line.rows, line.compared = line.rows + 1, line.compared + len(alone)
        # Rounding is a share of what is rounded: values of a sentence may reach far above 1.
        gap = (alone - torch.tensor(row["t"])).abs().max() / alone.abs().max().clamp(min=1.0)
        line.see(float(gap), repr(row["text"]))
    return line


def chat(model: str, label: str, questions: list[str], beams: int) -> Line:
    """Answers as text, and their number of tokens."""
    resolved = resolve(model)
    tokenizer = AutoTokenizer.from_pretrained(resolved.folder)
    stock: Any = AutoModelForSeq2SeqLM.from_pretrained(resolved.folder, dtype=torch.float32).eval()
    line = Line(label, "chat, greedy" if beams == 1 else f"chat, beam {beams}", limit=0.0)
    own = stock.generation_config
    ends = own.eos_token_id
    # transformers stops after 20 tokens where a model does not say how many
    limit = {} if own.max_length or own.max_new_tokens else {"max_new_tokens": DEFAULT_NEW_TOKENS}
    task = {"type": "chat", "model": model, "prompt": CHAT_PROMPT, "generation": {"num_beams": beams}}
    for row in enriched(task, questions):
        ids = tokenizer(CHAT_PROMPT.replace("{text}", row["text"]), return_tensors="pt").input_ids
        if row["t_truncated"]:
            continue
        with torch.inference_mode():
            whole = stock.generate(ids, num_beams=beams, do_sample=False, **limit)[0, 1:].tolist()
        tokens = whole[: whole.index(ends)] if ends in whole else whole
        line.rows, line.compared = line.rows + 1, line.compared + len(tokens)
        same = row["t"] == clean(str(tokenizer.decode(tokens, skip_special_tokens=True)))
        if not (same and row["t_tokens"] == len(tokens)):
            line.differ += 1
            line.furthest = f"the answer to {row['text']!r}"
    return line


def comparisons(options: argparse.Namespace, folder: Path) -> Iterator[Callable[[], Line]]:
    found = sentences(options.texts, options.column)
    texts = masked(found, options.rows)
    with (SAMPLES / "questions.csv").open(encoding="utf-8-sig", newline="") as file:
        questions = [row["question"] for row in csv.DictReader(file)][: options.questions]
    mask_tokenizer = AutoTokenizer.from_pretrained(resolve("builtin/mlm").folder)
    if options.tokenizer:
        from transformers import AddedToken, RobertaTokenizer

        mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
        mask_tokenizer = RobertaTokenizer.from_pretrained(options.tokenizer, mask_token=mask)
    models = [(name, name) for name in options.model]
    if not models:
        models = [("builtin/mlm", "builtin/mlm")]
        for sharpened, label in ((False, "SecureBERT shape"), (True, "SecureBERT shape, sharp")):
            path = folder / label
            parity_shapes.securebert_shape(mask_tokenizer, path, options.layers, sharpened)
            models.append((str(path), label))
    for model, label in models:
        yield partial(fill_mask, model, label, texts, options.top_k)
        yield partial(embed, model, label, found[: options.rows])
    chats = [(name, name) for name in options.chat_model]
    if not chats and not options.model:
        tokenizer = AutoTokenizer.from_pretrained(resolve("builtin/chat").folder)
        shape = parity_shapes.blenderbot_shape(tokenizer, folder / "blenderbot", options.full)
        chats = [("builtin/chat", "builtin/chat"), (str(shape), "Blenderbot shape")]
    for model, label in chats:
        yield partial(chat, model, label, questions, 1)
        yield partial(chat, model, label, questions, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokenizer", help="folder with the tokenizer (vocab.json, merges.txt) of the SecureBERT shape"
    )
    parser.add_argument("--model", action="append", default=[], help="masked LM to compare instead (repeatable)")
    parser.add_argument("--chat-model", action="append", default=[], help="sequence-to-sequence model (repeatable)")
    parser.add_argument("--texts", help="Parquet or CSV file of documents; the bundled reports when not given")
    parser.add_argument("--column", default="text", help="its column with the text")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--layers", type=int, default=12, help="of the SecureBERT shape")
    parser.add_argument("--full", action="store_true", help="Blenderbot in its true size (2 + 12 layers, 1,280 wide)")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(f"{'model':<24} {'task':<32}  rows  compared  differ  absolute  relative")
    fits = True
    with tempfile.TemporaryDirectory() as folder:
        for compare in comparisons(options, Path(folder)):
            line = compare()
            print(line, flush=True)
            if not line.fits:
                print(f"  furthest apart: {line.furthest}\n  a second try:\n{compare()}", flush=True)
            fits &= line.fits
    sys.exit(0 if fits else 1)


if __name__ == "__main__":
    main()
