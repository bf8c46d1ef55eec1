"""What sentence-transformers does to make a vector by a model that was published for it, where that is something else.

Its files (modules.json, and what that names) are read for what there is to say alone: nothing is computed by them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secbatch.models.resolved import ResolvedModel

_MOST = 1 << 20  # bytes of a file that is looked at
_FOLDER = re.compile(r"\d+_\w{1,40}", re.ASCII)
_KIND = re.compile(r"[A-Za-z]\w{0,40}", re.ASCII)
_POOLINGS = {"mean": "mean", "cls": "first"}  # its name for each of ours


def departures(model: ResolvedModel, pooling: str, normalize: bool, longest: int) -> tuple[str, ...]:
    """One sentence where its `encode` gives other vectors than a task with these settings, else none.

    `longest`: tokens of a text that the task sees.
    """
    found = list(_departures(model.folder, pooling, normalize, longest))
    if not found:
        return ()
    said = f"model {model.name} was published for sentence-transformers, which makes other vectors by it"
    return (f"{said} ({'; '.join(found)})",)


def _departures(folder: Path, pooling: str, normalize: bool, longest: int) -> Iterator[str]:
    modules = _read(folder / "modules.json")
    if not isinstance(modules, list):
        return
    modules = [one for one in modules if isinstance(one, dict) and isinstance(one.get("type"), str)]
    kinds = [one["type"].rpartition(".")[2] for one in modules]
    if "Pooling" in kinds:
        place = modules[kinds.index("Pooling")].get("path")
        mode = _pooling_mode(folder / place) if isinstance(place, str) and _FOLDER.fullmatch(place) else None
        if mode is not None and _POOLINGS.get(mode) != pooling:
            yield f"pooling: {_POOLINGS[mode]}" if mode in _POOLINGS else f"pooling {mode}, which there is not here"
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Normalize") and _KIND.fullmatch(kind):
            yield f"a layer after it ({kind}), which is not used here"
    if "Normalize" in kinds and not normalize:
        yield "normalize: true"
    settings = _mapping(folder / "sentence_bert_config.json")
    most = settings.get("max_seq_length")
    if isinstance(most, int) and 0 < most < longest:
        yield f"the first {most} tokens of a text instead of {longest}"
    if settings.get("do_lower_case") is True:
        yield "texts in lower case"
    prompting = _mapping(folder / "config_sentence_transformers.json")
    prompts, name = prompting.get("prompts"), prompting.get("default_prompt_name")
    if isinstance(prompts, dict) and isinstance(name, str) and prompts.get(name):
        yield "a prompt before each text"


def _pooling_mode(folder: Path) -> str | None:
    """As it is called in the folder's config.json, by name or by flags; None where that is none, or not one alone."""
    settings = _mapping(folder / "config.json")
    flags = [re.fullmatch(r"pooling_mode_(\w+?)(_tokens?)?", key) for key, value in settings.items() if value is True]
    modes = settings.get("pooling_mode", [flag[1] for flag in flags if flag])
    modes = modes if isinstance(modes, list) else [modes]
    return modes[0] if len(modes) == 1 and isinstance(modes[0], str) and _KIND.fullmatch(modes[0]) else None


def _mapping(path: Path) -> dict[str, Any]:
    value = _read(path)
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes()) if path.stat().st_size <= _MOST else None
    except (OSError, ValueError, RecursionError):  # transformers does without it, too
        return None
