"""Keeps secrets out of what a run says and leaves behind: logs, errors, run files, footers, the ledger."""

import re
from typing import Any

HIDDEN = "***"
# From behind its scheme on: to look for a scheme in a long word, from each of its letters, takes its length squared.
# One slash: of what was given where a path is wanted, and became one.
_URI = re.compile(r"(?<=[A-Za-z0-9+.-]):/[^\s'\"<>`]*")
# user@ and user:password@. A password may hold slashes, as AWS keys do; what follows a port is a path.
_USER = re.compile(r"(?<=:/)(/?)(?:[^\s@:/?]*:(?!\d+(?:/|$))[^\s@?]*|[^\s@:/?]+)@")
_PARAMETER = re.compile(r"(?<=[?&;])([^=&;?\s]+)=([^&;\s]*)")
# Parameters of a URI whose values tell where data lie, not who may read them.
_PLAIN = {
    "region",
    "scheme",
    "endpoint_override",
    "allow_delayed_open",
    "background_writes",
    "force_virtual_addressing",
}
_TOKENS = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bgh[pousr]_[A-Za-z0-9]{20,}|(?<=\bBearer )[^\s'\"]+"
)


def redacted(text: str) -> str:
    """`text` without passwords and keys: those in URIs (`user:password@`, values after `?`) and tokens by their shape.

    A parameter after `?` is kept only where its name is known to be harmless.
    """
    if ":/" in text:
        text = _URI.sub(lambda uri: _redacted_uri(uri[0]), text)
    return _TOKENS.sub(HIDDEN, text)


def _redacted_uri(uri: str) -> str:
    address, mark, query = uri.partition("?")
    users, at, host = address.rpartition("@")  # behind the last one there is none, however many `://` stand there
    address = _USER.sub(rf"\1{HIDDEN}@", users + at) + host
    return address + _PARAMETER.sub(_redacted_parameter, mark + query)


def _redacted_parameter(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    plain = name.lower() in _PLAIN and "@" not in value
    return f"{name}={value if plain else HIDDEN}"


def redacted_values(values: Any) -> Any:
    """JSON-like `values` with every text in them redacted, keys included."""
    if isinstance(values, str):
        return redacted(values)
    if isinstance(values, dict):
        return {redacted_values(key): redacted_values(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [redacted_values(value) for value in values]
    return values
