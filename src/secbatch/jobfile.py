"""Reads a job file: YAML with its line numbers, overrides from the command line, one sentence for what is wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from secbatch.errors import JobError, nearest
from secbatch.job import Input, Job, Output
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

MOST_BYTES = 256 << 10  # of a job file
MOST_VALUES = 50_000  # in a job file, aliases written out
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
Kind = TypeVar("Kind", bound=BaseModel)
WRITTEN_AS = {
    "name": "it must begin with a letter or a digit and hold only these, '.', '_' and '-'",
    "api_key_env": "it must be the name of an environment variable, such as CHAT_KEY, and not the key itself",
    "device": "it must be auto, cpu, cuda or cuda:1 (or another number)",
    "[key]": "a task's name must begin with a letter and hold only letters, digits and '_'",
}
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


def load_job(path: str, overrides: Sequence[str] = ()) -> Job:
    """The job in the file at `path`, with `key.key=value` overrides applied.

    Raises JobError (one sentence with file and line) for what is not a job.
    """
    values, node = read_values(path, overrides, "name, input, tasks and output")
    return validate(values, path, node)


def read_values(path: str, overrides: Sequence[str], keys: str) -> tuple[dict[str, Any], yaml.Node | None]:
    """What the YAML file at `path` holds, with overrides applied, and its nodes, which know their lines.

    `keys` names, for a message, what such a file must have. Raises JobError for what is no mapping.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise JobError(f"Job file '{path}' does not exist; check the path.") from None
    except UnicodeDecodeError:
        raise JobError(f"Job file '{path}' is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise JobError(f"Job file '{path}' cannot be read: {error.strerror}.") from None
    except ValueError:  # a NUL in the name
        raise JobError(f"Job file '{path}' has a name that no file can have.") from None
    if len(content) > MOST_BYTES:
        raise JobError(f"Job file '{path}' is larger than {MOST_BYTES >> 10} KiB; it is no job file.")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_bombs(node, path)
        _refuse_duplicate_keys(node, path)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise JobError(f"Job file '{path}'{where} is not valid YAML: {problem}.") from None
    except ValueError as error:  # a date such as 2024-99-99
        raise JobError(f"Job file '{path}' holds a value that cannot be ({error}); put it in quotes.") from None
    except RecursionError:
        raise JobError(f"Job file '{path}' is nested without end; write it without anchors and aliases.") from None
    if not isinstance(values, dict):
        raise JobError(f"Job file '{path}' must be a mapping with {keys}.")
    for override in overrides:
        _apply(values, override)
    _refuse_half_characters(values, path)
    return values, node


def validate(values: dict[str, Any], origin: str, node: yaml.Node | None = None) -> Job:
    """The job that `values` describe; `origin` is what an error message calls the place they come from."""
    return validate_as(Job, values, origin, node)


def validate_as(model: type[Kind], values: dict[str, Any], origin: str, node: yaml.Node | None = None) -> Kind:
    """As `validate`, for another kind of job file."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        if model is Job and "objective" in values and "tasks" not in values:
            raise JobError(f"{origin} has an objective and no tasks: start it by `secbatch finetune`.") from None
        if model is not Job and "tasks" in values and "objective" not in values:
            raise JobError(f"{origin} has tasks and no objective: start it by `secbatch run`.") from None
        # An unknown key first: it is what usually explains a missing one.
        found = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        more = f"; {len(found) - 1} more after this one." if len(found) > 1 else "."
        raise JobError(_sentence(found[0], origin, node, model).removesuffix(".") + more) from None


def _refuse_bombs(node: yaml.Node | None, path: str) -> None:
    """Anchors that refer to anchors can make billions of values out of a few lines: counted before they are made."""
    counts: dict[int, int] = {}

    def count(inner: yaml.Node) -> int:
        if id(inner) not in counts:
            values = inner.value if isinstance(inner, yaml.MappingNode | yaml.SequenceNode) else ()
            children = [pair for item in values for pair in (item if isinstance(item, tuple) else (item,))]
            counts[id(inner)] = 1 + sum(count(child) for child in children)  # a node within itself ends in recursion
        return counts[id(inner)]

    if node is not None and count(node) > MOST_VALUES:
        raise JobError(
            f"Job file '{path}' has more than {MOST_VALUES:,} values, anchors and aliases written out; "
            "it is no job file."
        )


def _refuse_half_characters(value: Any, path: str) -> None:
    r"""An escape such as "\ud83d" is half of a character, which no file can hold and no server takes."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise JobError(
                f"Job file '{path}' holds half of a character ({_short(value)}); write the character itself."
            ) from None
    parts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
    for part in parts if isinstance(parts, list) else ():
        _refuse_half_characters(part, path)


def _refuse_duplicate_keys(node: yaml.Node | None, path: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise JobError(f"{path} line {line}: a key must be a plain word.")
            if key.value in seen:
                raise JobError(f"{path} line {line}: key '{key.value}' stands twice; remove one.")
            seen.add(key.value)
            _refuse_duplicate_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicate_keys(value, path)


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise JobError(f"--set {override}: write it as key=value, for example tasks.mask.top_k=5.")
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        inside = place.setdefault(parent, {})
        if not isinstance(inside, dict):
            raise JobError(f"--set {override}: '{parent}' holds a value, not keys.")
        place = inside
    try:
        place[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that is none, a number without end
        place[last] = text


def _sentence(problem: Any, origin: str, node: yaml.Node | None, model: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    path, line = _walk(location, node)
    place = f"{origin} line {line}" if line else origin
    key = _cut(".".join(path)) or "the job"
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
    shown = f" (given: {_short(given)})" if isinstance(given, str | int | float | bool) or given is None else ""
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not path and kind == "value_error":  # of the job as a whole: the message names the keys
        return f"{place}: {message}."
    message = IN_YAML.get(kind, message)
    if kind == "string_type" and isinstance(given, int | float):
        message += "; put it in quotes"
    if kind == "string_pattern_mismatch":  # nobody should have to read a regular expression
        message = WRITTEN_AS[location[-1]]
        shown = "" if location[-1] == "api_key_env" else shown  # it may be the key
    return f"{place}: '{key}' is wrong: {message[:1].lower()}{message[1:]}{shown}."


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


def _short(given: object) -> str:
    """A value as Python writes it, or YAML where they differ, cut where it is no help any more."""
    if given is None:
        return "nothing"
    if isinstance(given, bool):
        return str(given).lower()
    try:
        text = repr(given)
    except ValueError:  # an integer of thousands of digits
        return "a very long number"
    return text if len(text) <= 100 else f"{text[:80]}…"


def _walk(location: list[str], node: yaml.Node | None) -> tuple[list[str], int | None]:
    """The key path without pydantic's union tags, and the line of its deepest part that stands in the file."""
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
    return path, line


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
