"""The model card, written from the record of the training."""

import re
from typing import Any

from secbatch.errors import counted
from secbatch.finetune_job import LOWER_IS_BETTER, WITHOUT_MEANING

CURVE = "training_curve.png"
_USE = {
    "classify": ("text-classification", "classify", "AutoModelForSequenceClassification"),
    "ner": ("token-classification", "ner", "AutoModelForTokenClassification"),
    "qa": ("question-answering", "qa", "AutoModelForQuestionAnswering"),
    "masked-lm": ("fill-mask", "fill-mask", "AutoModelForMaskedLM"),
    "seq2seq": ("text2text-generation", "seq2seq", "AutoModelForSeq2SeqLM"),
}


def model_card(record: dict[str, Any]) -> str:
    """Markdown."""
    sections = [_head(record), _metrics(record), _labels(record), _confusion(record), _curve(record), _data(record)]
    sections += [_training(record), _base(record)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(record: dict[str, Any]) -> str:
    tag, task, auto_class = _USE[record["objective"]]
    return f"""---
library_name: transformers
pipeline_tag: {tag}
---
# {_code(record["name"])}

{_code(record["base"]["name"])}, fine-tuned by `secbatch finetune` (objective `{record["objective"]}`), finished
{record["finished"]}. It opens with transformers' `{auto_class}`, and in a job of secbatch
with `type: {task}` and this folder as `model`."""


def _metrics(record: dict[str, Any]) -> str:
    sides = record["metrics"]
    names = list(dict.fromkeys(name for metrics in sides.values() for name in metrics))
    lines = ["## Measured", ""]
    if record["data"]["dev_is_part_of_train"]:
        lines += ["`dev` is a part of the training files that was kept apart; the best epoch was chosen on it, so its"]
    else:
        lines += ["The best epoch was chosen on `dev`, so its"]
    lines[-1] += " figures flatter a little." + ("" if "test" in sides else " No test file was named.")
    lines += ["", "| | " + " | ".join(sides) + " |", "|---|" + "---:|" * len(sides)]
    lines += [
        f"| {name} | " + " | ".join(_number(metrics.get(name)) for metrics in sides.values()) + " |" for name in names
    ]
    before = record["base_on_dev"]
    if before:
        text = ", ".join(f"{name} {_number(value)}" for name, value in before.items())
        after = ", ".join(f"{name} {_number(sides['dev'][name])}" for name in before)
        fell = sides["dev"]["loss"] < before["loss"]
        verdict = "it became better" if fell else "it did **not** become better"
        lines += ["", f"The base before this training, on the same dev texts: {text}; after it: {after}: {verdict}."]
    other = record.get("compared")
    if other:
        metric = record["chosen_by"]
        figures = [(side, sides[side][metric], other["metrics"][side][metric]) for side in sides]
        text = "; ".join(f"{side} {metric} {_number(own)} against {_number(theirs)}" for side, own, theirs in figures)
        # On test where there is one: dev has chosen the epochs.
        _, own, theirs = figures[-1]
        better = own < theirs if metric in LOWER_IS_BETTER else own > theirs
        verdict = "this base is better for the task" if better else "this base is **not** better for the task"
        lines += ["", f"The same training from {_code(other['base'])}: {text}. On these data {verdict}."]
    return "\n".join(lines)


def _labels(record: dict[str, Any]) -> str:
    lines = []
    for side, rows in record["by_label"].items():
        if rows:
            lines += ["", f"### By label, {side}", "", "| label | precision | recall | F1 | support |"]
            lines += ["|---|---:|---:|---:|---:|"]
            lines += [
                f"| {_code(row['label'], in_table=True)} | {row['precision']:.3f} | {row['recall']:.3f} |"
                f" {row['f1']:.3f} | {row['support']} |"
                for row in rows
            ]
    return "\n".join(lines).strip()


def _confusion(record: dict[str, Any]) -> str:
    lines = []
    for side, pairs in record["confused"].items():
        if pairs:
            lines += ["", f"### Most confused, {side}", "", "| true | predicted | how often |", "|---|---|---:|"]
            lines += [
                f"| {_code(true, in_table=True)} | {_code(guess, in_table=True)} | {count} |"
                for true, guess, count in pairs
            ]
    return "\n".join(lines).strip()


def _curve(record: dict[str, Any]) -> str:
    metric = record["chosen_by"]
    rows = [
        f"| {entry['epoch']} | {entry['train_loss']:.4f} | {entry['dev']['loss']:.4f} |"
        f" {_number(entry['dev'][metric])} |"
        for entry in record["history"]
    ]
    head = f"| epoch | loss, training | loss, dev | {metric}, dev |\n|---:|---:|---:|---:|\n"
    kept = f"The weights are those of epoch {record['best_epoch']}."
    return f"## Training curve\n\n![Training curve]({CURVE})\n\n{kept}\n\n{head}" + "\n".join(rows)


def _data(record: dict[str, Any]) -> str:
    data = record["data"]
    lines = [
        "## Data and split",
        "",
        "| side | rows | groups | sequences | rows left out |",
        "|---|---:|---:|---:|---:|",
    ]
    sides = [name for name in ("train", "dev", "test") if name in data]
    for name in sides:
        side = data[name]
        lines.append(
            f"| {name} | {side['rows']:,} | {side['groups'] or '—'} | {side['sequences']:,} | {side['malformed']} |"
        )
    lines += ["", "| file | side | bytes | SHA-256 |", "|---|---|---:|---|"]
    seen: dict[tuple[str, str], list[str]] = {}
    for name in sides:
        for file in data[name]["files"]:
            seen.setdefault((file["path"], file["sha256"]), []).append(name)
    sizes = {(file["path"], file["sha256"]): file["bytes"] for name in sides for file in data[name]["files"]}
    lines += [
        f"| {_code(path, in_table=True)} | {' and '.join(names)} | {sizes[path, digest]:,} | `{digest}` |"
        for (path, digest), names in seen.items()
    ]
    columns = ", ".join(f"{key}: {_code(str(value))}" for key, value in data["columns"].items())
    return "\n".join([*lines, "", f"Read with {columns}."])


def _training(record: dict[str, Any]) -> str:
    other = WITHOUT_MEANING.get(record["objective"], ())
    rows = [
        f"| {key} | {_written(value)} |"
        for key, value in record["hyperparameters"].items()
        if value is not None and key not in other
    ]
    minutes = record["seconds"] / 60
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    return "\n".join(
        [
            "## Training",
            "",
            f"{counted(record['steps'], 'step')}, {counted(record['tokens'], 'token')} in {minutes:.1f} minutes"
            f" ({record['tokens_per_second'] or 0:,.0f} tokens/s) on {_code(record['device'])}, {record['precision']}.",
            f"Versions: {versions}.",
            "",
            "| hyperparameter | value |",
            "|---|---|",
            *rows,
        ]
    )


def _base(record: dict[str, Any]) -> str:
    base = record["base"]
    where = f" (hub id {_code(base['hub_id'])}, commit `{base['revision']}`)" if base["hub_id"] else ""
    line = base
    while line.get("trained"):
        line = {**line["trained"]["base"], "step": line["trained"]}
        step = line["step"]
        where += f", which is {_code(line['name'])} trained further ({_code(step['name'])}, objective"
        where += f" {_code(step['objective'])}{_change(step)})"
    licence = _code(base["licence"]) if base["licence"] else "not known to secbatch; see its own card"
    return f"""## Base model and licence

{_code(base["name"])}{where}, hash of its weights and configuration `{base["weights_hash"]}`, of its tokenizer
`{base["tokenizer_hash"]}`. Licence of the base: {licence}. It binds this model, too, and so do the terms of the
data above; whoever passes the model on has to see to both."""


def _change(step: dict[str, Any]) -> str:
    """What a training for masked words did to the perplexity on texts that it had not seen."""
    before, after = step.get("base_on_dev") or {}, (step.get("metrics") or {}).get("dev") or {}
    if "perplexity" not in before or "perplexity" not in after:
        return ""
    return (
        f", perplexity on its dev texts {_number(before['perplexity'])} before and {_number(after['perplexity'])} after"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items() if entry is not None)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _code(text: str, in_table: bool = False) -> str:
    """A text of others, as it is, between backticks: elsewhere a bare URL is a link, and `$` begins a formula.

    A backslash escapes nothing there but the bar of a table.
    """
    name = _flat(text)
    longest = max(map(len, re.findall("`+", name)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{name.replace('|', chr(92) + '|') if in_table else name}{space}{fence}"


def _flat(text: str) -> str:
    """Without line breaks, and without characters that nobody sees and that change how others are shown."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+", " ", text)
