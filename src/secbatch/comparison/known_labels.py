"""Labels that a model cannot give: of a file, or of another model."""

from collections.abc import Mapping, Sequence
from typing import Literal

from secbatch.errors import InputError, listed, nearest, shown
from secbatch.labelled.examples import Place

UnknownLabels = Literal["refuse", "count"]


def unknown_labels(
    places: Mapping[str, Sequence[Place]], known: Sequence[str], model: str, what: UnknownLabels
) -> tuple[str, ...]:
    """A notice on labels that `model` does not know, whose rows are then wrong whatever it says.

    `places`: where each label stands. Raises InputError, one sentence, when they are to be refused.
    """
    strange = [label for label in places if label not in set(known)]
    if not strange:
        return ()
    rows = sum(len(places[label]) for label in strange)
    misses = "1 miss" if rows == 1 else f"{rows} misses"
    if what == "count":
        return (f"model {model} does not know {len(strange)} of the labels ({listed(strange)}): {misses}",)
    label = strange[0]
    left = len(strange) - 1
    more = f" (nor {'are' if left > 1 else 'is'} {left} more)" if left else ""
    raise InputError(
        f"label '{shown(label)}' ({places[label][0]}) is not known to {model}{nearest(label, list(known))}, which has"
        f" {listed(list(known))}{more}; mend the labels, or say --unknown-labels count to take the {misses} into"
        " account"
    )


def known_to_one_alone(first: tuple[str, Sequence[str]], second: tuple[str, Sequence[str]]) -> tuple[str, ...]:
    """Notices on labels that one of two models alone can give; of each its name and its labels."""
    told = []
    for (name, labels), (_, others) in ((first, second), (second, first)):
        if only := sorted(set(labels) - set(others)):
            some = ", ".join(map(shown, only[:10])) + (", …" if len(only) > 10 else "")
            told.append(f"only {name} knows the label{'s' if len(only) > 1 else ''} {some}")
    return tuple(told)
