"""Answers of an endpoint, question by question, on connections that shards share."""

import asyncio
import json
from collections.abc import Sequence

import numpy as np

from secbatch.errors import ModelError
from secbatch.models.generation_endpoint import Session
from secbatch.models.generation_endpoint_response import Completion
from secbatch.row_hash import digests
from secbatch.tasks.chat_endpoint import EndpointChat
from secbatch.tasks.chat_history import Turn
from secbatch.tasks.chat_reply import Reply
from secbatch.tasks.generated_text import clean
from secbatch.tasks.repeats import Repeats

SHORTER = 0.7  # a question that is refused for its length is asked again with this part of it, its end
SHORTEST = 40  # characters of a question that are worth asking


class EndpointAnswers:
    """Asks, leaves out what does not fit, remembers. All of it on one event loop."""

    def __init__(self, chat: EndpointChat, session: Session, repeats: Repeats) -> None:
        """`repeats`: answers of this run, by what was asked; sampled ones are not in it."""
        self.session = session
        self.failure: ModelError | None = None  # of the endpoint as a whole
        self._chat, self._repeats = chat, repeats
        self._asking: dict[tuple[tuple[Turn, ...], int], asyncio.Future[tuple[Reply, int]]] = {}

    @classmethod
    def connect(cls, chat: EndpointChat, repeats: Repeats) -> "EndpointAnswers":
        """Raises ModelError when the key is gone."""
        return cls(chat, chat.connect(), repeats)

    async def close(self) -> None:
        await self.session.close()

    async def reply(self, turns: tuple[Turn, ...], row: str) -> tuple[Reply, int]:
        """The answer to the last of `turns`, and the positions that were worked on for it.

        Equal conversations are asked once in a run, except when answers are sampled. Raises ModelError when the
        endpoint as a whole does not work.
        """
        seed = self._chat.seed(row)
        same = self._asking.get((turns, seed))
        if same is not None:
            return (await asyncio.shield(same))[0], 0
        remembered = None if self._chat.samples else self._recall(turns)
        if remembered is not None:
            return remembered, 0
        asked = asyncio.ensure_future(self._ask(turns, seed))
        self._asking[turns, seed] = asked
        try:
            reply, positions = await asked
        except ModelError as failure:
            self.failure = self.failure or failure
            raise
        finally:
            asked.cancel()  # where this one was cancelled
            del self._asking[turns, seed]
        if reply.error is None and not self._chat.samples:
            self._remember(turns, reply)
        return reply, positions

    async def _ask(self, turns: tuple[Turn, ...], seed: int) -> tuple[Reply, int]:
        """Without the oldest turns, as with a model at hand, and then without the question's beginning, while it is
        too long."""
        kept, question = len(turns), turns[-1].question
        while True:
            sent = (*turns[len(turns) - kept : -1], Turn(question))
            completion = await self.session.complete(self._chat.body(sent, seed))
            if not completion.too_long:
                break
            shorter = question[-int(len(question) * SHORTER) :]
            if kept > 1:
                kept -= 1
            elif len(shorter) >= SHORTEST:
                question = shorter
            else:
                break
        cut = kept < len(turns) or question is not turns[-1].question
        return self._replied(completion, cut, kept), (completion.prompt_tokens or 0) + (completion.new_tokens or 0)

    def _replied(self, completion: Completion, truncated: bool, kept: int) -> Reply:
        if completion.text is None:
            return Reply(None, None, truncated, kept, completion.error)
        # a server may answer with what it was sent, with characters between that are left out
        text = self.session.without_key(clean(completion.text))
        return Reply(text, completion.new_tokens, truncated, kept)

    def _recall(self, turns: tuple[Turn, ...]) -> Reply | None:
        found = self._repeats.find(_key(turns))
        return Reply(*json.loads(found[0])) if found else None

    def _remember(self, turns: tuple[Turn, ...], reply: Reply) -> None:
        packed = json.dumps([reply.text, reply.tokens, reply.truncated, reply.kept]).encode()
        self._repeats.add(_key(turns), np.frombuffer(packed, np.uint8), np.array([len(packed)], np.int64))


def _key(turns: Sequence[Turn]) -> np.ndarray:
    return digests([json.dumps([[turn.question, turn.answer] for turn in turns]).encode()])
