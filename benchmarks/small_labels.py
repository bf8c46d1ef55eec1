"""A fine-tuned classifier against a bag of words: python benchmarks/small_labels.py --data FILE.csv --group COLUMN …

Whole groups (documents) are kept out for the test. `secbatch finetune` trains on the rest with its defaults, once for
each seed; beside it a logistic regression on TF-IDF of 1- and 2-grams (C = 10). Prints micro and macro F1 on the groups
kept out (macro over the labels that occur there), each seed, their mean and standard deviation.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupShuffleSplit

import secbatch
from secbatch.finetune_job import FinetuneJob

SAMPLE = Path(__file__).parents[1] / "sample_data" / "topics.csv"


def bag_of_words(train: pd.DataFrame, test: pd.DataFrame, text: str, label: str) -> tuple[float, float]:
    """Micro and macro F1."""
    words = TfidfVectorizer(ngram_range=(1, 2))
    model = LogisticRegression(C=10, max_iter=1000).fit(words.fit_transform(train[text]), train[label])
    predicted = model.predict(words.transform(test[text]))
    micro = f1_score(test[label], predicted, average="micro")
    macro = f1_score(test[label], predicted, average="macro", labels=sorted(set(test[label])), zero_division=0)
    return float(micro), float(macro)


def finetuned(options: argparse.Namespace, folder: Path, seed: int) -> tuple[float, float]:
    """Micro and macro F1."""
    job = {
        "name": f"seed-{seed}",
        "objective": "classify",
        "model": options.model,
        "data": {
            "train": str(folder / "train.csv"),
            "test": str(folder / "test.csv"),
            **{name: getattr(options, name) for name in ("text", "label", "group")},
        },
        "hyperparameters": {"seed": seed, **({"epochs": options.epochs} if options.epochs else {})},
        "output": str(folder / f"model-{seed}"),
    }
    figures = secbatch.finetune(FinetuneJob.model_validate(job)).metrics["test"]
    return figures["f1_micro"], figures["f1_macro"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SAMPLE, help="CSV; the bundled topics if left out")
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--group", default="case", help="column whose groups are never split")
    parser.add_argument("--model", default="builtin/mlm", help="the base")
    parser.add_argument("--groups-out", type=int, default=5, help="groups kept out for the test")
    parser.add_argument("--split", type=int, default=0, help="seed of the split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="the default of finetune if left out")
    options = parser.parse_args()
    rows = pd.read_csv(options.data, dtype=str).dropna(subset=[options.text, options.label, options.group])
    splitter = GroupShuffleSplit(1, test_size=options.groups_out, random_state=options.split)
    train, test = (rows.iloc[part] for part in next(splitter.split(rows, groups=rows[options.group])))
    print(f"{len(train):,} sentences to learn from, {len(test):,} of {options.groups_out} groups kept out")
    print(f"{'':24}{'micro F1':>10}{'macro F1':>10}")
    micro, macro = bag_of_words(train, test, options.text, options.label)
    print(f"{'TF-IDF, regression':24}{micro:10.3f}{macro:10.3f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="secbatch-bench-") as name:
        folder = Path(name)
        train.to_csv(folder / "train.csv", index=False)
        test.to_csv(folder / "test.csv", index=False)
        found = []
        for seed in options.seeds:
            found.append(finetuned(options, folder, seed))
            print(f"{f'finetune, seed {seed}':24}{found[-1][0]:10.3f}{found[-1][1]:10.3f}", flush=True)
    if len(found) > 1:
        for label, summary in (("mean", statistics.mean), ("standard deviation", statistics.stdev)):
            values = [summary(one) for one in zip(*found, strict=True)]
            print(f"{label:24}{values[0]:10.3f}{values[1]:10.3f}")


if __name__ == "__main__":
    main()
