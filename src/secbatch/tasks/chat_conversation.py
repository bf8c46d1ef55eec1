"""One conversation with a chat model, question by question, as the command line holds it."""

import itertools
from typing import TYPE_CHECKING

from secbatch.errors import ModelError
from secbatch.tasks.chat_history import Turn
from secbatch.tasks.chat_model import ChatModel
from secbatch.tasks.chat_reply import continued

if TYPE_CHECKING:
    from secbatch.models.device import Compute
    from secbatch.models.resolved import ResolvedModel
    from secbatch.task_specs import Chat


class Conversation:
    """Remembers its turns as far as the model's positions reach."""

    def __init__(self, spec: "Chat", model: "ResolvedModel", compute: "Compute") -> None:
        """Loads the model. Raises ModelError or JobError when it cannot chat as `spec` wants it to."""
        self._model = ChatModel(spec, model, compute)
        self._model.load()
        self._turns: list[Turn] = []
        self._number = itertools.count(1)

    def reply(self, question: str) -> str:
        """The answer to `question`, given the turns before it. Raises ModelError when there is none."""
        asked = [*self._turns, Turn(question)]
        reply = self._model.reply(self._model.render([asked]), [str(next(self._number))])[0]
        if reply.text is None:
            raise ModelError(f"no answer: {reply.error}")
        self._turns = continued(asked, reply)
        return reply.text
