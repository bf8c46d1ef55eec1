"""Matplotlib without what it says of its own folders, which concerns nobody here: a picture is drawn all the same."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_matplotlib() -> Iterator[None]:
    """For its import and the drawing. It warns where a home cannot be written, as a service's often cannot."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
