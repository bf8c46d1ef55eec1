"""Conversations to token ids: the model's own format around text that nobody vouches for.

The frame of a chat template is text that the model's authors wrote; questions and answers are not. Only the
frame may hold control tokens: `</s>` or `<|im_start|>system` in a question, or in an answer that comes back
as history, are ordinary characters and never switch roles.
"""

import itertools
import json
import re
import secrets
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer

from secbatch.errors import JobError, ModelError, UnfitModelError
from secbatch.models.chat_template import ChatTemplate, EndlessTemplateError
from secbatch.models.tokenizer_panics import UntokenizableError, panics_told
from secbatch.models.untrusted_text import trusted, untrusted_tokenizer

# More characters than any model's positions hold: what stands before them is never tokenised.
CHARACTERS_PER_TOKEN = 64

# Between turns of a sequence-to-sequence model without a chat template: two spaces, and a user's turn begins
# with another one. This is Blenderbot's format, as published in the chat_template of facebook/blenderbot-3B
# and as transformers' conversational pipeline had it.
BEFORE_ANSWER, BEFORE_QUESTION = "  ", "   "

END_OF_THOUGHTS = "</think>"  # where the answer of a reasoning model begins


@dataclass(frozen=True)
class Turn:
    """A question (as the row has it) and the model's answer; None while it is open."""

    question: str
    answer: str | None = None


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it."""

    tokens: list[int]
    kept: int  # turns that fit, the newest ones, the open question included
    truncated: bool  # older turns, or the beginning of the question, did not fit
    error: str | None = None


@dataclass(frozen=True)
class Frame:
    """A template's text around contents."""

    parts: tuple[str | int, ...]  # an int stands for the content of that number
    trims: tuple[tuple[bool, bool], ...]  # of each content: whether white space is taken from its start, and its end


class ChatRenderer:
    """Renders conversations for one model, each within `limit` tokens."""

    def __init__(self, hf: Any, limit: int, encoder_decoder: bool, prompt: str, system: str | None, model: str) -> None:
        """`hf`: the model's transformers tokenizer. `prompt` contains {text}. `model`: its name, in messages.

        Raises UnfitModelError for a decoder-only model without a chat template, JobError for a system message that
        the model has no place for.
        """
        self.limit, self.prompt, self.system, self.model = limit, prompt, system, model
        # `<mask>` is ordinary here, too: a chat model predicts no words in place of it
        self._backend, self._secret = untrusted_tokenizer(_with_marks_special(hf.backend_tokenizer), None)
        self._template = ChatTemplate(hf, model) if hf.chat_template else None
        if self._template is None and not encoder_decoder:
            raise UnfitModelError(
                f"model {model} has no chat template, so it is no chat model: it continues texts and answers"
                " no questions; use an instruct model, whose tokenizer has one"
            )
        if self._template is None and system is not None:
            raise JobError(f"system: model {model} has no chat template and so no place for a system message")
        self._frames: dict[int, Frame] = {}  # by number of contents; kept, as rendering is slow
        # Templates of models that also take images may want contents in parts.
        self._in_parts = self._template is not None and not self._shows("zq", False) and self._shows("zq", True)
        self._fewest = 1 if system is None else 2  # contents
        if self._template is not None:
            self._frame(self._fewest)
        # Taken from an answer's start once the thoughts before it are left out; None: the template leaves none out.
        self.after_thoughts = self._after_thoughts()
        # Of code version 1, which trimmed both ends of everything or nothing: see `trims`.
        self._trimmed_all = self._template is not None and " x " not in self._apply(
            [{"role": "user", "content": " x "}]
        )

    def trims(self, history: bool) -> dict[str, tuple[bool, bool]]:
        """Of each role, whether white space is taken from the start and from the end; nothing where all get the same.

        Then the prompts are those of releases that knew nothing else, and what was answered to them stays done.
        `history`: whether answers are put in, too.
        """
        if self._template is None:
            return {}
        trims = dict(zip(self._roles(), self._frame(self._fewest).trims, strict=False))
        if history:
            try:
                places = self._frame(self._fewest + 2).trims
            except ModelError:  # a template for single questions; said where there is an answer to put in
                trims["assistant"] = False, False
            else:
                trims = dict(zip(self._roles(), places, strict=False))
                if places[self._fewest - 1] != trims["user"]:  # Llama 2, which puts the system message before it
                    trims["first"] = places[self._fewest - 1]
        return {} if set(trims.values()) == {(self._trimmed_all, self._trimmed_all)} else trims

    def render(self, conversations: Sequence[Sequence[Turn]]) -> list[Rendered]:
        """Token ids of conversations that end with an open question each; what does not fit is left out.

        Whole turns go first, the oldest ones before the others; of a question that does not fit alone, only
        the end is kept. One that the tokenizer gives up on has an error.
        """
        try:
            return self._rendered(conversations)
        except UntokenizableError as error:
            if len(conversations) == 1:
                return [Rendered([], 0, False, str(error))]
            return [self.render([one])[0] for one in conversations]

    def _rendered(self, conversations: Sequence[Sequence[Turn]]) -> list[Rendered]:
        rendered: list[Rendered | None] = [None] * len(conversations)
        open_ = {place: [self._bounded(turn) for turn in turns] for place, turns in enumerate(conversations)}
        cut = {place for place, turns in open_.items() if turns != list(conversations[place])}
        while open_:
            ids = self._encode([self._text(turns) for turns in open_.values()])
            waiting, open_ = list(open_.items()), {}
            for (place, turns), tokens in zip(waiting, ids, strict=True):
                if len(tokens) <= self.limit:
                    truncated = place in cut or len(turns) < len(conversations[place])
                    rendered[place] = Rendered(tokens, len(turns), truncated)
                elif len(turns) > 1:
                    open_[place] = turns[1:]
                else:
                    rendered[place] = self._end_of_question(turns[0].question)
        return [one for one in rendered if one is not None]

    def _bounded(self, turn: Turn) -> Turn:
        most = self.limit * CHARACTERS_PER_TOKEN
        return replace(turn, question=turn.question[-most:]) if len(turn.question) > most else turn

    def _end_of_question(self, question: str) -> Rendered:
        """As much of the question's end as fits beside the prompt around it, found by bisection."""
        fitting = self._encode([self._text([Turn("")])])[0]
        if len(fitting) > self.limit:
            what = "prompt and system message alone take" if self.system else "prompt alone takes"
            room = f"{self.limit} tokens that {self.model} has for a question"
            return Rendered([], 0, True, f"the {what} {len(fitting)} of the {room}")
        start, too_early = len(question), 0  # the end from `start` fits, from `too_early` it does not
        while start - too_early > 1:
            middle = (start + too_early) // 2
            tokens = self._encode([self._text([Turn(question[middle:])])])[0]
            if len(tokens) <= self.limit:
                start, fitting = middle, tokens
            else:
                too_early = middle
        return Rendered(fitting, 1, True)

    @panics_told()
    def _encode(self, texts: list[str]) -> list[list[int]]:
        # a template writes its special tokens itself
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=self._template is None)
        return [encoding.ids for encoding in encodings]

    def _text(self, turns: Sequence[Turn]) -> str:
        contents = [self.system] if self.system is not None else []
        for turn in turns:
            contents.append(self.prompt.replace("{text}", turn.question))
            if turn.answer is not None:
                contents.append(self._without_thoughts(turn.answer))
        if self._template is None:
            text = contents[0]
            for place, content in enumerate(contents[1:], 1):
                text += (BEFORE_ANSWER if place % 2 else BEFORE_QUESTION) + content
            return text
        frame = self._frame(len(contents))
        contents = [_trimmed(content, *ends) for content, ends in zip(contents, frame.trims, strict=True)]
        return "".join(part if isinstance(part, str) else contents[part] for part in frame.parts)

    def _frame(self, count: int) -> Frame:
        """The template's text around `count` contents, with its special tokens under their secret names.

        Some templates trim what is put in, at both ends or at one, often of one role or at one place alone: then it is
        to be trimmed as well.
        """
        if count in self._frames:
            return self._frames[count]
        marks = [f"zq{secrets.token_hex(8)}x{number}qz" for number in range(count)]
        text = self._with_contents(marks)
        if marks[-1] not in text:
            raise ModelError(f"model {self.model}: its chat template leaves out the question")
        place_of = {mark: place for place, mark in enumerate(marks)}
        parts = re.split("(" + "|".join(marks) + ")", text)
        blank = self._with_contents([f"\v{mark}\f" for mark in marks])  # white space that no template writes itself
        self._frames[count] = frame = Frame(
            tuple(place_of[part] if part in place_of else trusted(part, self._secret) for part in parts),
            tuple((f"\v{mark}" not in blank, f"{mark}\f" not in blank) for mark in marks),
        )
        return frame

    def _with_contents(self, contents: list[str]) -> str:
        return self._apply([{"role": role, "content": one} for role, one in zip(self._roles(), contents, strict=False)])

    def _roles(self) -> Iterator[str]:
        return itertools.chain(["system"] if self.system is not None else [], itertools.cycle(["user", "assistant"]))

    def _after_thoughts(self) -> str | None:
        """The characters that the template takes from an earlier answer's start, once it has left out the thoughts."""
        if self._template is None or not self._template.mentions(END_OF_THOUGHTS):
            return None
        answer = "\n\n\n\v\nzqa"  # more line feeds than a template writes itself
        contents = {"user": "x", "assistant": f"zqt{END_OF_THOUGHTS}{answer}"}
        try:
            text = self._apply([{"role": one, "content": contents[one]} for one in ("user", "assistant", "user")])
        except ModelError:  # a template for single questions, as in `trims`
            return None
        if "zqt" in text or "zqa" not in text:
            return None
        if answer in text:
            return ""
        return "\n" if answer.lstrip("\n") in text else string.whitespace

    def _without_thoughts(self, answer: str) -> str:
        if self.after_thoughts is None or END_OF_THOUGHTS not in answer:
            return answer
        return answer.rpartition(END_OF_THOUGHTS)[2].lstrip(self.after_thoughts)

    def _shows(self, content: str, in_parts: bool) -> bool:
        """Whether the template shows a question's content when it is given in this form."""
        self._in_parts = in_parts
        try:
            return content in self._apply([{"role": "user", "content": content}])
        except EndlessTemplateError:
            raise
        except ModelError:
            return False

    def _apply(self, messages: list[dict[str, str]]) -> str:
        assert self._template is not None
        given: list[dict[str, Any]] = list(messages)
        if self._in_parts:
            given = [one | {"content": [{"type": "text", "text": one["content"]}]} for one in messages]
        return self._template.render(given)


def _trimmed(content: str, start: bool, end: bool) -> str:
    content = content.lstrip() if start else content
    return content.rstrip() if end else content


def _with_marks_special(backend: Tokenizer) -> Tokenizer:
    """A copy in which added words that look like marks (`<think>`, `[TOOL]`) are special tokens as well.

    Models treat them as control tokens, whatever their tokenizer's files call them.
    """
    spec = json.loads(backend.to_str())
    for token in spec["added_tokens"]:
        if re.fullmatch(r"(<.+>|\[.+\])\s*", token["content"]):
            token["special"] = True
    return Tokenizer.from_str(json.dumps(spec))
