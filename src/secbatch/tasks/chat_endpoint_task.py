"""The chat task through an endpoint: shards are under way together, so that the server never waits for one's end."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from secbatch.errors import Interrupted
from secbatch.models.generation_endpoint_line import Connected, Line
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.chat_endpoint import EndpointChat
from secbatch.tasks.chat_endpoint_answers import EndpointAnswers
from secbatch.tasks.chat_history import Turn
from secbatch.tasks.chat_reply import Reply, continued
from secbatch.tasks.chat_rows import ChatRows, ComputedChat, EncodedChat
from secbatch.tasks.repeats import Repeats
from secbatch.waiting import wait_until
from secbatch.work_done import WorkDone, work_in_hand

if TYPE_CHECKING:
    from pathlib import Path

    from secbatch.task_specs import Chat


@dataclass(frozen=True)
class UnderWay:
    """A shard whose questions are being asked."""

    line: Line[EndpointAnswers]
    connected: Connected[EndpointAnswers]
    future: "Future[ComputedChat]"
    begun: threading.Event  # no conversation of the shard waits for its place any more

    def land(self) -> ComputedChat:
        """Waits for the answers; from any thread. Raises ModelError when the endpoint as a whole does not work."""
        try:
            return self.future.result()
        except CancelledError:
            failure = self.connected.used.failure
            raise failure or Interrupted("Interrupted while an endpoint was asked") from None
        finally:
            self.line.landed(self.connected)


class EndpointChatTask(ChatRows):
    """Asks each conversation by itself: turn after turn in one place, whatever the others do."""

    def __init__(self, name: str, spec: "Chat", schema: pa.Schema, scratch: "Path | None" = None) -> None:
        """`scratch`: a folder for what is remembered of a run; None: questions that come again are asked again.

        Raises JobError when job and input do not fit together, ModelError when the endpoint cannot be asked."""
        super().__init__(name, spec, schema)
        self._renders = self._chat = EndpointChat(spec)
        self._line = Line(partial(EndpointAnswers.connect, self._chat, Repeats(scratch)))

    @property
    def asks_at_once(self) -> int:
        return self._chat.asks_at_once

    def ask(self, encoded: EncodedChat) -> UnderWay:
        """Begins to ask, and returns at once."""
        begun, work_done = threading.Event(), work_in_hand()
        future, connected = self._line.start(lambda answers: self._ask_all(encoded, answers, begun, work_done))
        future.add_done_callback(lambda _: begun.set())
        return UnderWay(self._line, connected, future, begun)

    def compute(self, encoded: EncodedChat) -> UnderWay:
        """Returns when there may be room for the next shard beside this one: each conversation has its place."""
        under_way = self.ask(encoded)
        wait_until(under_way.begun.is_set)
        return under_way

    def finish(self, computed: "ComputedChat | UnderWay") -> TaskColumns:
        return super().finish(computed.land() if isinstance(computed, UnderWay) else computed)

    def abandon(self) -> None:
        """Nothing that is under way is wanted any more."""
        self._line.abandon()

    async def _ask_all(
        self, encoded: EncodedChat, answers: EndpointAnswers, begun: threading.Event, work_done: WorkDone
    ) -> ComputedChat:
        units = self._units(encoded)
        waiting, answered, positions = len(units), 0, 0
        replies: list[Reply | None] = [None] * len(encoded.questions)

        async def one(unit: list[list[int]]) -> None:
            nonlocal waiting, answered, positions
            async with answers.session.places:
                waiting -= 1
                if not waiting:
                    begun.set()
                more = await self._converse(encoded, answers, unit, replies)
                positions += more  # not in one line: others add to it meanwhile
                answered += 1
                work_done.reached(answered / len(units))

        if not units:
            begun.set()
        tasks = [asyncio.ensure_future(one(unit)) for unit in units]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return ComputedChat([replies[row] for row in encoded.wanted], positions, 0)

    def _units(self, encoded: EncodedChat) -> list[list[list[int]]]:
        """Conversations; those that ask the same are together, and are asked once."""
        units: dict[object, list[list[int]]] = {}
        for place, group in enumerate(encoded.conversations):
            alone = self._chat.samples or any(row in encoded.known for row in group)
            asked: Any = place if alone else tuple(encoded.questions[row] for row in group)
            units.setdefault(asked, []).append(group)
        return list(units.values())

    async def _converse(
        self, encoded: EncodedChat, answers: EndpointAnswers, unit: Sequence[list[int]], replies: list[Reply | None]
    ) -> int:
        """Asks the questions of one conversation, the first of `unit`; the others ask the same."""
        history: list[Turn] = []
        cut, positions = False, 0
        for number, row in enumerate(unit[0]):
            asked = [*history, Turn(encoded.questions[row] or "")]
            earlier = encoded.known.get(row)
            if earlier is not None:
                was = self._as_it_was(asked, earlier)
                history, cut = continued(asked, was), was.truncated or (was.text is None and cut)
                continue
            reply, more = await answers.reply(tuple(asked), encoded.rows[row])
            positions += more
            # what did not fit once does not fit later: it is forgotten, and later rows say so, too
            cut |= reply.truncated
            for other in unit:
                replies[other[number]] = replace(reply, truncated=cut)
            history = continued(asked, reply)
        return positions
