"""From a job's task to the object that runs it."""

from typing import TYPE_CHECKING

from secbatch.task_specs import Chat, Classify, Embed, FillMask, Ner, Qa, Seq2Seq, Similarity, TaskSpec
from secbatch.tasks.base import Task

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from secbatch.models.device import Compute
    from secbatch.models.resolved import RemoteModel, ResolvedModel
    from secbatch.models.shared_encoder import SharedEncoder


def resolve_model(spec: TaskSpec) -> "ResolvedModel | RemoteModel":
    """The model that `spec` names; behind an endpoint it needs no files here. Raises ModelError when there is none."""
    from secbatch.models.resolve import resolve
    from secbatch.models.resolved import RemoteModel

    if isinstance(spec, Chat) and spec.endpoint is not None:
        return RemoteModel(spec.model)
    return resolve(spec.model, spec.revision)


class Encoders:
    """The encoders of a job, one for each model: tasks that name the same model share it.

    Models that differ in their heads alone share the one below, so that a text goes through it once for all of them.
    """

    def __init__(self, scratch: "Path | None") -> None:
        """`scratch`: see `SharedEncoder`."""
        self.scratch = scratch
        self._made: dict[tuple[str, ...], SharedEncoder] = {}

    def of(self, model: "ResolvedModel", compute: "Compute") -> "SharedEncoder":
        """Raises ModelError when the model's files are missing or broken."""
        from secbatch.models.same_base import same_base
        from secbatch.models.shared_encoder import SharedEncoder

        key = (str(model.folder), model.weights_hash, model.tokenizer_hash, compute.device, compute.dtype)
        if key not in self._made:
            base = next(
                (made for made in self._made.values() if made.compute == compute and same_base(made.model, model)), None
            )
            self._made[key] = SharedEncoder(model, compute, self.scratch, base)
        return self._made[key]


def build_task(
    name: str,
    spec: TaskSpec,
    schema: "pa.Schema",
    model: "ResolvedModel | RemoteModel",
    compute: "Compute",
    encoders: Encoders,
) -> Task:
    """The task `name` over input columns `schema`. Raises JobError when the two do not fit. Loads no weights."""
    from secbatch.models.resolved import ResolvedModel

    if isinstance(spec, Chat) and spec.endpoint is not None:
        from secbatch.tasks.chat_endpoint_task import EndpointChatTask

        return EndpointChatTask(name, spec, schema, encoders.scratch)
    from secbatch.models.transformers_calls import import_transformers

    import_transformers()
    if isinstance(spec, Chat):
        from secbatch.tasks.chat import ChatTask

        assert isinstance(model, ResolvedModel)
        return ChatTask(name, spec, schema, model, compute, encoders.scratch)
    assert isinstance(model, ResolvedModel)  # only chat can do without one
    if isinstance(spec, Seq2Seq):
        from secbatch.tasks.seq2seq import Seq2SeqTask

        return Seq2SeqTask(name, spec, schema, model, compute, encoders.scratch)
    if isinstance(spec, FillMask):
        from secbatch.tasks.fill_mask import FillMaskTask

        return FillMaskTask(name, spec, schema, encoders.of(model, compute))
    if isinstance(spec, Classify):
        from secbatch.tasks.classify import ClassifyTask
        from secbatch.tasks.classify_cloze import ClozeTask

        kind = ClassifyTask if spec.labels is None else ClozeTask
        return kind(name, spec, schema, encoders.of(model, compute))
    if isinstance(spec, Ner):
        from secbatch.tasks.ner import NerTask

        return NerTask(name, spec, schema, encoders.of(model, compute))
    if isinstance(spec, Qa):
        from secbatch.tasks.qa import QaTask

        return QaTask(name, spec, schema, encoders.of(model, compute))
    if isinstance(spec, Similarity):
        from secbatch.tasks.similarity import SimilarityTask

        return SimilarityTask(name, spec, schema, encoders.of(model, compute))
    assert isinstance(spec, Embed)
    from secbatch.tasks.embed import EmbedTask

    return EmbedTask(name, spec, schema, encoders.of(model, compute))
