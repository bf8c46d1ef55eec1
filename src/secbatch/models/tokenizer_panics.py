"""Panics of the tokenizers library: where it gives up, say on a text, it raises what is no Exception."""

from collections.abc import Iterator
from contextlib import contextmanager

from secbatch.errors import ModelError, cause


class UntokenizableError(ModelError):
    """The tokenizer gives up on a text, or on the ids that are to become one."""


def is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"  # its class has no place that it could be imported from


@contextmanager
def panics_told() -> Iterator[None]:
    """Raises UntokenizableError for a panic."""
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        raise UntokenizableError(f"the model's tokenizer gives up on a text ({cause(error)})") from None
