"""How often int8 and bfloat16 give the same best word as float32: python benchmarks/int8_agreement.py [MODEL]

On the sentences of the bundled reports, or of a file with one sentence a line, every sixth word masked in turn. int8 is
simulated (int8_simulated.py), by each recipe.
"""

import argparse
import json
import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import transformers
from bf16_agreement import best_words, masked, masked_sentences
from int8_simulated import KINDS, Recipe, simulated

from secbatch.models.resolve import resolve

NAMES = {
    "qkv": "query, key and value",
    "out": "attention's output",
    "up": "feed-forward, first product",
    "down": "feed-forward, second product",
}
RECIPES = (
    Recipe("symmetric activations"),
    Recipe("asymmetric activations", asymmetric=True),
    *(Recipe(f"asymmetric, {NAMES[kind]} in float32", True, float32_kinds=(kind,)) for kind in KINDS),
    Recipe("asymmetric, first layer in float32", True, float32_layers=(0,)),
    Recipe("asymmetric, last layer in float32", True, float32_layers=(-1,)),
    Recipe("asymmetric, both", True, float32_layers=(0, -1)),
)
WANTED = 0.99


def compare(model: str, sentences: list[str]) -> list[dict[str, Any]]:
    """A line for each way, printed as it comes."""
    layers = transformers.AutoConfig.from_pretrained(resolve(model).folder).num_hidden_layers
    exact, _ = best_words(model, sentences, "cpu", "float32")
    lines = []
    print(f"{'':60}{'same best word':>16}{'':>9}", flush=True)
    ways: list[tuple[str, str, AbstractContextManager[None]]] = [("bfloat16", "bfloat16", nullcontext())]
    ways += [(f"int8, {recipe.name}", "float32", simulated(recipe, layers)) for recipe in RECIPES]
    for name, precision, way in ways:
        with way:
            got, _ = best_words(model, sentences, "cpu", precision)
        same = sum(a == b for a, b in zip(exact, got, strict=True))
        lines.append({"way": name, "same": same, "share": same / len(sentences)})
        print(f"{name:60}{same:>16,}{same / len(sentences):>9.2%}", flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="builtin/mlm")
    parser.add_argument("--sentences", type=Path, help="one sentence a line; the bundled reports if left out")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    if options.sentences:
        lines = options.sentences.read_text(encoding="utf-8").splitlines()
        sentences = [text for line in lines for text in masked(line)]
    else:
        sentences = masked_sentences()
    print(
        f"{options.model}, {len(sentences):,} masked sentences; {WANTED:.0%} are {math.ceil(WANTED * len(sentences)):,}"
    )
    found = {"model": options.model, "sentences": len(sentences), "lines": compare(options.model, sentences)}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
