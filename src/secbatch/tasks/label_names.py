"""The labels that a fine-tuned model's configuration names."""

from typing import Any, Literal

from secbatch.errors import ModelError, counted

Problem = Literal["single-label", "multi-label", "regression"]
_PROBLEMS: dict[str, Problem] = {
    "single_label_classification": "single-label",
    "multi_label_classification": "multi-label",
    "regression": "regression",
}


def label_names(config: Any, model: str) -> tuple[str, ...]:
    """The name of each label, in the order of the logits. Raises ModelError when some have none."""
    names = config.id2label or {}
    if not names or set(names) != set(range(len(names))):
        raise ModelError(
            f"model {model}: id2label in its config.json must name the labels 0, 1, ... without gaps; it has"
            f" {len(names)} entr{'y' if len(names) == 1 else 'ies'}"
        )
    # A lone surrogate (JSON can hold one) is no text that a file can hold.
    return tuple(str(names[number]).encode(errors="replace").decode() for number in range(len(names)))


def check_label_count(labels: tuple[str, ...], logits: int, model: str) -> None:
    """Raises ModelError when a model gives another number of scores than it names labels."""
    if logits != len(labels):
        raise ModelError(
            f"model {model} gives {counted(logits, 'score')}, but id2label in its config.json names"
            f" {counted(len(labels), 'label')}; they do not belong together"
        )


def problem_of(config: Any, asked: Problem | None, labels: tuple[str, ...]) -> Problem:
    """What the scores are: as asked, or as the configuration says, or as the stock pipeline takes it."""
    if asked is not None:
        return asked
    stated = _PROBLEMS.get(getattr(config, "problem_type", None) or "")
    return stated or ("multi-label" if len(labels) == 1 else "single-label")
