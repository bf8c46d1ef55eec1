"""`secbatch` and `python -m secbatch`: the command line, which can be stopped from its first moments on."""

import sys

from secbatch.errors import EXIT_INTERRUPTED


def main() -> None:
    """Runs the command line and exits."""
    from secbatch.cli.stopping import other_signals_as_interrupt

    with other_signals_as_interrupt():
        try:
            from secbatch.cli.main import main as command_line

            command_line()
        except KeyboardInterrupt:  # while all that is being imported: nothing is begun, and nothing to be said
            sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
