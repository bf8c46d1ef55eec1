"""A part of the examples kept apart: whole groups, the same for the same seed."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from secbatch.errors import InputError
from secbatch.labelled.checks import text_of
from secbatch.labelled.examples import Example, QuestionExample


def split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(the rest, about `fraction` of the examples): no group stands on both sides.

    Examples without a group are kept together with those of the same text, questions with those on the same context.
    Groups are drawn in a random order; one that would take the last example of a label from the rest stays there.
    Raises InputError when nothing can be drawn.
    """
    keys = [_key(example) for example in examples]
    members: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        members.setdefault(key, []).append(place)
    if len(members) < 2:
        raise InputError(f"{_what_is_one(examples)}, so none can be kept apart; name a file in data.dev")
    labels = [_labels(example) for example in examples]
    left = Counter(label for some in labels for label in some)
    wanted = fraction * len(examples)
    order = list(members)
    np.random.default_rng(seed).shuffle(order)
    drawn: list[int] = []
    for key in order:
        taken = Counter(label for place in members[key] for label in labels[place])
        # The last group may overshoot, if that comes nearer to what is wanted than stopping short.
        closer = abs(len(drawn) + len(members[key]) - wanted) < abs(len(drawn) - wanted)
        if not closer or any(left[label] <= count for label, count in taken.items()):
            continue
        left -= taken
        drawn += members[key]
    if not drawn:
        share = f"{100 * fraction:g}% of {len(examples)}"
        smallest = min(map(len, members.values()))
        if smallest >= 2 * wanted:  # then none at all is nearer to what is wanted
            raise InputError(
                f"no group of examples can be kept apart for {share}: the smallest has {smallest}; name a file in"
                " data.dev, or raise data.dev_fraction"
            )
        raise InputError(
            f"no group of examples can be kept apart for {share} without taking a label's last example; name a file"
            " in data.dev, or set data.dev_fraction"
        )
    apart = set(drawn)
    return (
        tuple(example for place, example in enumerate(examples) if place not in apart),
        tuple(example for place, example in enumerate(examples) if place in apart),
    )


def _what_is_one(examples: Sequence[Example]) -> str:
    if len(examples) == 1:
        return "there is a single example"
    if examples[0].group is not None:
        return f"all {len(examples)} examples are of one group"
    shown = "context" if isinstance(examples[0], QuestionExample) else "text"
    return f"all {len(examples)} examples have the same {shown}"


def _key(example: Example) -> str:
    if example.group is not None:
        return example.group
    return f"\0{example.context if isinstance(example, QuestionExample) else text_of(example)}"


def _labels(example: object) -> tuple[str, ...]:
    if hasattr(example, "labels"):
        return tuple(example.labels)
    return tuple(dict.fromkeys(span.label for span in example.spans)) if hasattr(example, "spans") else ()
