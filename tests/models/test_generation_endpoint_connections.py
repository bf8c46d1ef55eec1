"""Connections to a chat endpoint: a client for each that is used at the same time, kept and used again."""

import asyncio
from contextlib import ExitStack

import pytest

from secbatch.errors import ModelError
from secbatch.models.generation_endpoint_connections import Connections

pytest.importorskip("httpx2")
URL = "http://127.0.0.1:1/v1"


def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    # one client's pool looks at all its connections for each request: with 256 of them it took most of the time
    connections = Connections(URL, None)
    with connections.one() as first, connections.one() as second:
        assert first is not second


def test_the_last_one_is_used_again() -> None:
    connections = Connections(URL, None)
    with ExitStack() as many:
        made = [many.enter_context(connections.one()) for _ in range(3)]
    with connections.one() as again:
        assert again is made[0]  # given back last
        with connections.one() as other:
            assert other is made[1]


def test_a_failed_one_is_given_back() -> None:
    connections = Connections(URL, None)
    with pytest.raises(RuntimeError), connections.one() as first:
        raise RuntimeError
    with connections.one() as again:
        assert again is first


def test_none_is_used_again_once_none_is_to_be_kept() -> None:
    connections = Connections(URL, None)
    with connections.one() as idle:
        pass
    with connections.one() as at_work:
        assert at_work is idle
        with connections.one() as left:
            pass
        connections.keep_none()
    with connections.one() as new:
        assert new not in (at_work, left)


def test_all_are_closed() -> None:
    async def closed() -> list[bool]:
        connections = Connections(URL, None)
        with connections.one() as first, connections.one() as second:
            pass
        connections.keep_none()
        with connections.one() as third:
            pass
        await connections.close()
        return [client.is_closed for client in (first, second, third)]

    assert asyncio.run(closed()) == [True, True, True]


def test_the_key_goes_with_each() -> None:
    connections = Connections(URL, "sk-1")
    with connections.one() as first, connections.one() as second:
        assert [client.headers["authorization"] for client in (first, second)] == ["Bearer sk-1"] * 2


def test_certificates_that_there_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with pytest.raises(ModelError, match=r"cannot be asked with the proxy or certificates .* SSL_CERT_FILE"):
        Connections(URL, None)
