"""`secbatch models`: the catalog, the cache, and the check against published predictions."""

import click

from secbatch.cli import options
from secbatch.cli.terminal import printable


@click.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """List, fetch and check models."""
    if context.invoked_subcommand is None:
        context.invoke(list_models)


@models.command("list")
def list_models() -> int:
    """The catalog: names for jobs, licences, what each is good for, and what is at hand."""
    from secbatch.models.catalog import CATALOG
    from secbatch.models.resolve import at_hand

    for entry in CATALOG.values():
        where = entry.hub_id or "ships with secbatch"
        here = "at hand" if at_hand(entry.name) else "not at hand"
        click.echo(f"{click.style(entry.name, bold=True)} · {where} · licence {entry.licence} · {here}")
        click.echo(f"    {entry.good_for}")
    click.echo()
    click.echo("Any other hub id (owner/name) or folder works as well. `secbatch models pull NAME` fetches one.")
    return 0


@models.command("pull")
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit; the catalog's pinned one when not given.")
def pull_model(name: str, revision: str | None) -> int:
    """Fetch model NAME into the local cache, so that jobs run without a network."""
    from secbatch.models.resolve import pull

    resolved = pull(name, revision)
    click.echo(f"{printable(name)} is at hand: {resolved.folder} (revision {resolved.revision or 'none'})")
    return 0


@models.command("verify")
@click.argument("name", default="securebert")
@options.device
@options.precision
def verify_model(name: str, device: str, precision: str) -> int:
    """Compare model NAME with the predictions that SecureBERT's authors have published."""
    from secbatch.models.device import choose
    from secbatch.models.published import verify

    checks = verify(name, choose(device, precision))
    for check in checks:
        click.echo(f"{click.style('Input:', bold=True)} {check.sentence}")
        click.echo(f"  published: {' | '.join(check.published)}")
        click.echo(f"  predicted: {' | '.join(printable(word) for word in check.predicted)}")
        click.echo(f"  overlap:   {check.overlap} of {len(check.published)}")
    total = sum(len(check.published) for check in checks)
    same = sum(check.overlap for check in checks)
    first = sum(check.published[0].lower() == check.predicted[0].lower() for check in checks if check.predicted)
    click.echo(f"Overlap: {same} of {total} words ({same / total:.0%}) · same first word: {first} of {len(checks)}")
    return 0
