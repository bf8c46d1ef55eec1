"""How often bfloat16 gives the same best word as float32: python benchmarks/bf16_agreement.py [MODEL] [--device D].

The sentences of the bundled reports, every sixth word masked in turn; each masked sentence is predicted in both
precisions on the same device.
"""

import argparse
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from secbatch.models.device import choose
from secbatch.models.resolve import resolve
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.sources.sentences import split_sentences
from secbatch.task_specs import FillMask
from secbatch.tasks.fill_mask import FillMaskTask

REPORTS = Path(__file__).parents[1] / "sample_data" / "reports.parquet"
STEP = 6  # words between two masked ones


def masked_sentences() -> list[str]:
    found = []
    for text in pq.read_table(REPORTS, columns=["text"]).column("text").to_pylist():
        for start, end in split_sentences(text):
            found.extend(masked(text[start:end]))
    return found


def masked(sentence: str) -> list[str]:
    words = sentence.split()
    return [" ".join([*words[:place], "<mask>", *words[place + 1 :]]) for place in range(2, len(words), STEP)]


def best_words(model: str, sentences: list[str], device: str, precision: str) -> tuple[list[str], float]:
    table = pa.table({"sentence": sentences})
    spec = FillMask(type="fill-mask", model=model, text="sentence", top_k=1)
    task = FillMaskTask("mask", spec, table.schema, SharedEncoder(resolve(model), choose(device, precision)))
    task.load()
    ids, usable = pa.array([str(n) for n in range(len(sentences))]), pa.array([True] * len(sentences))
    begin = time.perf_counter()
    done = task.finish(task.compute(task.encode(table, ids, usable)))
    return done.columns["mask_top"].to_pylist(), time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="builtin/mlm")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    sentences = masked_sentences()
    exact, exact_seconds = best_words(options.model, sentences, options.device, "float32")
    rounded, rounded_seconds = best_words(options.model, sentences, options.device, "bfloat16")
    same = sum(a == b for a, b in zip(exact, rounded, strict=True))
    print(
        f"{options.model}: same best word in {same} of {len(sentences)} masked sentences ({same / len(sentences):.2%})"
    )
    print(f"float32 {exact_seconds:.1f} s, bfloat16 {rounded_seconds:.1f} s")


if __name__ == "__main__":
    main()
