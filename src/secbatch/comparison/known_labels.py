"""Labels of a file that a model cannot give."""

from collections.abc import Mapping, Sequence
from typing import Literal

from secbatch.errors import InputError, listed, nearest
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
    if what == "count":
        return (f"model {model} does not know {len(strange)} of the labels ({listed(strange)}): {rows} misses",)
    label = strange[0]
    left = len(strange) - 1
    more = f" (nor {'are' if left > 1 else 'is'} {left} more)" if left else ""
    raise InputError(
        f"label '{label}' ({places[label][0]}) is not known to {model}{nearest(label, list(known))}, which has"
        f" {listed(list(known))}{more}; mend the labels, or say --unknown-labels count to take the {rows} misses into"
        " account"
    )
