"""The check against published predictions, for `models verify` and `evaluate --published`."""

import click

from secbatch.cli.terminal import bold, printable


def print_published(name: str, device: str, precision: str) -> None:
    """Predicts the published sentences with a model and prints both, word by word."""
    from secbatch.comparison.published import verify
    from secbatch.models.device import choose

    checks = verify(name, choose(device, precision))
    for check in checks:
        click.echo(f"{bold('Input:')} {check.sentence}")
        click.echo(f"  published: {' | '.join(check.published)}")
        click.echo(f"  predicted: {' | '.join(printable(word) for word in check.predicted)}")
        click.echo(f"  overlap:   {check.overlap} of {len(check.published)}")
    total = sum(len(check.published) for check in checks)
    same = sum(check.overlap for check in checks)
    first = sum(check.published[0].lower() == check.predicted[0].lower() for check in checks if check.predicted)
    click.echo(f"Overlap: {same} of {total} words ({same / total:.0%}) · same first word: {first} of {len(checks)}")
