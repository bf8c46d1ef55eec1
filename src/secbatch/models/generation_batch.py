"""Rows that are generated for together, and what has become of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from secbatch.models.generation_steps import NO_TOKEN
from secbatch.work_done import WorkDone


@dataclass(frozen=True)
class Start:
    """One row to generate for."""

    prompt: list[int]  # of the encoder, or of the decoder in a decoder-only model
    limit: int  # the most new tokens
    seed: int  # of the row's own random numbers


@dataclass(frozen=True)
class Answer:
    """New tokens up to the first end token, which is left out; or why there are none."""

    tokens: list[int]
    error: str | None = None


@dataclass
class Batch:
    """Rows on their way, and what is left of their work when it breaks off for want of memory."""

    starts: Sequence[Start]  # longest prompts first
    work_done: WorkDone = field(default_factory=WorkDone)  # is told how far they are
    usual: float | None = None  # new tokens of an answer, by those before these; None: nothing is known
    answers: list[Answer | None] = field(init=False)  # in the order of `starts`; None: not through
    wanted: tuple[int, ...] = ()  # what memory was taken for last; see `asks`
    had_room: tuple[int, ...] = ()  # what it was there for: the most of each number
    through: int = 0  # rows that have their answers

    def __post_init__(self) -> None:
        self.answers = [None] * len(self.starts)
        self._expected = self.usual or max(start.limit for start in self.starts)

    def came_to(self, new: list[int]) -> None:
        """Tells how far the rows are: those that are on their way have so many new tokens each."""
        begun = sum(min(tokens, self._expected) for tokens in new) / self._expected
        self.work_done.reached((self.through + begun) / len(self.starts))

    def asks(self, longest: int, prompts: int, positions: int) -> None:
        """To be called before memory is taken.

        longest: the longest prompt. prompts: how many are read at once. positions: keys and values of all sequences.
        """
        self.wanted = longest, prompts * longest, positions

    def got(self) -> None:
        """The memory was there."""
        self.had_room = tuple(map(max, self.had_room or self.wanted, self.wanted))


def cut_at_end(tokens: list[int], end_tokens: tuple[int, ...]) -> list[int]:
    for place, token in enumerate(tokens):
        if token in end_tokens or token == NO_TOKEN:
            return tokens[:place]
    return tokens
