"""A model's chat template. It is a program that nobody vouches for, so a process of its own renders it.

Jinja's sandbox keeps templates from files and from Python's objects, and not from loops or texts without end.
"""

import atexit
import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secbatch import python_process
from secbatch.errors import ModelError, SecbatchError, cause

SECONDS = 5  # of a processor, for one conversation; real templates take milliseconds
MEMORY = 1 << 30  # bytes
CHARACTERS = 1 << 20  # of a conversation without its contents; real ones have some thousands
MOST_SAID = 300  # characters of what a template says is wrong


class EndlessTemplateError(ModelError):
    """The template has ended the process: it would do so again."""


class ChatTemplate:
    """Turns of a conversation to the text that the model reads, as transformers' `apply_chat_template` writes it."""

    def __init__(self, hf: Any, model: str) -> None:
        """`hf`: the model's transformers tokenizer, which has a template. `model`: its name, in messages.

        Raises ModelError where it has several, and none for plain conversations.
        """
        self._model = model
        try:
            self._template: str = hf.get_chat_template()
        except ValueError as problem:
            raise ModelError(f"model {model}: {problem}") from None
        self._special: dict[str, Any] = hf.special_tokens_map

    def mentions(self, text: str) -> bool:
        return text in self._template

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """With the beginning of an answer at its end.

        Raises ModelError where the template fails, or takes more than MEMORY or CHARACTERS, and EndlessTemplateError
        where it takes more than SECONDS, or ends the process otherwise.
        """
        request = {"template": self._template, "special": self._special, "messages": messages, "seconds": SECONDS}
        answer = _renderer.ask(request)
        if "text" in answer:
            return answer["text"]
        kind = EndlessTemplateError if "ended" in answer else ModelError
        raise kind(f"model {self._model}: its chat template cannot be rendered: {answer['problem']}")


class _Renderer:
    """The process, one for all templates: started for the first one, it ends when this process does."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._one_at_a_time = threading.Lock()

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        """`text` or `problem`; the latter with `ended` where it has ended the process."""
        line = json.dumps(request, default=str)
        with self._one_at_a_time:
            answer = self._answer(line)
            if answer == -signal.SIGKILL:  # somebody has, or the kernel for want of memory: not the template's doing
                answer = self._answer(line)
        return json.loads(answer) if isinstance(answer, str) else {"problem": _death(answer), "ended": ""}

    def _answer(self, line: str) -> str | int:
        """The line that comes back, or how the process has ended."""
        try:
            answer = _line(self._process or self._started(), line)
        except BaseException:  # an interrupt, say: the next one must not be given this one's answer
            self.end()
            raise
        return self.end() if answer is None else answer

    def _started(self) -> subprocess.Popen[str]:
        try:
            self._process = subprocess.Popen(
                python_process.arguments("from secbatch.models.chat_template import serve; serve()"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=python_process.environment(),
                start_new_session=True,  # Ctrl-C on the terminal is for the run, whose end ends this process
                encoding="ascii",
            )
        except OSError as error:
            raise SecbatchError(f"the process that renders chat templates cannot be started: {cause(error)}") from None
        if _line(self._process, "{}") is None:
            how = python_process.ending(self.end())
            raise SecbatchError(
                f"the process that renders chat templates ends before the first one ({how}); see whether the machine"
                " has the memory for it"
            )
        return self._process

    def end(self) -> int:
        """Its exit code, or the negative number of the signal that has ended it."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()  # nothing where it has ended already
        process.communicate()
        return process.returncode


_renderer = _Renderer()
atexit.register(_renderer.end)


def _line(process: subprocess.Popen[str], request: str) -> str | None:
    """The line that answers it; None where the process has ended."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(request + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    answer = process.stdout.readline()
    return answer if answer.endswith("\n") else None


def _death(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"it takes more than {SECONDS} seconds"
    return f"it ends the process ({python_process.ending(code)})"


def serve() -> None:
    """The other process: answers each line until there are none."""
    from transformers.utils.chat_template_utils import render_jinja_template  # no model, so no torch

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process, be it amid one long operation

    def answered(request: dict[str, Any]) -> dict[str, str]:
        if not request:
            return {}
        given = {"conversations": [request["messages"]], "chat_template": request["template"]}
        text = render_jinja_template(**given, add_generation_prompt=True, **request["special"])[0][0]
        if len(text) > CHARACTERS:
            return {"problem": f"it writes {len(text):,} characters, and {CHARACTERS:,} are admitted"}
        return {"text": text}

    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request.get("seconds", SECONDS))
        try:
            answer = answered(request)
        except MemoryError:
            answer = {"problem": f"it takes more than {MEMORY >> 20:,} MiB"}
        except Exception as problem:  # whatever a template may raise: said over there
            answer = {"problem": str(problem)[:MOST_SAID] or type(problem).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


def _limit_memory() -> None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux: systems that do not say it do not keep such a limit, either
        return
    limit = pages * resource.getpagesize() + MEMORY
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
