"""Upper rooms import lower ones, never back; what stands outside of all rooms is used by those that are named here."""

import ast
from pathlib import Path

import pytest

import secbatch

PACKAGE = Path(secbatch.__file__).parent
# Of each room, the rooms that it may import. Those of what runs a job come first, then those around trainings.
BELOW = {
    "sources": set(),
    "store": {"sources"},
    "models": {"builtin"},
    "tasks": {"models", "sources"},
    "engines": set(),
    "evaluation": set(),
    "labelled": {"sources", "tasks"},
    "finetuning": {"evaluation", "labelled", "tasks", "models", "store"},
    "comparison": {"evaluation", "labelled", "tasks", "models", "sources"},
    "training": {"models"},
    "builtin": set(),
}
# Modules outside of the rooms that know the rooms themselves: nothing below them may import these.
UPPER = {"runner", "running", "worker", "preparing", "publishing", "reuse", "identity", "single_file", "trial"}


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_the_rooms_below_it_alone(room: str) -> None:
    for file in (PACKAGE / room).rglob("*.py"):
        for name in imported(file):
            other = name.split(".")[1] if "." in name else name
            is_room = (PACKAGE / other).is_dir()
            assert not is_room or other in {room, *BELOW[room]}, f"{room}/{file.name} imports {name}"
            assert other not in UPPER, f"{room}/{file.name} imports {name}"


def test_every_room_but_the_uppermost_is_named() -> None:
    rooms = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    assert rooms == {*BELOW, "cli"}


def test_nothing_but_the_command_line_imports_it() -> None:
    for file in PACKAGE.rglob("*.py"):
        if file.relative_to(PACKAGE).parts[0] not in ("cli", "__main__.py"):
            assert not any(name.startswith("secbatch.cli") for name in imported(file)), file


def imported(file: Path) -> list[str]:
    """Modules of the package that stand in a file's imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "secbatch":
            found += [f"secbatch.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("secbatch."):
            found.append(str(node.module))
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("secbatch.")]
    return found
