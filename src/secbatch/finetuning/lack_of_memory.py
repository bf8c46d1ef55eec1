"""What is said of a training that there is no memory for."""

from collections.abc import Iterator
from contextlib import contextmanager

from secbatch.errors import SecbatchError, cause
from secbatch.models.device import Compute


@contextmanager
def told_where_memory_runs_out(compute: Compute, parts: int) -> Iterator[None]:
    """Raises SecbatchError where memory runs out inside. `parts`: those that a step is computed in."""
    from secbatch.models.out_of_memory import is_out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise SecbatchError(
            f"memory runs out on {compute.description} in this training ({cause(error)}); see what else has taken it,"
            f" or compute a step in more parts (hyperparameters.gradient_accumulation: {2 * parts}), with fewer tokens"
            " (batch_tokens), or of shorter texts (max_length)"
        ) from error
