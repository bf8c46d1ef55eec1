"""Patterns of file names, as shells have them."""

import re

from secbatch.errors import InputError

# What stands between two `*`, or two `**/`, is taken where it fits first, for good (`?>`): to try all other places, for
# a name that does not fit in the end, takes as long as there are ways to choose them.
_FOLDERS = r"(?:(?!\.)[^/]+/)*"


def split_glob(path: str, magic: str) -> tuple[str, str]:
    """The longest folder without a pattern character, and the pattern below it."""
    place = min((path.find(c) for c in magic if c in path), default=-1)
    if place < 0:
        return (path.rstrip("/") or path), ""
    cut = path.rfind("/", 0, place)
    base = path[:cut] if cut > 0 else path[: cut + 1]
    return base, path[cut + 1 :]


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A shell pattern as a regular expression: `*` and `?` stay inside a folder, `**/` crosses folders.

    As in a shell, a pattern matches a name with a leading dot only when it has that dot itself. Raises InputError
    for a range that runs backwards.
    """
    parts: list[str] = []
    for segment in pattern.rstrip("/").split("/"):
        if segment != "**":
            parts.append(_name_regex(segment))
        elif parts[-1:] != ["**"]:  # another says nothing more
            parts.append("**")
    text = ""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            text += ")" if "**" in parts[:place] else ""
            text += f"(?>{_FOLDERS}?" if "**" in parts[place + 1 :] else _FOLDERS
            text += r"(?!\.)[^/]+" if last else ""
        else:
            text += part + ("" if last else "/")
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"input path: '{pattern}' is no pattern of file names: {error.msg}") from None


def _name_regex(segment: str) -> str:
    """A pattern of one name."""
    chunks = [""]  # between `*`
    i = 0
    while i < len(segment):
        c = segment[i]
        close = segment.find("]", i + 2) if c == "[" else -1
        if c == "*":
            if chunks[-1] or len(chunks) == 1:  # of several side by side each says the same
                chunks.append("")
        elif c == "?":
            chunks[-1] += "[^/]"
        elif close > 0:
            negated = segment[i + 1] in "!^"
            inner = segment[i + 2 if negated else i + 1 : close]
            escaped = "".join(x if x.isalnum() or x == "-" else f"\\{x}" for x in inner)
            chunks[-1] += f"(?!/)[{'^' if negated else ''}{escaped}]"
            i = close
        else:
            chunks[-1] += re.escape(c)
        i += 1
    first, *others = chunks
    regex = ("" if segment.startswith(".") else r"(?!\.)") + first
    for number, chunk in enumerate(others, 1):
        regex += f"[^/]*{chunk}" if number == len(others) else f"(?>[^/]*?{chunk})"
    return regex
