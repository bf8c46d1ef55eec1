"""A plan as a person wants to read it."""

from typing import TYPE_CHECKING

from secbatch.cli.live_report import duration
from secbatch.cli.terminal import sentence

if TYPE_CHECKING:
    from secbatch.planning import Plan


def plan_lines(plan: "Plan") -> list[tuple[str, str]]:
    """Labels and texts, one a line."""
    lines = [("Note", sentence(text)) for text in plan.notices]
    lines += [
        (
            "Input",
            f"{_of(plan.files, 'file')} · {_of(plan.rows, 'row')} · {_of(plan.unparseable, 'line')} not parseable",
        ),
        ("Reused", f"{_of(plan.reused_rows, 'row')} done already, in {_of(plan.reused_shards, 'shard')}"),
        ("To do", f"{_of(plan.todo_rows, 'row')} in about {_of(plan.shards - plan.reused_shards, 'shard')}"),
        ("Models", " · ".join(plan.models)),
        ("Device", f"{plan.device}, {plan.precision}"),
    ]
    if plan.tokens is not None and plan.seconds is not None:
        lines.append(("Tokens", f"about {plan.tokens:,.0f}, {plan.padding_share:.1%} padding"))
        lines.append(("Time", f"about {duration(plan.seconds)}, from a probe of {_of(plan.probed_rows, 'row')}"))
    return lines


def _of(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
