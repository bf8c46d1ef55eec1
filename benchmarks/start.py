"""How long a run takes to its first checkpoint: python benchmarks/start.py

A whole process is timed, `python -m secbatch run`, with a model of RoBERTa-base's shape (500 MB of weights, on a warm
disk), from its start to the moment when the first Parquet file of the output is in place. The first run sees the
weights for the first time; the second knows their hash.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from null_model import model_folder
from sentences import distinct_sentences, write_csv

JOB = """
name: start
input: {{path: {folder}/sentences.csv}}
tasks:
  mask: {{type: fill-mask, model: {model}, text: sentence}}
output: {{path: {output}}}
device: {device}
"""


def big_model(tokenizer: Path | None, folder: Path) -> Path:
    """RoBERTa-base's shape with the tokenizer given, random weights."""
    import torch
    from null_model import tokenizer_of
    from transformers import RobertaConfig, RobertaForMaskedLM

    plain = model_folder(tokenizer, folder)
    hf = tokenizer_of(plain).hf
    config = RobertaConfig(
        vocab_size=50_265,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=hf.pad_token_id,
        bos_token_id=hf.bos_token_id or 0,
        eos_token_id=hf.eos_token_id or 2,
    )
    torch.manual_seed(0)
    RobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def seconds_to_first_part(job: Path, output: Path) -> tuple[float, float]:
    """(to the first file of the output, to the end of the process)"""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "secbatch", "run", str(job)], stderr=subprocess.PIPE)
    first = None
    while process.poll() is None:
        if first is None and any((output / "_secbatch").glob("*/**/[!.]*.parquet")):
            first = time.perf_counter() - began
        time.sleep(0.02)
    whole = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(process.stderr.read().decode() if process.stderr else "the run failed")
    return first or whole, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer's files; the built-in one if left out")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        model = big_model(options.tokenizer, folder / "model")
        write_csv(folder / "sentences.csv", distinct_sentences(None, options.rows))
        size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        for turn in ("first", "second"):
            output, job = folder / turn, folder / f"{turn}.yaml"
            job.write_text(JOB.format(folder=folder, model=model, output=output, device=options.device))
            first, whole = seconds_to_first_part(job, output)
            found.append({"turn": turn, "first_part_seconds": first, "seconds": whole, "weights": size})
            print(f"{turn} run: {first:.1f} s to the first checkpointed rows, {whole:.1f} s in all ({size >> 20} MiB)")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
