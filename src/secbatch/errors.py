"""The errors that reach a user: one sentence each (what, where, how to mend it) and an exit code."""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_REJECTS = 3
EXIT_HELD = 75
EXIT_INTERRUPTED = 130
EXIT_CODES = (EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_REJECTS, EXIT_HELD, EXIT_INTERRUPTED)
LONGEST_NAME = 100  # characters that a sentence shows of a name
LONGEST_TEXT = 60  # of a text or value from data
LONGEST_CAUSE = 300  # and of what a library says
_SPACES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class SecbatchError(Exception):
    """Something a user can mend; its text is one clear sentence, printed without a traceback."""

    exit_code = EXIT_FAILURE

    def __init__(self, text: str = "") -> None:
        from secbatch.redaction import redacted

        super().__init__(redacted(text))


class JobError(SecbatchError):
    """The job file or the command line asks for something that cannot be."""

    exit_code = EXIT_USAGE


class InputError(SecbatchError):
    """The input as a whole cannot be read as the job describes it (no such file, no such column)."""

    exit_code = EXIT_USAGE


class SourceLostError(SecbatchError):
    """A storage that held the input does not answer any more, however often it is asked."""


class InputChangedError(SecbatchError):
    """Files are changing: one is not what it was when the input was listed, or all wait. A later run goes on."""


class ModelError(SecbatchError):
    """A model cannot be had, is not what the task needs, or its files are broken."""


class UnfitModelError(ModelError):
    """There is no model of that name or revision, or it is none that can do the task: a retry cannot help."""

    exit_code = EXIT_USAGE


class OutputError(SecbatchError):
    """The output cannot be written where the job wants it."""


class UnfitOutputError(OutputError):
    """The output is none that the job can have (it is another job's, a file, an object store): a retry cannot help."""

    exit_code = EXIT_USAGE


class OutputHeldError(SecbatchError):
    """Another run holds the output."""

    exit_code = EXIT_HELD


class Interrupted(SecbatchError):  # noqa: N818  (an interrupt is no error)
    """The run was asked to stop; what is finished is kept and a rerun goes on from there."""

    exit_code = EXIT_INTERRUPTED


class OutOfTime(Interrupted):
    """The time has come at which the run was to stop."""


def interrupt_behind(error: BaseException) -> BaseException | None:
    """The interrupt that `error` is, or that it came of.

    Libraries that are broken off may raise something else: `Thread.start` a KeyError, once the thread has started.
    """
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, Interrupted | KeyboardInterrupt):
        behind = None if isinstance(behind, SecbatchError | OSError) else behind.__context__
    return behind


def shown(name: str) -> str:
    """A name for a sentence or a table: of a very long one the beginning, as nobody reads the rest."""
    return visible(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…")


def visible(name: str) -> str:
    """A name whose white space is told from plain spaces: a line end in a spreadsheet's header, a no-break space."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(_SPACES.get(c) or f"\\u{ord(c):04x}" if c.isspace() and c != " " else c for c in name)


def quoted(text: str) -> str:
    """A text from data for a sentence, in quotes; of a long one the beginning."""
    return repr(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…")


def cause(error: BaseException) -> str:
    """The first line of what a library says, to stand in a sentence; the error's kind where it says nothing.

    Of a very long one the midst is left out: it is a path, more often than not, and the reason stands behind it.
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    half = LONGEST_CAUSE // 2
    return line if len(line) <= LONGEST_CAUSE else f"{line[:half]}…{line[-half:]}"


def listed(names: "list[str] | tuple[str, ...]") -> str:
    """Names for a sentence: the first 20 of many; in quotes where a space at its end would be lost."""
    some = [shown(name) if name == name.strip() != "" else f"'{shown(name)}'" for name in names[:20]]
    return ", ".join(some) + (f", … ({len(names):,} in all)" if len(names) > 20 else "")


def columns_there(names: "list[str] | tuple[str, ...]") -> str:
    """`it has a, b`, for the sentence on a column that is not there; with what to do where a header became one name."""
    if len(names) == 1 and any(sign in names[0] for sign in ",;\t|"):
        mend = "where quotes stand around whole lines, take them off, and where the delimiter is another, name it"
        return f"it has one, '{shown(names[0])}'; {mend}"
    return f"it has {listed(names)}"


def counted(number: int, noun: str) -> str:
    """A number with its noun for a sentence: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_job_or_option(key: str, value: str) -> str:
    """How a key of the job's `input` is set, in a job file and on the command line of `secbatch enrich`."""
    return f"`input.{key}: {value}` (enrich: `--{key} {value}`)"


def with_keys_of(place: str, text: str) -> str:
    """A sentence about a job's `input`, where the same keys stand in `place`, which `secbatch enrich` knows not.

    All but `types`: there a column's type is what its values are.
    """
    import re

    text = text.replace(
        "mend the value or declare another type in `input.types`", "mend the value, or write the whole column as text"
    )
    text = re.sub(
        r"declare it, for example `input\.types: \{.*: string\}`", "take it out, or give it to the first row, too", text
    )
    return re.sub(r"\binput\.(\w+)(?:(: [^`]*`) \(enrich: `[^`]*`\))?", rf"{place}.\1\2", text)


def nearest(word: str, known: "list[str] | tuple[str, ...]", likeness: float = 0.5) -> str:
    """A hint ` (did you mean 'x'?)` naming the entry of `known` most like `word`, or an empty string.

    `likeness`: from 0 to 1, below which none is named.
    """
    import difflib

    if len(word) > LONGEST_NAME:  # no slip of the fingers, and to compare it takes its length squared
        return ""
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), list(folded), n=1, cutoff=likeness)
    if not close:
        return ""
    name = folded[close[0]]
    found = visible(name)
    written = ""
    # Copied from the sentence it would be another name. One that ends the quotes is not for copying.
    if found != name and not set(name) & set("'\"\\"):
        written = f", in a job file \"{found}\", in a shell $'{found}'"
    return f" (did you mean '{found}'{written}?)"
