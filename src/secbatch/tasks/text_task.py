"""Tasks that put one text a row through an encoder: what they have in common."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import pyarrow as pa

from secbatch.models.shared_encoder import SharedEncoder
from secbatch.tasks.encoder_task import compute_alone
from secbatch.tasks.repeats import Recalled, Repeats, recall
from secbatch.tasks.text import DistinctTexts, TextSource

Encoded = TypeVar("Encoded")
Computed = TypeVar("Computed")


class TextTask(ABC, Generic[Encoded, Computed]):
    """How texts are tokenised, what is asked of the encoder and what becomes of its numbers are the subclass's.

    Identical texts are computed once.
    """

    containing: str | None = None  # a text without it is nothing to do

    def __init__(self, name: str, text: str, schema: pa.Schema, encoder: SharedEncoder) -> None:
        """`text`: as the job has it. Raises JobError when it does not fit the input."""
        self.name = name
        self.encoder = encoder
        self._text = TextSource.of(text, schema, f"tasks.{name}.text")
        self.reads = self._text.columns
        self.repeats = Repeats(encoder.scratch)

    @property
    def notices(self) -> tuple[str, ...]:
        return self.encoder.notices

    def load(self) -> None:
        self.encoder.load()

    @property
    def remembers(self) -> bool:
        """Whether a result may stand for later rows with the same text."""
        return self.encoder.batch_free

    def encode(self, table: pa.Table, ids: pa.Array, usable: pa.Array) -> Encoded:
        texts = DistinctTexts.of(self._text.render(table), usable, self.containing)
        return self.encoded(recall(texts, self.repeats if self.remembers else None))

    @abstractmethod
    def encoded(self, recalled: Recalled) -> Encoded:
        """As of `EncoderTask`."""

    def compute(self, encoded: Encoded) -> Computed:
        computed: Computed = compute_alone(self, encoded)
        return computed
