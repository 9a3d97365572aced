"""RTP and RTCP by UDP: a pair of ports for one track of one client (RFC 3550, section 11: even and odd)."""

import asyncio
import random
import re
from collections.abc import Callable
from typing import Self

_BURST = 8  # packets sent at once, so that a key picture does not overflow the receiver's socket
_PAUSE = 0.001  # seconds between two bursts: some 11 MB/s
_CLIENT_PORT = re.compile(r"client_port=(\d{1,5})-(\d{1,5})", re.IGNORECASE)
_PORTS = range(32_000, 32_700, 2)  # below the range of clients' ports


def client_ports(transport: str) -> tuple[int, int] | None:
    """The client's RTP and RTCP ports from a Transport header (RFC 2326, section 12.39); None if it asks for no UDP."""
    for offer in transport.split(","):
        profile, *_ = offer.strip().split(";")
        found = _CLIENT_PORT.search(offer)
        if profile.upper() in ("RTP/AVP", "RTP/AVP/UDP") and "multicast" not in offer.lower() and found:
            ports = int(found[1]), int(found[2])
            return ports if all(0 < port < 65536 for port in ports) else None
    return None


class _Heard(asyncio.DatagramProtocol):
    """Takes what the client sends (receiver reports, packets that open firewalls) as a sign of life."""

    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._heard()

    def error_received(self, exc: Exception) -> None:
        pass  # nobody listens at the client's port: its connection or the session's timeout will tell


class UdpPair:
    """Both ports, connected to the client's."""

    def __init__(self, transports: list[asyncio.DatagramTransport], ports: tuple[int, int]) -> None:
        self._transports = transports
        self.ports = ports
        self._sent = 0

    @classmethod
    async def open(cls, local: str, remote: str, remote_ports: tuple[int, int], heard: Callable[[], None]) -> Self:
        """Ports on `local` for a client at `remote`; `heard` is called with each datagram that comes. Raises OSError."""
        for port in random.sample(_PORTS, len(_PORTS)):
            ports = port, port + 1
            try:
                return cls([await _connect(local, ports[i], remote, remote_ports[i], heard) for i in (0, 1)], ports)
            except OSError:
                continue
        raise OSError("no free pair of ports")

    async def send_rtp(self, packet: bytes) -> None:
        """Send one packet, with a pause now and then."""
        self._transports[0].sendto(packet)
        self._sent += 1
        if self._sent % _BURST == 0:
            await asyncio.sleep(_PAUSE)

    def send_rtcp(self, packet: bytes) -> None:
        self._transports[1].sendto(packet)

    def close(self) -> None:
        for transport in self._transports:
            transport.close()


async def _connect(
    local: str, port: int, remote: str, remote_port: int, heard: Callable[[], None]
) -> asyncio.DatagramTransport:
    made, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Heard(heard), local_addr=(local, port), remote_addr=(remote, remote_port)
    )
    return made
