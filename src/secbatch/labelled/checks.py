"""What must hold between labelled files before anything is learned or measured."""

from collections import Counter
from collections.abc import Iterable, Sequence

from secbatch.errors import InputError, counted, listed, nearest, shown
from secbatch.labelled.examples import Example, Place, TextExample, TokenExample


def label_places(examples: Sequence[TextExample] | Sequence[TokenExample]) -> dict[str, list[Place]]:
    """Where each label stands, by label in sorted order: one place for each example or span."""
    places: dict[str, list[Place]] = {}
    for example in examples:
        labels: Iterable[str] = (
            example.labels if isinstance(example, TextExample) else (span.label for span in example.spans)
        )
        for label in labels:
            places.setdefault(label, []).append(example.place)
    return dict(sorted(places.items()))


def check_enough(places: dict[str, list[Place]], fewest: int) -> None:
    """Raises InputError for a label with fewer than `fewest` examples, and for files that know one label only."""
    rare = [label for label, where in places.items() if len(where) < fewest]
    if rare:
        label = rare[0]
        count = len(places[label])
        left = len(rare) - 1
        more = f"; so it is with {left} more label{'s' if left > 1 else ''}" if left else ""
        examples = "a single example" if count == 1 else f"{count} examples"
        raise InputError(
            f"label '{shown(label)}' has {examples} ({places[label][0]}){more}; add some, take the rows out, or lower"
            f" data.min_examples ({fewest})"
        )


def check_known(places: dict[str, list[Place]], known: Sequence[str], of: str) -> None:
    """Raises InputError for a label that is not among `known`; `of` says whose labels these are."""
    strange = [label for label in places if label not in set(known)]
    if strange:
        label = strange[0]
        left = len(strange) - 1
        more = f", nor {'are' if left > 1 else 'is'} {left} more" if left else ""
        raise InputError(
            f"label '{shown(label)}' ({places[label][0]}) is not known to {of}{nearest(label, list(known))}{more};"
            f" known are {listed(list(known))}"
        )


def check_one_label(examples: Sequence[TextExample], of: str) -> None:
    """Raises InputError for an example with any number of labels but one; `of` says where single ones came from."""
    for example in examples:
        if len(example.labels) != 1:
            count = len(example.labels) or "no"
            raise InputError(
                f"{example.place} has {count} labels, while each row of {of} has one; write lists of labels in all"
                " files, or one label in all"
            )


def check_apart(first: Sequence[Example], second: Sequence[Example], names: tuple[str, str]) -> tuple[str, ...]:
    """Raises InputError for a group on both sides; returns notices on texts that stand on both.

    `names` is what to call the two sides.
    """
    groups: dict[str, Place] = {}
    for example in first:
        if example.group is not None:
            groups.setdefault(example.group, example.place)
    both = {example.group: example.place for example in reversed(second) if example.group in groups}
    if both:
        group, place = next(reversed(both.items()))
        more, stand = (f" and {len(both) - 1} more", "stand") if len(both) > 1 else ("", "stands")
        raise InputError(
            f"group '{shown(str(group))}'{more} {stand} in {names[0]} ({groups[str(group)]}) and in {names[1]}"
            f" ({place}); what belongs together must be on one side, or the figures flatter"
        )
    texts = {text_of(example) for example in first}
    same = sum(text_of(example) in texts for example in second)
    if same:
        of = f"{same} of the {counted(len(second), 'example')} of {names[1]}"
        return (f"{of} {'has' if same == 1 else 'have'} a text that stands in {names[0]}, too",)
    return ()


def contradictions(examples: Sequence[TextExample], of: str) -> tuple[str, ...]:
    """A notice on texts that stand with one label here and with another there; `of` says whose examples these are."""
    first: dict[str, TextExample] = {}
    found: dict[str, TextExample] = {}  # by text: the first example that says something else
    for example in examples:
        before = first.setdefault(example.text, example)
        if before.labels != example.labels:
            found.setdefault(example.text, example)
    if not found:
        return ()
    text, other = next(iter(found.items()))
    stand = f"{counted(len(found), 'text')} of {of} {'stand' if len(found) > 1 else 'stands'}"
    return (
        f"{stand} with different labels (the first as '{shown(first[text].labels[0])}' in {first[text].place} and as"
        f" '{shown(other.labels[0])}' in {other.place}): a model of one label a text cannot have all of them right",
    )


def text_of(example: object) -> str:
    """What an example shows the model, as one string."""
    parts = [getattr(example, name) for name in ("text", "question", "context", "source") if hasattr(example, name)]
    return "\n".join(parts)


def label_counts(examples: Sequence[TextExample] | Sequence[TokenExample]) -> Counter[str]:
    """Examples, or spans, of each label."""
    return Counter({label: len(where) for label, where in label_places(examples).items()})
