"""Trying again what may succeed a moment later: object stores and the hub have bad moments."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 20.0


def patiently(
    action: Callable[[], Result],
    attempts: int,
    passing: Callable[[Exception], bool],
    sleep: Callable[[float], None] | None = None,
) -> Result:
    """`action()`, tried up to `attempts` times while `passing(error)` says that the error may pass.

    Between the attempts a random part of 0.5, 1, 2, 4 … seconds (20 at most) goes by, so that many clients who met
    the same failure do not come back all at once. The last error is raised.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except Exception as error:
            if attempt == attempts or not passing(error):
                raise
        longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (attempt - 1))
        (sleep or time.sleep)(longest * random.uniform(0.5, 1.0))
    raise AssertionError("attempts must be at least 1")
