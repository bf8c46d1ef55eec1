"""Labelled spans that two models find."""

from collections import Counter
from collections.abc import Sequence

from secbatch.comparison.found import EXAMPLES, Change, Example, Found, Share
from secbatch.comparison.known_labels import known_to_one_alone
from secbatch.comparison.predictions import Predicted
from secbatch.comparison.sample import Sample
from secbatch.evaluation import f_scores
from secbatch.evaluation.bootstrap import Resampling
from secbatch.evaluation.spans import span_labels, span_tally
from secbatch.evaluation.tally import Figure
from secbatch.models.configuration import load_config
from secbatch.tasks.label_names import label_names
from secbatch.tasks.label_scheme import LabelScheme


def different_spans(first: Predicted, second: Predicted, sample: Sample, seed: int) -> Found:
    """Spans: strict F1 of one model against the other, which is the same either way round."""

    def spans(one: Predicted) -> list[list[tuple[int, int, str]]]:
        return [[(s["start"], s["end"], s["label"]) for s in row or ()] for row in one.columns[""]]

    mine, yours = spans(first), spans(second)
    labels = span_labels(mine, yours)
    tally = span_tally(mine, yours, labels)
    figures: dict[str, Figure] = {"f1_of_each_other": f_scores.f1_micro}
    figures |= {f"f1 {label}": f_scores.of_label(place)["f1"] for place, label in enumerate(labels)}
    changes: Counter[tuple[str, str]] = Counter()
    for one, other in zip(mine, yours, strict=True):
        theirs = {(start, end): label for start, end, label in other}
        ours = {(start, end): label for start, end, label in one}
        changes.update((label, theirs.get(place, "(no span)")) for place, label in ours.items())
        changes.update(("(no span)", label) for place, label in theirs.items() if place not in ours)
    unequal = sorted(range(len(mine)), key=lambda row: -len(set(mine[row]) ^ set(yours[row])))
    examples = [
        Example(
            sample.places[row],
            sample.texts[row],
            _told(mine[row], sample.texts[row]),
            _told(yours[row], sample.texts[row]),
        )
        for row in unequal[:EXAMPLES]
        if set(mine[row]) != set(yours[row])
    ]
    counted = [Counter(label for row in part for _, _, label in row) for part in (mine, yours)]
    totals = [max(1, part.total()) for part in counted]
    shares = [
        Share(label, *(part[label] / total for part, total in zip(counted, totals, strict=True))) for label in labels
    ]
    shares.sort(key=lambda share: -abs(share.second - share.first))
    return Found(
        "spans",
        counted[0].total() + counted[1].total(),
        Resampling(len(mine), seed=seed).intervals(figures, tally),
        shares,
        [Change(*pair, count) for pair, count in changes.most_common() if pair[0] != pair[1]],
        examples,
        known_to_one_alone(*(_types(one) for one in (first, second))),
    )


def _types(one: Predicted) -> tuple[str, Sequence[str]]:
    """A model's name and the types of its spans."""
    name = one.model.name
    return name, LabelScheme.of(label_names(load_config(one.model), name), name).types


def _told(spans: Sequence[tuple[int, int, str]], text: str) -> str:
    return "; ".join(f"{text[start:end]} = {label}" for start, end, label in spans) or "(no span)"
