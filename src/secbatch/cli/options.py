"""Options that several commands share, defined once."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

log_format = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to log to stderr.",
)
metrics_file = click.option(
    "--metrics-file", metavar="PATH", help="Write the run's figures there, as a Prometheus textfile."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
limit = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows.")


def overrides(example: str) -> Callable[[Command], Command]:
    """The option that replaces keys of a job file, with a key of the command's own kind of job."""
    return click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help=f"Override a key (repeatable): --set {example}."
    )


device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="auto is bfloat16 on GPUs from Ampere on and CPUs with AMX, else float32.",
)


class _NotEmpty(click.types.StringParamType):
    """Text that is some: a shell leaves nothing of `"$FOLDER"` where no such variable is set."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = super().convert(value, param, ctx)
        if not text:
            self.fail("it is empty; give a value, or leave the option out.", param, ctx)
        return text


def refuse_empty_values(command: click.Command) -> None:
    """In `command` and those below it. Taken for nothing, an empty value would be the job's own folder or input."""
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        refuse_empty_values(below)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.type is click.STRING and parameter.default != "":
            parameter.type = _NotEmpty()


MASK_MODEL = "builtin/mlm"
CHAT_MODEL = "builtin/chat"
mask_model = click.option(
    "--mask-model",
    "--model",
    "mask_model",
    default=MASK_MODEL,
    show_default=True,
    help="Catalog name, hub id or folder.",
)
chat_model = click.option(
    "--chat-model",
    "--model",
    "chat_model",
    default=CHAT_MODEL,
    show_default=True,
    help="Catalog name, hub id or folder.",
)
