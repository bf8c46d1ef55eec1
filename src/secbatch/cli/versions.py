"""`secbatch versions` and `secbatch rollback`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secbatch.cli import options
from secbatch.cli.terminal import printable
from secbatch.errors import counted

if TYPE_CHECKING:
    from secbatch.store.rollback import ListedVersion


@click.command(short_help="List the versions of an output that are kept.")
@click.argument("output", metavar="OUT")
@options.as_json
def versions(output: str, as_json: bool) -> int:
    """List the versions of the output folder OUT that are kept; * marks the one that readers see."""
    from secbatch.store.layout import Layout
    from secbatch.store.rollback import list_versions

    found = list_versions(Layout(Path(output)))
    if as_json:
        click.echo(json.dumps([asdict(version) for version in found]))
        return 0
    if not found:
        click.echo("No version yet.")
    for line in _table(found):
        click.echo(printable(line))
    return 0


def _table(found: "list[ListedVersion]") -> list[str]:
    rows = [("", "version", "published", "rows", "run")] if found else []
    for version in found:
        by = version.run or "not in the ledger: its run died"
        if version.rolled_back_to is not None:
            by = f"rolled back to {version.rolled_back_to}"
        count = "" if version.rows is None else f"{version.rows:,}"
        rows.append(("*" if version.current else "", str(version.number), version.published or "", count, by))
    widths = [max(len(row[column]) for row in rows) for column in range(5)] if rows else []
    return [
        f"{mark:<1}  {number:>{widths[1]}}  {when:<{widths[2]}}  {count:>{widths[3]}}  {by}"
        for mark, number, when, count, by in rows
    ]


@click.command(short_help="Show an earlier version of an output again.")
@click.argument("output", metavar="OUT")
@click.option("--to", type=click.IntRange(min=1), metavar="N", help="The version before the current one if not given.")
@options.as_json
def rollback(output: str, to: int | None, as_json: bool) -> int:
    """Show an earlier version of the output folder OUT again; the next run goes on from it.

    \b
    secbatch rollback enriched/reports --to 41
    """
    from secbatch.store.layout import Layout
    from secbatch.store.rollback import roll_back

    layout = Layout(Path(output))
    current, target = roll_back(layout, to)
    if as_json:
        click.echo(json.dumps(asdict(current)))
    else:
        rows = "" if current.rows is None else f" with {counted(current.rows, 'row')}"
        click.echo(printable(f"{layout.data} shows version {target} again, as version {current.number}{rows}."))
    return 0
