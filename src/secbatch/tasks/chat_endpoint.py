"""What is asked of an OpenAI-compatible endpoint, and with which key: a server in the model's place."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from secbatch.errors import ModelError, counted
from secbatch.extras import check_extra
from secbatch.models.generation_endpoint import Endpoint, Session
from secbatch.models.generation_settings import DEFAULT_NEW_TOKENS
from secbatch.open_files import room_for
from secbatch.tasks.chat_history import Turn
from secbatch.tasks.generated_text import row_seed

if TYPE_CHECKING:
    from secbatch.task_specs import Chat

# Raised by hand when the same model and settings give other answers than before.
CODE_VERSION = 1


@dataclass(frozen=True)
class Asked:
    """A conversation that ends with an open question."""

    turns: tuple[Turn, ...]

    @property
    def kept(self) -> int:
        return len(self.turns)  # what does not fit is seen when the server is asked

    @property
    def truncated(self) -> bool:
        return False


class EndpointChat:
    """What ChatModel is to the chat task, without weights: the server has them."""

    def __init__(self, spec: "Chat") -> None:
        """Raises ModelError when the key, or what requests are made with, is not there."""
        assert spec.endpoint is not None
        self._spec = spec
        check_extra("endpoint", ["httpx2"], "endpoint", ModelError)
        self._key()  # better now than after the input has been read
        concurrency = room_for(spec.concurrency)
        self._endpoint = Endpoint(spec.endpoint, spec.model, concurrency, spec.timeout, spec.retries, spec.api_key_env)
        self.samples = bool(spec.generation.do_sample)
        self.notices = self._notices()

    @property
    def remembers(self) -> bool:
        return not self.samples

    @property
    def asks_at_once(self) -> int:
        return self._endpoint.concurrency

    def _key(self) -> str | None:
        """The key, read anew each time so that it is in nothing that is pickled or written."""
        name = self._spec.api_key_env
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        if not key:
            raise ModelError(f"the environment variable {name}, which api_key_env names, is not set")
        if not (key.isascii() and key.isprintable()):
            raise ModelError(f"the environment variable {name}, which api_key_env names, holds no key: odd characters")
        return key

    def _notices(self) -> tuple[str, ...]:
        spec = self._spec
        address = urlsplit(spec.endpoint or "")
        near = address.hostname in ("localhost", "127.0.0.1", "::1")
        notices = []
        if address.scheme == "http" and not near and spec.api_key_env:
            notices.append(f"the key goes to {spec.endpoint} unencrypted; use https")
        if self._endpoint.concurrency < spec.concurrency:
            notices.append(
                f"{spec.endpoint} gets {counted(self._endpoint.concurrency, 'request')} at a time, and not"
                f" {spec.concurrency}: the process may have no more files open; raise the limit (ulimit -n)"
            )
        return tuple(notices)

    def fingerprint(self) -> str:
        """Hex digest of what decides an answer; where the server stands, and the key, do not."""
        facts = {
            "code": CODE_VERSION,
            "endpoint": self.body([], 0),
            "prompt": self._spec.prompt,
            "seed": self._spec.generation.seed if self._spec.generation.do_sample else None,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def load(self) -> None:
        pass  # nothing to bring: the server has the weights

    def render(self, conversations: Sequence[Sequence[Turn]]) -> list[Asked]:
        return [Asked(tuple(turns)) for turns in conversations]

    def connect(self) -> Session:
        """Raises ModelError when the key is gone."""
        return Session(self._endpoint, self._key())

    def seed(self, row: str) -> int:
        """The seed of the answer to this row; 0 where nothing is left to chance."""
        # 31 bits: what every server takes
        return row_seed(self._spec.generation.seed, row) >> 32 if self.samples else 0

    def body(self, turns: Sequence[Turn], seed: int) -> dict[str, Any]:
        """The request for an answer to the last of `turns`."""
        spec, generation = self._spec, self._spec.generation
        messages = [{"role": "system", "content": spec.system}] if spec.system is not None else []
        for turn in turns:
            messages.append({"role": "user", "content": spec.prompt.replace("{text}", turn.question)})
            if turn.answer is not None:
                messages.append({"role": "assistant", "content": turn.answer})
        body: dict[str, Any] = {"model": spec.model, "messages": messages}
        body["max_tokens"] = generation.max_new_tokens or DEFAULT_NEW_TOKENS
        if not self.samples:
            return body | {"temperature": 0}
        body |= {"seed": seed}
        for name in ("temperature", "top_p"):
            if getattr(generation, name) is not None:
                body[name] = getattr(generation, name)
        return body
