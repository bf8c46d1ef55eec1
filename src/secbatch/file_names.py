"""Names of files where the process's locale cannot write them: Python's UTF-8 mode is off, and the locale is C."""

import codecs
import sys

from secbatch.errors import SecbatchError, shown

UTF_8 = "utf-8"


def locale_is_utf8() -> bool:
    """Whether names of files, and arguments, are taken for UTF-8."""
    return sys.getfilesystemencoding() == UTF_8


def remedy() -> str:
    """The end of a sentence on a name that the locale cannot take."""
    return (
        f"names and arguments are {sys.getfilesystemencoding()} in the locale of this process; run it in a UTF-8 "
        "locale (LC_ALL=C.UTF-8), or without PYTHONUTF8=0"
    )


def refused(error: BaseException) -> SecbatchError | None:
    """The sentence for `error`, where it comes of such a name."""
    if not isinstance(error, UnicodeEncodeError) or locale_is_utf8():
        return None
    if codecs.lookup(error.encoding).name == codecs.lookup(sys.getfilesystemencoding()).name:
        return SecbatchError(f"'{shown(error.object)}' cannot be the name of a file here: {remedy()}")
    return None
