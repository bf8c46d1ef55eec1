"""A model's first forward, which shows whether its files fit together."""

from collections.abc import Iterator
from contextlib import contextmanager

from secbatch.errors import ModelError, SecbatchError, cause
from secbatch.models.out_of_memory import is_out_of_memory
from secbatch.models.resolved import ResolvedModel


class FirstForwardError(ModelError):
    """The model's own code has failed, not a lack of memory and not the device."""


@contextmanager
def first_forward(model: ResolvedModel) -> Iterator[None]:
    """Around a model's first forward: what it raises by itself is a fault of its files or the device, not of a row."""
    try:
        yield
    except Exception as error:
        if isinstance(error, SecbatchError):
            raise
        said = cause(error)
        if is_out_of_memory(error):
            raise ModelError(
                f"model {model.name}: memory runs out at a forward over a few tokens ({said}); see what else"
                " has taken it, or name a smaller model"
            ) from error
        if "CUDA" in said or "HIP error" in said:  # a driver, a build of torch for other GPUs: no fault of the model's
            raise ModelError(
                f"model {model.name}: the GPU fails at a forward over a few tokens ({said}); see whether this"
                " torch suits it and its driver, or run with device: cpu"
            ) from error
        raise FirstForwardError(
            f"model {model.name}: a forward over a few tokens fails ({said}); its config.json does not suit"
            " its architecture, or wants something that texts alone do not give"
        ) from error
