"""Rows on whose texts a model's tokenizer gives up: they are rejected, and the others go on."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from secbatch.models.tokenizer_panics import UntokenizableError

if TYPE_CHECKING:
    from secbatch.worker import Work

MOST = 16  # of a shard: where there are more, it is the tokenizer, and rejecting them all would hide it


def encode_the_others(encode: Callable[["Work"], "Work"], work: "Work") -> "Work":
    """`encode(work)`, in which the rows that it gives up on have an error.

    Raises UntokenizableError where these are more than MOST, or where no row alone is to blame.
    """
    try:
        return encode(work)
    except UntokenizableError:
        given_up = _given_up(encode, work)
        return encode(_with_errors(work, given_up))


def _given_up(encode: Callable[["Work"], "Work"], work: "Work") -> dict[int, str]:
    """By halves of halves, the others left out as if they were rejected: a row and its sentence."""
    rows = [row for row in range(work.identified.shard.num_rows) if row not in work.identified.shard.errors]
    found: dict[int, str] = {}
    ranges = [range(len(rows))]
    while ranges:
        tried = ranges.pop()
        left_out = {row: "" for place, row in enumerate(rows) if place not in tried}
        try:
            encode(_with_errors(work, left_out))
        except UntokenizableError as error:
            middle = len(tried) // 2
            if middle:
                ranges += [tried[middle:], tried[:middle]]
                continue
            found[rows[tried[0]]] = f"This row cannot be read: {error}."
            if len(found) > MOST:
                raise
    return found


def _with_errors(work: "Work", errors: dict[int, str]) -> "Work":
    shard = work.identified.shard
    shard = replace(shard, errors={**shard.errors, **errors})
    return replace(work, identified=replace(work.identified, shard=shard))
