"""The rows of a shard as questions of conversations: what chat tasks have in common, whoever answers."""

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from secbatch.errors import JobError, nearest, shown
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.chat_history import Turn
from secbatch.tasks.chat_reply import Renders, Reply
from secbatch.tasks.generated_text import text_columns, text_fields
from secbatch.tasks.text import TextSource

if TYPE_CHECKING:
    from secbatch.task_specs import Chat


@dataclass(frozen=True)
class EncodedChat:
    """Questions of a shard of n rows and the order in which they are asked."""

    questions: list[str | None]  # [n], None: nothing to ask
    rows: list[str]  # [n], identities
    conversations: list[list[int]]  # positions of the questions of each conversation, in order
    opening: list[Any]  # the first question of each conversation, as the model's `render` gives it
    known: dict[int, Reply]  # position -> the answer that an earlier run gave
    wanted: list[int]  # positions of the rows that are to be answered, ascending; the others are their history


@dataclass(frozen=True)
class ComputedChat:
    """A reply for each wanted row of a shard; None where it asked nothing."""

    replies: list[Reply | None]
    tokens: int
    padding: int


class ChatRows:
    """Between the columns of a table and conversations; who answers, and `compute`, are the subclass's."""

    _renders: Renders

    def __init__(self, name: str, spec: "Chat", schema: pa.Schema) -> None:
        """Raises JobError when job and input do not fit together."""
        self.name, self._spec = name, spec
        self._text = TextSource.of(spec.text, schema, f"tasks.{name}.text")
        self._conversation = spec.conversation
        reads = list(self._text.columns)
        for column in (spec.conversation.id, spec.conversation.order) if spec.conversation else ():
            if column not in schema.names:
                hint = nearest(column, schema.names)
                raise JobError(f"tasks.{name}.conversation: the input has no column '{shown(column)}'{hint}")
            reads.append(column)
        self.reads = tuple(dict.fromkeys(reads))

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        return text_fields(self.name)

    @property
    def notices(self) -> tuple[str, ...]:
        return self._renders.notices

    @property
    def remembers(self) -> bool:
        """Rows of conversations read the name of their own, so hardly two of them read the same."""
        return self._conversation is None and self._renders.remembers

    @property
    def samples(self) -> bool:
        return self._renders.samples

    @property
    def conversation_column(self) -> str | None:
        """Rows that follow each other with one value in it are answered together, in order."""
        return self._conversation.id if self._conversation else None

    def fingerprint(self) -> str:
        conversation = self._spec.conversation
        own = [self._renders.fingerprint(), self._spec.text, conversation and conversation.model_dump()]
        return hashlib.sha256(repr(own).encode()).hexdigest()

    def load(self) -> None:
        self._renders.load()

    def asks(self, table: pa.Table) -> np.ndarray:
        """bool [n]: rows with a question."""
        return np.array([question is not None for question in self._questions(table)], bool)

    def _questions(self, table: pa.Table) -> list[str | None]:
        return [text if text is not None and text.strip() else None for text in self._text.render(table).to_pylist()]

    def encode(self, table: pa.Table, ids: pa.Array, usable: pa.Array) -> EncodedChat:
        return self._encode(table, ids, usable, {}, list(range(table.num_rows)))

    def encode_after(
        self, table: pa.Table, ids: pa.Array, usable: pa.Array, answered: np.ndarray, columns: pa.Table
    ) -> EncodedChat:
        """As `encode`, where earlier turns are answered already: only the other rows come out of `finish`.

        `answered`: int64, the positions of these turns; `columns`: what `finish` gave for them.
        """
        texts, truncated = (columns.column(name).to_pylist() for name in (self.name, f"{self.name}_truncated"))
        known = {
            place: Reply(text, None, bool(cut), 0)
            for place, text, cut in zip(answered.tolist(), texts, truncated, strict=True)
        }
        return self._encode(table, ids, usable, known, [row for row in range(table.num_rows) if row not in known])

    def _encode(
        self, table: pa.Table, ids: pa.Array, usable: pa.Array, known: dict[int, Reply], wanted: list[int]
    ) -> EncodedChat:
        questions = [
            question if use else None for question, use in zip(self._questions(table), usable.to_pylist(), strict=True)
        ]
        conversations = self._grouped(table, questions)
        if known:  # those of which nothing is wanted are left alone
            conversations = [group for group in conversations if not known.keys() >= set(group)]
        first = [questions[places[0]] or "" for places in conversations]
        distinct = list(dict.fromkeys(first))
        rendered = dict(zip(distinct, self._renders.render([[Turn(text)] for text in distinct]), strict=True))
        return EncodedChat(questions, ids.to_pylist(), conversations, [rendered[text] for text in first], known, wanted)

    def _grouped(self, table: pa.Table, questions: list[str | None]) -> list[list[int]]:
        """Positions of questions by conversation; neighbours with one conversation id belong together.

        A question without a conversation id (null, or empty as CSV has it) stands alone.
        """
        if self._conversation is None:
            return [[place] for place, question in enumerate(questions) if question is not None]
        groups: list[list[int]] = []
        before = None
        for place, conversation in enumerate(table.column(self._conversation.id).to_pylist()):
            if conversation in (None, "") or conversation != before:
                groups.append([])
            before = conversation
            if questions[place] is not None:
                groups[-1].append(place)
        return [group for group in groups if group]

    def _as_it_was(self, asked: list[Turn], earlier: Reply) -> Reply:
        """An earlier answer with the turns that the model saw for it; of a question that got none, it is not noted."""
        if earlier.text is not None and not earlier.truncated:
            return replace(earlier, kept=len(asked))
        rendered = self._renders.render([asked])[0]
        return replace(earlier, kept=rendered.kept, truncated=rendered.truncated or earlier.truncated)

    def finish(self, computed: ComputedChat) -> TaskColumns:
        return text_columns(self.name, computed.replies, computed.tokens, computed.padding)
