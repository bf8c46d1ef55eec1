"""`secbatch models`: the catalog, the cache, the registry, and the check against published predictions."""

from typing import TYPE_CHECKING

import click

from secbatch.cli import options
from secbatch.cli.models_diff import diff
from secbatch.cli.terminal import bold, printable
from secbatch.errors import ModelError
from secbatch.working_folder import check_working_folder

if TYPE_CHECKING:
    from secbatch.models.registry import Promotion, RegisteredName


@click.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """List, fetch, check and promote models."""
    if context.invoked_subcommand is None:
        context.invoke(list_models)


@models.command("list", short_help="List promoted models and the catalog.")
def list_models() -> int:
    """Names for jobs: the models promoted on this host, and the catalog with what is at hand of it."""
    from secbatch.models.catalog import CATALOG
    from secbatch.models.registry import registered_names
    from secbatch.models.resolve import at_hand

    _list_promoted()
    shadowed = set(registered_names())
    for entry in CATALOG.values():
        where = entry.hub_id or "ships with secbatch"
        if entry.name in shadowed:
            here = "jobs that name it use your promoted model"
        else:
            here = "at hand" if at_hand(entry.name) else "not at hand"
        click.echo(f"{bold(entry.name)} · {where} · licence {entry.licence} · {here}")
        click.echo(f"    {entry.good_for}")
    click.echo()
    click.echo("Any other hub id (owner/name) or folder works as well. `secbatch models pull NAME` fetches one.")
    return 0


@models.command("pull", short_help="Fetch a model into the local cache.")
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit; the catalog's pinned one when not given.")
def pull_model(name: str, revision: str | None) -> int:
    """Fetch model NAME into the local cache, so that jobs run without a network."""
    from secbatch.models.resolve import pull

    resolved = pull(name, revision)
    click.echo(f"{printable(name)} is at hand: {resolved.folder} (revision {resolved.revision or 'none'})")
    return 0


@models.command("verify", short_help="Compare a model with SecureBERT's published predictions.")
@click.argument("name", default="securebert")
@options.device
@options.precision
def verify_model(name: str, device: str, precision: str) -> int:
    """Compare model NAME with the predictions that SecureBERT's authors have published."""
    check_working_folder()
    from secbatch.cli.published import print_published

    print_published(name, device, precision)
    return 0


@models.command("promote", short_help="Give a trained model a name that jobs can use.")
@click.argument("what", metavar="NAME=PATH")
@click.option("--rollback", is_flag=True, help="With NAME alone: go back to the version before the current one.")
@click.option("--to", metavar="VERSION", help="With --rollback: the version to go to, by the start of its hash.")
@click.option("--note", default="", help="Why, for the history.")
@click.option("--shadow", is_flag=True, help="Allow a name of the catalog: jobs that name it will use your model.")
def promote_model(what: str, rollback: bool, to: str | None, note: str, shadow: bool) -> int:
    """Give the model in folder PATH a NAME that jobs can use; it is copied, and locked by hashes.

    \b
    secbatch models promote techniques=runs/2026-03-01 --note "more reports"
    secbatch models promote techniques --rollback

    A job that says `model: NAME` uses it at its next run, which computes that task's columns again and no others.
    """
    check_working_folder()
    from secbatch.models.registry import SHOWN_DIGITS
    from secbatch.promotion import promote, roll_back

    name, equals, path = what.partition("=")
    if rollback:
        if equals:
            raise click.UsageError(f"With --rollback, name the model alone: {name} --rollback.")
        done = roll_back(name, to, note)
    elif not equals or not path:
        raise click.UsageError("Say which model gets the name: NAME=PATH, or NAME --rollback.")
    elif to is not None:
        raise click.UsageError("--to needs --rollback.")
    else:
        done = promote(name, path, note, shadow)
    now, before = done.record.current[:SHOWN_DIGITS], done.before
    if before == done.record.current:
        click.echo(f"{name} is version {now}, as before.")
    else:
        click.echo(f"{name} is version {now} now" + (f"; it was {before[:SHOWN_DIGITS]}." if before else "."))
    click.echo(f"    {printable(str(done.folder))}")
    if done.left_out:
        click.echo(f"    Left out, as no job reads it: {printable(', '.join(done.left_out))}")
    return 0


@models.command("history")
@click.argument("name")
def history(name: str) -> int:
    """What the promoted model NAME has been, oldest first."""
    from secbatch.models.registry import SHOWN_DIGITS, kept_versions
    from secbatch.promotion import known

    record, kept = known(name), kept_versions(name)
    for number, entry in enumerate(record.history, 1):
        gone = "" if entry.version in kept else " · no longer kept"
        mark = "  <- current" if number == len(record.history) else ""
        click.echo(f"{printable(entry.version[:SHOWN_DIGITS])} · {_told(entry)}{gone}{mark}")
        if entry.note:
            click.echo(f"    {printable(entry.note)}")
    return 0


@models.command("remove", short_help="Forget a promoted model and delete its versions.")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove_model(name: str, yes: bool) -> int:
    """Forget the promoted model NAME and delete all its versions; jobs that name it will stop."""
    from secbatch.models.registry import kept_versions
    from secbatch.promotion import known, remove

    record = known(name)
    versions = len(kept_versions(name))
    if not yes:
        click.confirm(f"Delete {record.name} and its versions ({versions})?", abort=True, err=True)
    click.echo(f"Removed {record.name}; versions deleted: {remove(name)}.")
    return 0


models.add_command(diff)


def _list_promoted() -> None:
    from secbatch.models.registry import SHOWN_DIGITS, registered, registered_names, registry_folder

    names = registered_names()
    if not names:
        return
    click.echo(f"Promoted on this host ({printable(str(registry_folder()))}):")
    for name in names:
        try:
            record = registered(name)
        except ModelError as error:  # the others are worth listing all the same
            click.echo(f"{bold(printable(name))} · {printable(str(error))}")
            continue
        if record is not None:
            version = record.current[:SHOWN_DIGITS]
            click.echo(f"{bold(record.name)} · version {version} · {_since(record)}")
    click.echo()
    click.echo("Catalog:")


def _since(record: "RegisteredName") -> str:
    text = _told(record.history[-1])
    return text + (f" · earlier versions: {len(record.earlier)}" if record.earlier else "")


def _told(entry: "Promotion") -> str:
    what = "promoted" if entry.action == "promote" else "gone back to"
    source = f" from {entry.source}" if entry.source else ""
    return printable(f"{what} {entry.time.replace('T', ' ').replace('+00:00', ' UTC')} by {entry.by}{source}")
