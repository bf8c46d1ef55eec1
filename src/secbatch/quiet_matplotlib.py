"""Matplotlib without what it says of its own folders, which concerns nobody here: a picture is drawn all the same."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from secbatch.errors import SecbatchError, cause


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


def check_matplotlib() -> None:
    """Raises SecbatchError where its import fails: it reads settings of the user's, which may be none."""
    with quiet_matplotlib():
        try:
            import matplotlib  # noqa: F401
        except (OSError, ValueError) as error:
            raise SecbatchError(
                f"matplotlib, which draws the plots, cannot be loaded with the settings that it finds ({cause(error)});"
                " mend MPLBACKEND, or the file matplotlibrc (of the working directory, MATPLOTLIBRC, MPLCONFIGDIR, the"
                " home)"
            ) from None
