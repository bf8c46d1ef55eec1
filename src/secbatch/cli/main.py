"""The command line's root, and the one place where errors become sentences and exit codes."""

import os
import sys
from collections.abc import Sequence

import click

import secbatch
from secbatch import file_names, file_size_limit, system_limits
from secbatch.cli import log, options
from secbatch.cli.ask import ask, mask
from secbatch.cli.evaluate import evaluate
from secbatch.cli.finetune import finetune
from secbatch.cli.models import models
from secbatch.cli.retry import retry
from secbatch.cli.run import enrich, plan, run
from secbatch.cli.show import show
from secbatch.cli.status import status
from secbatch.cli.streams import hold_streams
from secbatch.cli.terminal import printable, sentence
from secbatch.cli.versions import rollback, versions
from secbatch.collector import set_aside_once
from secbatch.errors import EXIT_FAILURE, EXIT_INTERRUPTED, Interrupted, SecbatchError, interrupt_behind
from secbatch.redaction import redacted
from secbatch.store.filesystem import SHORT_OF_FILES


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(secbatch.__version__, prog_name="secbatch")
def cli() -> None:
    """Enrich security text in batches: masked-word predictions, embeddings and answers, into Parquet.

    \b
    Exit codes:
        0  all rows done
        1  internal or environment failure
        2  wrong usage, job file or input; an output that the job cannot have
        3  finished, with rejects above max_rejects
       75  another run holds the output
      130  interrupted (run again to go on)
    """


commands = (run, enrich, plan, retry, show, status, versions, rollback, finetune, evaluate, mask, ask, models)
for command in commands:
    cli.add_command(command)
options.refuse_empty_values(cli)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits. SECBATCH_DEBUG=1 shows tracebacks."""
    hold_streams()
    # They are read when the libraries are imported, so they are set before any command imports them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # see `secbatch.arrow_memory`
    set_aside_once()
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if log.asked_for(arguments):
        with log.json_lines():
            return _dispatch(arguments)
    return _dispatch(arguments)


def _dispatch(arguments: Sequence[str]) -> int:
    debug = bool(os.environ.get("SECBATCH_DEBUG"))
    try:
        _refuse_undecodable(arguments)
        result = cli.main(args=list(arguments), prog_name="secbatch", standalone_mode=False)
    except click.ClickException as error:
        text = redacted(error.format_message())
        if log.active():
            return _fail(text, error.exit_code)
        if not isinstance(error, click.exceptions.NoArgsIsHelpError):  # which is the help, nothing else
            # As click shows it, but for names that a shell's `*` may have put there.
            error = click.UsageError(printable(text), getattr(error, "ctx", None))
        error.show()
        return error.exit_code
    except (Interrupted, KeyboardInterrupt, click.Abort) as error:
        return _interrupted(error)
    except SecbatchError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of a pipe has seen enough (`| head`). Keep Python from complaining while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except OSError as error:
        if debug:
            raise
        if too_large := file_size_limit.refused(error, error.filename):
            return _fail(str(too_large), too_large.exit_code)
        place = f" at '{error.filename}'" if error.filename else ""
        mend = "; mend its rights, or those of the folders above it" if isinstance(error, PermissionError) else ""
        if error.errno in SHORT_OF_FILES:
            mend = "; let the process have more open files (ulimit -n)"
        return _fail(f"The system refused to go on{place}: {error.strerror or error}{mend}", EXIT_FAILURE)
    except Exception as error:
        if interrupt := interrupt_behind(error):
            return _interrupted(interrupt)
        if debug:
            raise
        if known := system_limits.refused(error):
            return _fail(str(known), known.exit_code)
        what = redacted(f"{type(error).__name__}: {error}")[:500]
        return _fail(f"Internal failure ({what}); run again with SECBATCH_DEBUG=1 for the details", EXIT_FAILURE)
    return result if isinstance(result, int) else 0


def _refuse_undecodable(arguments: Sequence[str]) -> None:
    """Bytes that are not UTF-8, or not of the locale, come from the shell as surrogates, which no file, model or
    Parquet column can take."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            what = "it is not UTF-8; rename the file, or run in a UTF-8 locale"
            if not file_names.locale_is_utf8():
                argument, what = os.fsencode(argument).decode(errors="backslashreplace"), file_names.remedy()
            raise click.UsageError(f"Argument '{printable(argument)}' cannot be used: {what}.") from None


def _interrupted(interrupt: BaseException) -> int:
    text = sentence(str(interrupt) or "Interrupted")
    if log.active():
        log.emit("interrupted", "warning", text=text, exit_code=EXIT_INTERRUPTED)
    else:
        click.echo(text, err=True)
    return EXIT_INTERRUPTED


def _fail(text: str, code: int) -> int:
    if log.active():
        log.emit("error", "error", text=sentence(text), exit_code=code)
    else:
        click.echo(f"Error: {sentence(text)}", err=True)
    return code
