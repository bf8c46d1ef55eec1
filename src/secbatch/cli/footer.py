"""What the parts' footer says of their tasks, as far as it can be relied on: whoever copies a file may change both."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# Of each kind of task, the columns that are shown (by what follows the task's name) and what is in them.
_COLUMNS: dict[str, dict[str, Any]] = {
    "fill-mask": {"_predictions": [[{"token": str}]]},
    "chat": {"": str},
    "seq2seq": {"": str},
    "qa": {"": str, "_score": float, "_start": int, "_end": int},
    "similarity": {"": [{"id": str, "score": float}]},
    "classify": {"": str, "_scores": [{"label": str, "score": float}]},
    "ner": {"": [{"text": str, "label": str, "score": float}]},
    "embed": {"": [float]},
}


def read_footer(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The footer of secbatch in a schema's `metadata`; empty where there is none. Raises ValueError for another's."""
    try:
        footer = json.loads((metadata or {}).get(b"secbatch") or b"{}")
    except RecursionError:
        footer = None
    if not isinstance(footer, dict):
        raise ValueError("its footer is not one of secbatch")
    return footer


def tasks_of(footer: dict[str, Any], schema: "pa.Schema") -> dict[str, dict[str, Any]]:
    """The tasks of a footer by name, without those whose columns `schema` does not have as they were written."""
    return {name: spec for name, spec in _mappings(footer.get("specs")).items() if _is_there(name, spec, schema)}


def models_of(footer: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """The models of a footer by task; None where it names none."""
    return {task: model for task, model in _mappings(footer.get("models")).items() if "model" in model} or None


def several_labels(name: str, columns: Sequence[str]) -> bool:
    """Whether `<name>_labels` is a column of this `classify` task: it stands amid its others, the input's does not."""
    own = (name, f"{name}_labels", f"{name}_scores")
    if not set(own) <= set(columns):
        return False
    first, labels, scores = map(columns.index, own)
    return first < labels < scores


def _mappings(value: Any) -> dict[str, dict[str, Any]]:
    given = value if isinstance(value, dict) else {}
    return {name: one for name, one in given.items() if isinstance(one, dict)}


def _is_there(name: str, spec: dict[str, Any], schema: "pa.Schema") -> bool:
    kind = spec.get("type")
    columns = _COLUMNS.get(kind) if isinstance(kind, str) else None
    read = ("question", "context") if kind == "qa" else ("text",)
    if columns is None or not all(isinstance(spec.get(key), str) for key in read):
        return False
    if kind == "classify" and several_labels(name, schema.names):
        columns = {**columns, "_labels": [str]}
    kinds = {field.name: field.type for field in schema}
    return all(_holds(kinds.get(name + ending), wanted) for ending, wanted in columns.items())


def _holds(kind: "pa.DataType | None", wanted: Any) -> bool:
    """Whether values of an Arrow type are such: a Python type, a list of one, or a mapping with such fields."""
    import pyarrow as pa

    if kind is None:
        return False
    if isinstance(wanted, list):
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return lists and _holds(kind.value_type, wanted[0])
    if isinstance(wanted, dict):
        if not pa.types.is_struct(kind):
            return False
        fields = {field.name: field.type for field in kind}
        return all(_holds(fields.get(name), one) for name, one in wanted.items())
    if wanted is str:
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    return bool(pa.types.is_integer(kind) if wanted is int else pa.types.is_floating(kind))
