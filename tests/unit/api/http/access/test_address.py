"""Whose address counts: the connection's, unless a proxy that is trusted says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from api.http.access.address import client_address, over_tls

PROXIES = ["10.0.0.0/8", "::1/128"]


def scope(peer: str | None, *forwarded: str, proto: str = "", scheme: str = "http") -> dict[str, Any]:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    headers += [(b"x-forwarded-proto", proto.encode())] if proto else []
    return {"type": "http", "client": (peer, 1) if peer else None, "headers": headers, "scheme": scheme}


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),  # from nobody else
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.2.3.4, 203.0.113.9"], "203.0.113.9"),  # what the client wrote itself is further left
        ("10.0.0.1", ["1.2.3.4, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9", "10.0.0.3"], "203.0.113.9"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::1", ["[2001:db8::1]"], "2001:db8::1"),
        (None, ["203.0.113.9"], "-"),
    ],
)
def test_the_address(peer: str | None, forwarded: list[str], address: str) -> None:
    assert client_address(scope(peer, *forwarded), PROXIES) == address
    assert client_address(scope(peer, *forwarded), []) == (peer or "-")


def test_tls_is_told_by_the_connection_or_a_trusted_proxy() -> None:
    assert over_tls(scope("192.0.2.1", scheme="https"), [])
    assert over_tls(scope("10.0.0.1", proto="https"), PROXIES)
    assert not over_tls(scope("192.0.2.1", proto="https"), PROXIES)
    assert not over_tls(scope("10.0.0.1", proto="https"), [])
    assert not over_tls(scope("10.0.0.1"), PROXIES)
