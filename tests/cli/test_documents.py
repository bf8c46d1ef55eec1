"""What the documents say of the command line is what there is, and its help fits a terminal."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from secbatch.cli.main import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "jobs").glob("*.yaml")]
BEHIND_AN_ACCOUNT = {"cd", "secbatch"}  # an account called secbatch stands in a crontab and in log rotation
END = {"|", "||", "&&", ";", "#", "·", "and", "code=$?;"}  # what follows is no part of the command


def commands_of(text: str) -> Iterator[str]:
    """Commands in fenced blocks, code spans and comments."""
    text = re.sub(r"\\\n\s*", "", text)
    fenced = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    comments = re.findall(r"^#\s+(secbatch .*?)(?:\s{2,}.*)?$", text, re.MULTILINE)
    for piece in [*fenced, *spans, *comments]:
        for found in re.finditer(r"(?:^|(?<=[\s/(;]))secbatch ([a-z][^\n]*)", " ".join(piece.split(" "))):
            yield found[1]


def words_of(command: str) -> list[str]:
    try:
        words = shlex.split(command, comments=True)
    except ValueError:  # one in a quoted sentence: its end is there, its beginning is not
        words = command.replace('"', " ").split()
    return words[: next((place for place, word in enumerate(words) if word in END), None)]


def check(words: list[str]) -> None:
    """Raises AssertionError for a command or an option that there is not."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words:
        name, *words = words
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help", "-h"}
    for word in words:
        name = word.partition("=")[0]
        assert not re.match(r"--?[a-z]", name) or name in known, f"{command.name} has no option {name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_documents_are_there(path: Path) -> None:
    for command in commands_of(path.read_text(encoding="utf-8")):
        words = words_of(command)
        if words[0] not in BEHIND_AN_ACCOUNT:
            check(words)


def test_a_command_or_an_option_that_is_not_there_is_found() -> None:
    text = "```sh\nsecbatch run job.yaml --set a=b --fast   # so\n```\nand `secbatch runs OUT`, `secbatch models lists`"
    found = [words_of(command) for command in commands_of(text)]
    assert found == [["run", "job.yaml", "--set", "a=b", "--fast"], ["runs", "OUT"], ["models", "lists"]]
    for words in found:
        with pytest.raises(AssertionError, match=r"no option --fast|no command runs|no command lists"):
            check(words)


def every_command(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from every_command(inner, (*path, name))


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_help_fits_a_terminal_of_80_columns(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80).output
    assert shown and max(map(len, shown.splitlines())) <= 80
