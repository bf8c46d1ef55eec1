"""How often int8 and bfloat16 give the same best word as float32: python benchmarks/int8_agreement.py [MODEL]

On the sentences of the bundled reports, every sixth word masked in turn, or on a file's. int8 is simulated
(int8_simulated.py), by each recipe; what recipes have to know of a layer's inputs comes from the other bundled texts.
"""

import argparse
import csv
import json
import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import transformers
from bf16_agreement import best_words, masked, masked_sentences
from int8_simulated import KINDS, Inputs, Recipe, recorded, simulated

from secbatch.models.resolve import resolve

SAMPLES = Path(__file__).parents[1] / "sample_data"
NAMES = {
    "qkv": "query, key, value",
    "out": "attention's output",
    "up": "feed-forward's first",
    "down": "feed-forward's second",
}
RECIPES = (
    Recipe("weights alone", "exact"),
    Recipe("activations alone, symmetric", "symmetric", "exact"),
    Recipe("activations alone, asymmetric", "asymmetric", "exact"),
    Recipe("symmetric activations", "symmetric"),
    Recipe("asymmetric activations"),
    *(Recipe(f"asymmetric, {NAMES[kind]} in float32", float32_kinds=(kind,)) for kind in KINDS),
    Recipe("asymmetric, first layer in float32", float32_layers=(0,)),
    Recipe("asymmetric, last layer in float32", float32_layers=(-1,)),
    Recipe("asymmetric, both in float32", float32_layers=(0, -1)),
    Recipe("asymmetric, smoothed 0.5", smoothing=0.5),
    Recipe("asymmetric, smoothed 0.7", smoothing=0.7),
    Recipe("asymmetric, 32 channels in float32", float32_channels=32),
    Recipe("weights alone, compensated", "exact", "compensated"),
    Recipe("asymmetric, weights compensated", weights="compensated"),
    Recipe("asymmetric, smoothed 0.7, weights compensated", weights="compensated", smoothing=0.7),
    Recipe(
        "smoothed 0.7, weights compensated, 32 channels in float32",
        weights="compensated",
        smoothing=0.7,
        float32_channels=32,
    ),
    Recipe("weights compensated, 32 channels in float32", weights="compensated", float32_channels=32),
    Recipe("32 channels and feed-forward's second in float32", "asymmetric", "compensated", None, 32, ("down",)),
    Recipe("weights compensated, two products", "two products", "compensated"),
    Recipe("two products, and feed-forward's second in float32", "two products", "compensated", None, 0, ("down",)),
)
WANTED = 0.99


def calibration() -> list[str]:
    """Masked sentences of bundled texts that are not measured."""
    with (SAMPLES / "topics.csv").open(encoding="utf-8-sig", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    for line in (SAMPLES / "answers.jsonl").read_text(encoding="utf-8").splitlines():
        texts += [value for value in json.loads(line).values() if isinstance(value, str)]
    return [text for one in dict.fromkeys(texts) for text in masked(one)]


def compare(model: str, sentences: list[str], recipes: tuple[Recipe, ...]) -> list[dict[str, Any]]:
    """A line for each way, printed as it comes."""
    layers = transformers.AutoConfig.from_pretrained(resolve(model).folder).num_hidden_layers
    exact, _ = best_words(model, sentences, "cpu", "float32")
    inputs: Inputs = {}
    with recorded(layers, inputs):
        best_words(model, calibration(), "cpu", "float32")
    lines = []
    print(f"{'':66}{'same best word':>16}{'':>9}", flush=True)
    ways: list[tuple[str, str, AbstractContextManager[None]]] = [("bfloat16", "bfloat16", nullcontext())]
    ways += [(f"int8, {recipe.name}", "float32", simulated(recipe, layers, inputs)) for recipe in recipes]
    for name, precision, way in ways:
        with way:
            got, _ = best_words(model, sentences, "cpu", precision)
        same = sum(a == b for a, b in zip(exact, got, strict=True))
        lines.append({"way": name, "same": same, "share": same / len(sentences)})
        print(f"{name:66}{same:>16,}{same / len(sentences):>9.2%}", flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="builtin/mlm")
    parser.add_argument("--sentences", type=Path, help="one sentence a line, taken as it is where it has a <mask>")
    parser.add_argument("--only", help="recipes with this in their names")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    if options.sentences:
        lines = options.sentences.read_text(encoding="utf-8").splitlines()
        sentences = [text for line in lines for text in ([line] if "<mask>" in line else masked(line))]
    else:
        sentences = masked_sentences()
    recipes = tuple(recipe for recipe in RECIPES if options.only is None or options.only in recipe.name)
    print(
        f"{options.model}, {len(sentences):,} masked sentences; {WANTED:.0%} are {math.ceil(WANTED * len(sentences)):,}"
    )
    lines_found = compare(options.model, sentences, recipes)
    found = {"model": options.model, "sentences": len(sentences), "lines": lines_found}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
