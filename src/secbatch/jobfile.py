"""Reads a job file: YAML with its line numbers, overrides from the command line, one sentence for what is wrong."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from secbatch.errors import JobError
from secbatch.job import Job
from secbatch.job_sentences import job_sentence, keys_placed, short

MOST_BYTES = 256 << 10  # of a job file
MOST_VALUES = 50_000  # in a job file, aliases written out
OF_DATA = (".csv", ".tsv", ".parquet", ".jsonl", ".conll", ".gz", ".zst", ".bz2")
QUOTED = '"'  # of YAML's styles the one that can hold any text, on one line
SECOND = {  # of which YAML's parser speaks as the end of a sentence
    "but found another document": "it holds a second document; a job is one",
    "second occurrence": "an anchor stands twice",
}
NO_TEXT = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}
Kind = TypeVar("Kind", bound=BaseModel)


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """The job in the file at `path`, with `key.key=value` overrides applied.

    Raises JobError (one sentence with file and line) for what is not a job.
    """
    with job_read(file_name(path), overrides) as job:
        return job


def file_name(path: object) -> str:
    """The path of a job file as text. Raises JobError for what a caller from Python gives and is no path."""
    if not isinstance(path, str | os.PathLike):
        raise JobError(
            f"a job file is named by its path, as text or a Path; a value of type {type(path).__name__} is none."
        )
    return os.fsdecode(path)


@contextmanager
def job_read(path: str, overrides: Sequence[str] = ()) -> Iterator[Job]:
    """As `load_job`; what turns out to be wrong with a key of it inside is said with the key's line."""
    values, node = read_values(path, overrides, "name, input, tasks and output")
    job = validate(values, path, node, overrides)
    with keys_placed(path, node, overrides):
        yield job


def read_values(path: str, overrides: Sequence[str], keys: str) -> tuple[dict[str, Any], yaml.Node | None]:
    """What the YAML file at `path` holds, with overrides applied, and its nodes, which know their lines.

    `keys` names, for a message, what such a file must have. Raises JobError for what is no mapping.
    """
    _check_overrides(overrides)
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if path.lower().endswith(OF_DATA):
            raise JobError(
                f"Job file '{path}' is a file of data; write a job file that names it, or give it to `secbatch enrich`."
            )
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise JobError(f"Job file '{path}' does not exist; check the path.") from None
    except UnicodeDecodeError:
        raise JobError(f"Job file '{path}' is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        mend = "mend its rights" if isinstance(error, PermissionError) else "name a file of YAML"
        raise JobError(f"Job file '{path}' cannot be read: {error.strerror}; {mend}.") from None
    except ValueError:  # a NUL in the name
        raise JobError(f"Job file '{path}' has a name that no file can have.") from None
    if len(content) > MOST_BYTES:
        raise JobError(f"Job file '{path}' is larger than {MOST_BYTES >> 10} KiB; it is no job file.")
    node = None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_bombs(node, f"Job file '{path}'")
        _refuse_odd_keys(node, path)
        values = yaml.safe_load(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise JobError(
            f"Job file '{path}' line {line} holds the character {chr(error.character)!r}, which YAML does not allow; "
            "take it out."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        problem = SECOND.get(problem, problem)
        raise JobError(f"Job file '{path}'{where} is not valid YAML: {problem}.") from None
    except (ValueError, OverflowError) as error:  # a date such as 2024-99-99
        if node is None:  # an escape such as "\\UFFFFFFFF"
            raise JobError(
                f"Job file '{path}' has an escape that is no character; write the character itself."
            ) from None
        raise JobError(
            f"Job file '{path}'{_line_of_fault(node)} holds a value that cannot be ({error}); put it in quotes."
        ) from None
    except (LookupError, AttributeError, TypeError):  # of YAML's parser: a tag before what is none: `!!bool maybe`
        raise JobError(
            f"Job file '{path}'{_line_of_fault(node)} has a tag (!!int or another) before what is no such value."
        ) from None
    except RecursionError:
        raise JobError(f"Job file '{path}' is nested without end; write it without anchors and aliases.") from None
    if not isinstance(values, dict):
        raise JobError(f"Job file '{path}' must be a mapping with {keys}.")
    for override in overrides:
        _apply(values, override)
    try:
        _refuse_half_characters(values, path)
    except RecursionError:
        raise JobError("--set has a key of more parts than any has; write it as tasks.mask.top_k=5.") from None
    return values, node


def validate(values: dict[str, Any], origin: str, node: yaml.Node | None = None, overrides: Sequence[str] = ()) -> Job:
    """The job that `values` describe; `origin` is what an error message calls the place they come from.

    `node` and `overrides`: as in `read_values`, where they come from a file.
    """
    return validate_as(Job, values, origin, node, overrides)


def validate_as(
    model: type[Kind],
    values: dict[str, Any],
    origin: str,
    node: yaml.Node | None = None,
    overrides: Sequence[str] = (),
) -> Kind:
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
        raise JobError(job_sentence(found[0], origin, node, overrides, model).removesuffix(".") + more) from None


def _refuse_bombs(node: yaml.Node | None, place: str) -> None:
    """Anchors that refer to anchors can make billions of values out of a few lines: counted before they are made."""
    counts: dict[int, int] = {}

    def count(inner: yaml.Node) -> int:
        if id(inner) not in counts:
            counts[id(inner)] = 1 + sum(map(count, _parts(inner)))  # a node within itself ends in recursion
        return counts[id(inner)]

    if node is not None and count(node) > MOST_VALUES:
        raise JobError(
            f"{place} has more than {MOST_VALUES:,} values, anchors and aliases written out; it is no job file."
        )


def _parts(node: yaml.Node | None) -> list[yaml.Node]:
    """The keys and values of a mapping, the values of a list, nothing of others."""
    values = node.value if isinstance(node, yaml.MappingNode | yaml.SequenceNode) else ()
    return [part for item in values for part in (item if isinstance(item, tuple) else (item,))]


def _line_of_fault(node: yaml.Node | None) -> str:
    """` line 3`, where the first value stands that cannot be made."""
    if isinstance(node, yaml.ScalarNode):
        try:
            yaml.constructor.SafeConstructor().construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError, LookupError, AttributeError):
            return f" line {node.start_mark.line + 1}"
    return next((line for part in _parts(node) if (line := _line_of_fault(part))), "")


def _refuse_half_characters(value: Any, path: str) -> None:
    r"""An escape such as "\ud83d" is half of a character, which no file can hold and no server takes."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise JobError(
                f"Job file '{path}' holds half of a character ({short(value)}); write the character itself."
            ) from None
    parts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
    for part in parts if isinstance(parts, list) else ():
        _refuse_half_characters(part, path)


def _refuse_odd_keys(node: yaml.Node | None, path: str) -> None:
    """Keys that stand twice, or are no text."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise JobError(f"{path} line {line}: a key must be a plain word.")
            if taken_for := NO_TEXT.get(key.tag.rpartition(":")[2]):
                raise JobError(
                    f"{path} line {line}: YAML takes the key {short(key.value)} for {taken_for}; put it in quotes."
                )
            if key.value in seen:
                raise JobError(f"{path} line {line}: key '{key.value}' stands twice; remove one.")
            seen.add(key.value)
            _refuse_odd_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_odd_keys(value, path)


def override(key: str, text: str) -> str:
    """The override that gives `key` this text: no path is read as a number, as a list, or as halves of characters."""
    return f"{key}={yaml.safe_dump(text, default_style=QUOTED, width=math.inf).strip()}"


def _check_overrides(overrides: Sequence[str]) -> None:
    """Those from Python may be anything; a text alone would be taken letter by letter."""
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise JobError(
            f"overrides are a list of texts such as ['device=cpu']; a value of type {type(overrides).__name__} is none."
        )
    for given in overrides:
        if not isinstance(given, str):
            raise JobError(f"an override is a text, such as 'device=cpu'; {short(given)} is none.")


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
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_bombs(node, f"--set {key}")
        place[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError, AttributeError, TypeError):
        place[last] = text  # what looks like a date, or a number, and is none
    else:
        _refuse_odd_keys(node, f"--set {key}")
