"""Splits by group, and what must hold between files."""

import pytest

from secbatch.errors import InputError
from secbatch.labelled.checks import check_apart, check_enough, check_known, contradictions, label_places
from secbatch.labelled.examples import PairExample, Place, QuestionExample, TextExample
from secbatch.labelled.splitting import split


def example(number: int, label: str, group: str | None) -> TextExample:
    return TextExample(f"text {number}", (label,), group, Place("a.csv", number))


def test_no_group_stands_on_both_sides_and_seeds_decide() -> None:
    examples = [example(i, "xy"[i % 2], f"doc {i // 7}") for i in range(200)]
    rest, dev = split(examples, 0.2, seed=1)
    assert not {e.group for e in rest} & {e.group for e in dev}
    assert len(rest) + len(dev) == 200 and 30 <= len(dev) <= 50
    assert split(examples, 0.2, seed=1) == (rest, dev)
    assert split(examples, 0.2, seed=2) != (rest, dev)
    assert check_apart(rest, dev, ("train", "dev")) == ()


def test_equal_texts_stay_together_where_there_is_no_group() -> None:
    examples = [TextExample(f"t{i % 10}", ("x",), None, Place("a.csv", i)) for i in range(40)]
    rest, dev = split(examples, 0.3, seed=0)
    assert not {e.text for e in rest} & {e.text for e in dev} and len(dev) == 12


def test_the_last_example_of_a_label_is_never_drawn() -> None:
    examples = [example(i, "rare" if i == 3 else "x", None) for i in range(20)]
    for seed in range(20):
        rest, _ = split(examples, 0.5, seed)
        assert any(e.labels == ("rare",) for e in rest)


def test_nor_is_the_last_of_one_label_among_several_or_the_last_of_several_examples() -> None:
    several = [TextExample(f"t{i}", ("x", "rare") if i == 3 else ("x",), None, Place("a", i)) for i in range(20)]
    twice = [example(i, "rare" if i in (3, 9) else "x", None) for i in range(20)]
    for examples in (several, twice):
        for seed in range(20):
            rest, _ = split(examples, 0.8, seed)
            assert any("rare" in e.labels for e in rest)


def test_a_group_that_comes_no_nearer_to_the_share_is_left() -> None:
    pairs = [example(i, "x", f"doc {i // 2}") for i in range(8)]
    with pytest.raises(InputError, match=r"for 12\.5% of 8: the smallest has 2; .*raise data\.dev_fraction"):
        split(pairs, 0.125, 0)  # two rows are as far from one as none


def test_nothing_to_split() -> None:
    with pytest.raises(InputError, match=r"all 3 examples are of one group.*data\.dev"):
        split([example(i, "x", "doc") for i in range(3)], 0.5, 0)
    place = Place("a.csv", 1)
    same = QuestionExample("Who?", "a context", (), None, place), PairExample("a", "b", None, place)
    for some, words in [
        (same[:1] * 2, "2 examples have the same context"),
        (same[1:] * 9, "9 examples have the same text"),
    ]:
        with pytest.raises(InputError, match=f"all {words}, so none can be kept apart"):
            split(some, 0.5, 0)
    with pytest.raises(InputError, match="there is a single example, so none can be kept apart"):
        split(same[:1], 0.5, 0)
    with pytest.raises(InputError, match="no group of examples can be kept apart"):
        split([example(0, "x", "a"), example(1, "y", "b")], 0.5, 0)
    with pytest.raises(InputError, match=r"for 12\.5% of 40: the smallest has 20; .*raise data\.dev_fraction"):
        split([example(i, "x", f"doc {i // 20}") for i in range(40)], 0.125, 0)


def test_a_document_in_both_splits_is_named() -> None:
    with pytest.raises(InputError, match=r"group 'd' stands in train \(a\.csv row 1\) and in dev \(a\.csv row 2\)"):
        check_apart([example(1, "x", "d")], [example(2, "x", "d")], ("train", "dev"))
    two = [example(i, "x", f"d{i}") for i in range(2)]
    with pytest.raises(InputError, match=r"group 'd0' and 1 more stand in train"):
        check_apart(two, two, ("train", "dev"))
    same = [TextExample("t", ("x",), None, Place("b.csv", 1))]
    assert "1 of the 1 example of dev has a text that stands" in check_apart(same, same, ("train", "dev"))[0]
    assert "2 of the 2 examples of dev have a text" in check_apart(same * 2, same * 2, ("train", "dev"))[0]


def test_rare_and_unknown_labels_are_named_with_their_place() -> None:
    places = label_places([example(1, "x", None), example(2, "x", None), example(3, "T1566", None)])
    with pytest.raises(InputError, match=r"label 'T1566' has a single example \(a\.csv row 3\)"):
        check_enough(places, 2)
    check_enough(places, 1)
    with pytest.raises(InputError, match=r"label 'T1566' \(a\.csv row 3\) is not known to the model \(did you mean"):
        check_known(places, ["x", "T1566.001"], "the model")
    check_known(places, ["x", "T1566"], "the model")


def test_texts_with_one_label_here_and_another_there_are_told() -> None:
    labels = ["x", "x", "y", "x", "z"]
    examples = [TextExample("same", (label,), None, Place("a.csv", row)) for row, label in enumerate(labels, 1)]
    (told,) = contradictions([*examples, example(6, "x", None)], "a.csv")
    assert told.startswith("1 text of a.csv stands with different labels (the first as 'x' in a.csv row 1 and as")
    assert "'y' in a.csv row 3): a model of one label" in told
    assert contradictions([*examples[:2], example(6, "y", None)], "a.csv") == ()
