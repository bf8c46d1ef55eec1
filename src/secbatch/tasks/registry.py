"""From a job's task to the object that runs it."""

from typing import TYPE_CHECKING

from secbatch.job import Chat, Embed, FillMask, TaskSpec
from secbatch.tasks.base import Task

if TYPE_CHECKING:
    import pyarrow as pa

    from secbatch.models.device import Compute
    from secbatch.models.resolved import ResolvedModel


def build_task(name: str, spec: TaskSpec, schema: "pa.Schema", model: "ResolvedModel", compute: "Compute") -> Task:
    """The task `name` over input columns `schema`. Raises JobError when the two do not fit. Loads no weights."""
    if isinstance(spec, FillMask):
        from secbatch.tasks.fill_mask import FillMaskTask

        return FillMaskTask(name, spec, schema, model, compute)
    if isinstance(spec, Embed):
        from secbatch.tasks.embed import EmbedTask

        return EmbedTask(name, spec, schema, model, compute)
    assert isinstance(spec, Chat)
    from secbatch.tasks.chat import ChatTask

    return ChatTask(name, spec, schema, model, compute)
