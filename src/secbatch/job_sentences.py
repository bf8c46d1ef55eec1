"""What is wrong with a job file, as a sentence: which key, in which line, and what it may be."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from secbatch.errors import SecbatchError, nearest
from secbatch.job import Input, Job, Output
from secbatch.redaction import redacted
from secbatch.task_specs import (
    Chat,
    Classify,
    Conversation,
    Embed,
    FillMask,
    Generation,
    Ner,
    Qa,
    Reference,
    Seq2Seq,
    Similarity,
)

TASK_TYPES: dict[str, type[BaseModel]] = {
    "fill-mask": FillMask,
    "embed": Embed,
    "classify": Classify,
    "ner": Ner,
    "chat": Chat,
    "seq2seq": Seq2Seq,
    "similarity": Similarity,
    "qa": Qa,
}
WRITTEN_AS = {
    "name": "it must begin with a letter or a digit and hold only these, '.', '_' and '-'",
    "api_key_env": "it must be the name of an environment variable, such as CHAT_KEY, and not the key itself",
    "device": "it must be auto, cpu, cuda or cuda:1 (or another number)",
    "[key]": "a task's name must begin with a letter and hold only letters, digits and '_'",
}
_KEY = re.compile(r"(input (path|folder)|[a-z_]+(\.\w+)*)(?=[: ])")  # that a sentence begins with
IN_YAML = {  # where pydantic speaks of Python
    "string_type": "it must be text",
    "int_type": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_type": "it must be a number",
    "float_parsing": "it must be a number",
    "bool_type": "it must be true or false",
    "bool_parsing": "it must be true or false",
    "dict_type": "it must hold keys with values",
    "mapping_type": "it must hold keys with values",
    "model_type": "it must hold keys with values",
    "model_attributes_type": "it must hold keys with values",
    "list_type": "it must be a list such as [a, b]",
    "tuple_type": "it must be a list such as [a, b]",
    "string_too_short": "it must not be empty",
    "too_short": "it must not be empty",
}


def job_sentence(
    problem: Any, origin: str, node: yaml.Node | None, overrides: Sequence[str], model: type[BaseModel]
) -> str:
    """One of pydantic's problems with a `model`; `origin`: the file, of which `node` knows the lines.

    `overrides`: `key.key=value`, what the command line has put in place of what stands there.
    """
    location = [str(part) for part in problem["loc"]]
    of_the_whole = re.match(r"Value error, '([\w.]+)'", str(problem["msg"])) if not location else None
    path, line, whole = _walk(of_the_whole[1].split(".") if of_the_whole else location, node)
    place = f"{origin} line {line}" if line else origin
    if _overridden(path, overrides, whole):
        place = "command line"
    key = _cut(".".join(path)) if path else "the job"
    kind = problem["type"]
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1], model)
        hint = nearest(location[-1], known) or f"; known keys are {', '.join(known)}"
        return f"{place}: unknown key '{key}'{hint}."
    if kind == "missing":
        return f"{place}: '{key}' is missing; add it."
    if kind.startswith("union_tag"):
        named = problem["input"].get("type") if isinstance(problem["input"], dict) else None
        hint = nearest(named, list(TASK_TYPES)) if isinstance(named, str) else ""
        return f"{place}: '{key}' needs a type{hint}, one of {', '.join(TASK_TYPES)}."
    given = problem.get("input")
    shown = f" (given: {short(given)})" if isinstance(given, str | int | float | bool | date) or given is None else ""
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not location and kind == "value_error":  # of the job as a whole: the message names the keys
        return f"{place}: {message}."
    message = IN_YAML.get(kind, message.replace("Input should be", "it must be"))  # `input` is a key of jobs
    if kind == "string_type" and isinstance(given, int | float | date | dict | list):
        message += "; put it in quotes"
        if place == "command line":  # its own are gone when it comes here
            message += " within those of the shell, 'key=\"value\"'"
    if kind == "string_pattern_mismatch":  # nobody should have to read a regular expression
        message = WRITTEN_AS[location[-1]]
        shown = "" if location[-1] == "api_key_env" else shown  # it may be the key
    return f"{place}: '{key}' is wrong: {message[:1].lower()}{message[1:]}{shown}."


@contextmanager
def keys_placed(origin: str, node: yaml.Node | None, overrides: Sequence[str]) -> Iterator[None]:
    """What is wrong with a job that was read, as its input or a model shows, begins with a key: it is said with its
    line. The parameters are those of `job_sentence`."""
    try:
        yield
    except SecbatchError as error:
        key = _KEY.match(str(error))
        location = [] if not key else ["input", "path"] if key[2] else key[0].split(".")
        path, line, whole = _walk(location, node)
        place = "command line" if key and _overridden(path, overrides, whole) else f"{origin} line {line}"
        if key and (whole or place == "command line"):
            error.args = (redacted(f"{place}: {error}"),)
        raise


def _overridden(path: list[str], overrides: Sequence[str], in_file: bool) -> bool:
    """Whether the command line gives the value at `path`, or what it lies in; or, where the file has none, a part."""
    given = [override.partition("=")[0].split(".") for override in overrides]
    return any(key == path[: len(key)] or (not in_file and path == key[: len(path)]) for key in given)


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


def short(given: object) -> str:
    """A value as Python writes it, or YAML where they differ, cut where it is no help any more."""
    if given is None:
        return "nothing"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, date):
        return str(given)
    try:
        text = repr(given)
    except ValueError:  # an integer of thousands of digits
        return "a very long number"
    return text if len(text) <= 100 else f"{text[:80]}…"


def _walk(location: list[str], node: yaml.Node | None) -> tuple[list[str], int | None, bool]:
    """The key path without pydantic's union tags, the line of its deepest part that stands in the file, and whether
    that is all of it."""
    path: list[str] = []
    line = None
    for depth, part in enumerate(location):
        is_tag = len(location) > 2 and location[0] == "tasks" and depth == 2 and part in TASK_TYPES
        if is_tag or part == "[key]":
            continue
        path.append(part)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                node = None
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            node = None
    return path, line, node is not None


def _known_keys(location: list[str], root: type[BaseModel]) -> list[str]:
    if root is not Job:
        for part in location:
            root = _model_within(root.model_fields[part].annotation) or root
        return list(root.model_fields)
    models: dict[str, type[BaseModel]] = {
        "input": Input,
        "output": Output,
        "conversation": Conversation,
        "generation": Generation,
        "reference": Reference,
        **TASK_TYPES,
    }
    model = models.get(location[-1], Job) if location else Job
    return list(model.model_fields)


def _model_within(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as `Lora | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_within(part))), None)
