"""Proxies that the environment names, for sentences about servers that are not reached."""

import os
import urllib.request
from urllib.parse import urlsplit


def by_proxy(url: str) -> str:
    """`; by the proxy that HTTPS_PROXY names`, where the environment names one for `url`; nothing otherwise."""
    address = urlsplit(url)
    if urllib.request.proxy_bypass(address.hostname or ""):
        return ""
    names = [f"{address.scheme}_proxy", "all_proxy"]
    named = [name for scheme in names for name in (scheme, scheme.upper()) if os.environ.get(name)]
    return f"; by the proxy that {named[0]} names" if named else ""
