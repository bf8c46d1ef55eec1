"""How often bfloat16 gives the same best word as float32: python benchmarks/bf16_agreement.py [MODEL] [--device D].

The sentences of the bundled reports (or of --sentences FILE), every sixth word masked in turn; each masked sentence is
predicted in both precisions on the same device; beside it, how often transformers in bfloat16 (one sentence at a time)
gives the word that transformers gives in float32.
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


def masked_sentences(file: Path | None = None) -> list[str]:
    if file is None:
        texts = pq.read_table(REPORTS, columns=["text"]).column("text").to_pylist()
    else:
        texts = file.read_text(encoding="utf-8").splitlines()
    return [line for text in texts for start, end in split_sentences(text) for line in masked(text[start:end])]


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


def stock_words(model: str, sentences: list[str], device: str, precision: str) -> list[str]:
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = resolve(model).folder
    words = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForMaskedLM.from_pretrained(folder, dtype=getattr(torch, precision)).eval().to(device)
    found: list[str] = []
    with torch.inference_mode():
        for sentence in sentences:
            inputs = words(sentence.replace("<mask>", words.mask_token), return_tensors="pt").to(device)
            logits = network(**inputs).logits[inputs.input_ids == words.mask_token_id]  # [1, vocabulary]
            found.extend(text.strip() for text in words.batch_decode(logits.float().argmax(dim=-1)[:, None]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="builtin/mlm")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sentences", type=Path, help="texts, one a line; the bundled reports if left out")
    options = parser.parse_args()
    sentences = masked_sentences(options.sentences)
    exact, exact_seconds = best_words(options.model, sentences, options.device, "float32")
    rounded, rounded_seconds = best_words(options.model, sentences, options.device, "bfloat16")
    same = sum(a == b for a, b in zip(exact, rounded, strict=True))
    print(
        f"{options.model}: same best word in {same} of {len(sentences)} masked sentences ({same / len(sentences):.2%})"
    )
    device = choose(options.device, "float32").device
    stock = [stock_words(options.model, sentences, device, precision) for precision in ("float32", "bfloat16")]
    alike = sum(a == b for a, b in zip(*stock, strict=True))
    equal = sum(a == b for a, b in zip(exact, stock[0], strict=True))
    share = alike / len(sentences)
    print(f"transformers: the same in {alike} ({share:.2%}); in float32 its best word is ours in {equal}")
    print(f"float32 {exact_seconds:.1f} s, bfloat16 {rounded_seconds:.1f} s")


if __name__ == "__main__":
    main()
