"""Whom a request comes from: the connection's address, or what a trusted proxy says of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(maxsize=16)
def _networks(cidrs: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(cidr) for cidr in cidrs)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _trusted(text: str, cidrs: Sequence[str]) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in _networks(tuple(cidrs)))


def client_address(scope: Scope, proxies: Sequence[str]) -> str:
    """The client's address; "-" on a socket without one.

    X-Forwarded-For is read from its end, as far as each hop is a trusted proxy; from anybody else it is ignored.
    """
    peer = scope["client"][0] if scope.get("client") else "-"
    if not proxies or not _trusted(peer, proxies):
        return str(peer)
    address = peer
    for hop in reversed(",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")):
        found = _address(hop)
        if found is None:
            break
        address = str(found)
        if not _trusted(address, proxies):
            break
    return str(address)


def over_tls(scope: Scope, proxies: Sequence[str]) -> bool:
    """Whether the client speaks TLS: to this process, or to a trusted proxy that says so."""
    if scope.get("scheme") == "https":
        return True
    peer = scope["client"][0] if scope.get("client") else "-"
    proto = Headers(scope=scope).get("x-forwarded-proto", "").strip().lower()
    return proto == "https" and bool(proxies) and _trusted(peer, proxies)
