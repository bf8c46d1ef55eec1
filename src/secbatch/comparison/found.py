"""What a comparison of two models finds, whatever they are made for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secbatch.evaluation.bootstrap import Interval

EXAMPLES = 5


@dataclass(frozen=True)
class Share:
    """How often a model says something: a label, a type, a best word."""

    name: str
    first: float  # of all rows, masks or spans
    second: float


@dataclass(frozen=True)
class Change:
    """What one model says, what the other says of the same, and how often."""

    first: str
    second: str
    count: int


@dataclass(frozen=True)
class Example:
    place: str
    text: str
    first: str
    second: str


@dataclass(frozen=True)
class Found:
    """What a kind of task makes of two models' columns."""

    units: str  # what is compared: rows, masks, spans
    count: int
    figures: Mapping[str, Interval]
    shares: Sequence[Share] = ()  # those that shifted most first
    changes: Sequence[Change] = ()  # the most frequent first
    examples: Sequence[Example] = ()
    notices: Sequence[str] = ()


def shares_of(pairs: Sequence[tuple[str, str]]) -> list[Share]:
    """How often each model says what; what shifted most comes first."""
    counted = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    shares = [Share(name, *(part[name] / len(pairs) for part in counted)) for name in sorted(counted[0] | counted[1])]
    return sorted(shares, key=lambda share: (-abs(share.second - share.first), -share.first))


def changes_of(pairs: Sequence[tuple[str, str]]) -> list[Change]:
    """What one says and the other says otherwise; the most frequent first."""
    counted = Counter(pair for pair in pairs if pair[0] != pair[1])
    return [Change(*pair, count) for pair, count in counted.most_common()]
