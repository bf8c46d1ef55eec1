"""Connections to an endpoint: a client for each, since a client's pool goes through all its connections for a request.

That is httpcore's `_assign_requests_to_connections`, twice a request; among 256 connections it took most of the time.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from secbatch.errors import ModelError, cause

if TYPE_CHECKING:
    import httpx2 as httpx


class Connections:
    """As many as are used at a time; each is kept for later requests: a new one costs a handshake."""

    def __init__(self, url: str, key: str | None) -> None:
        """Raises ModelError where the environment names a proxy or certificates that there cannot be."""
        import httpx2 as httpx

        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._kept = 1  # connections that a client keeps
        try:
            self._certificates = httpx.create_ssl_context()  # once: reading them takes 50 ms and more
            self._clients = [self._client()]  # all that were made
        except (ImportError, ValueError, httpx.InvalidURL, FileNotFoundError, ssl.SSLError) as error:
            # Of an address that is none, the piece it tells of may be of a password.
            said = "an address is none" if isinstance(error, httpx.InvalidURL) else cause(error)
            raise ModelError(
                f"endpoint {url} cannot be asked with the proxy or certificates that the environment"
                f" names ({said}); see HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
            ) from None
        self._idle = list(self._clients)

    @contextmanager
    def one(self) -> Iterator["httpx.AsyncClient"]:
        """For one request; the one used last comes first, so that those that are not needed grow old and are closed."""
        kept = self._kept
        if self._idle:
            client = self._idle.pop()
        else:
            client = self._client()
            self._clients.append(client)
        try:
            yield client
        finally:
            if kept == self._kept:
                self._idle.append(client)

    def keep_none(self) -> None:
        """From now on each request has a connection of its own, and none that there is now is used again."""
        if self._kept:
            self._kept = 0
            self._idle.clear()

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()

    def _client(self) -> "httpx.AsyncClient":
        import httpx2 as httpx

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self._kept)
        return httpx.AsyncClient(
            headers=self._headers, verify=self._certificates, timeout=None, limits=limits, follow_redirects=False
        )
