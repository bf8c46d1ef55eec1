"""The chat task: an answer to each question, one by one or in conversations."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from secbatch.tasks.chat_history import Turn
from secbatch.tasks.chat_model import ChatModel
from secbatch.tasks.chat_reply import Answerer, Reply, continued
from secbatch.tasks.chat_rows import ChatRows, ComputedChat, EncodedChat
from secbatch.work_done import part_in_hand

if TYPE_CHECKING:
    from pathlib import Path

    from secbatch.models.device import Compute
    from secbatch.models.resolved import ResolvedModel
    from secbatch.task_specs import Chat


class ChatTask(ChatRows):
    """Answers with a sequence-to-sequence or decoder-only chat model."""

    def __init__(
        self,
        name: str,
        spec: "Chat",
        schema: pa.Schema,
        model: "ResolvedModel",
        compute: "Compute",
        scratch: "Path | None" = None,
    ) -> None:
        """`scratch`: see `TextGenerator`.

        Raises JobError when job and input do not fit together, ModelError when the model cannot chat."""
        super().__init__(name, spec, schema)
        self._model: Answerer = ChatModel(spec, model, compute, scratch)
        self._renders = self._model

    def compute(self, encoded: EncodedChat) -> ComputedChat:
        """Asks the first questions of all conversations together, then all second ones, and so on."""
        model = self._model
        done_tokens, done_padding = model.tokens, model.padding
        replies: list[Reply | None] = [None] * len(encoded.questions)
        history: list[list[Turn]] = [[] for _ in encoded.conversations]
        cut = [False] * len(encoded.conversations)
        asked_in_all = sum(map(len, encoded.conversations)) - len(encoded.known)
        for number in range(max(map(len, encoded.conversations), default=0)):
            due = []
            for place, group in enumerate(encoded.conversations):
                if number < len(group):
                    earlier = encoded.known.get(group[number])
                    if earlier is None:
                        due.append(place)
                        continue
                    asked = [*history[place], Turn(encoded.questions[group[number]] or "")]
                    reply = self._as_it_was(asked, earlier)
                    history[place] = continued(asked, reply)
                    cut[place] = reply.truncated or (reply.text is None and cut[place])
            rows = [encoded.conversations[place][number] for place in due]
            questions = [Turn(encoded.questions[row] or "") for row in rows]
            turns = [[*history[place], question] for place, question in zip(due, questions, strict=True)]
            rendered = model.render(turns) if number else [encoded.opening[place] for place in due]
            with part_in_hand(len(due) / max(asked_in_all, 1)):
                answered = model.reply(rendered, [encoded.rows[row] for row in rows])
            for place, row, asked, reply in zip(due, rows, turns, answered, strict=True):
                # what did not fit once does not fit later: it is forgotten, and later rows say so, too
                cut[place] |= reply.truncated
                replies[row] = replace(reply, truncated=cut[place])
                history[place] = continued(asked, reply)
        replies = [replies[row] for row in encoded.wanted]
        return ComputedChat(replies, model.tokens - done_tokens, model.padding - done_padding)
