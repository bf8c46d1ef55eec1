"""Patterns of file names, as shells have them."""

import re

from secbatch.errors import InputError


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
        if segment == "**":
            if parts[-1:] != ["**"]:  # another says nothing more, and doubles the ways in which a name may fit
                parts.append("**")
            continue
        regex = "" if segment.startswith(".") else r"(?!\.)"
        i = 0
        while i < len(segment):
            c = segment[i]
            close = segment.find("]", i + 2) if c == "[" else -1
            if c == "*":
                regex += "[^/]*"
            elif c == "?":
                regex += "[^/]"
            elif close > 0:
                negated = segment[i + 1] in "!^"
                inner = segment[i + 2 if negated else i + 1 : close]
                escaped = "".join(x if x.isalnum() or x == "-" else f"\\{x}" for x in inner)
                regex += f"(?!/)[{'^' if negated else ''}{escaped}]"
                i = close
            else:
                regex += re.escape(c)
            i += 1
        parts.append(regex)
    folder = r"(?:(?!\.)[^/]+/)*"
    text = ""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            text += folder + (r"(?!\.)[^/]+" if last else "")
        else:
            text += part + ("" if last else "/")
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"input path: '{pattern}' is no pattern of file names: {error.msg}") from None
