"""A plan as a person wants to read it."""

from typing import TYPE_CHECKING

from secbatch.cli.live_report import duration
from secbatch.cli.terminal import sentence
from secbatch.errors import counted

if TYPE_CHECKING:
    from secbatch.planning import Plan


def plan_lines(plan: "Plan") -> list[tuple[str, str]]:
    """Labels and texts, one a line."""
    lines = [("Note", sentence(text)) for text in plan.notices]
    unparseable = f"{counted(plan.unparseable, 'line')} not parseable"
    lines += [
        ("Input", f"{counted(plan.files, 'file')} · {counted(plan.rows, 'row')} · {unparseable}"),
        ("Reused", f"{counted(plan.reused_rows, 'row')} done already, in {counted(plan.reused_shards, 'shard')}"),
        ("To do", f"{counted(plan.todo_rows, 'row')} in about {counted(plan.shards - plan.reused_shards, 'shard')}"),
        ("Models", " · ".join(plan.models)),
        ("Device", ", ".join(filter(None, (plan.device, plan.precision)))),
    ]
    if plan.tokens is not None and plan.seconds is not None:
        lines.append(("Tokens", f"about {plan.tokens:,.0f}, {plan.padding_share:.1%} padding"))
        lines.append(("Time", f"about {duration(plan.seconds)}, from a probe of {counted(plan.probed_rows, 'row')}"))
    return lines
