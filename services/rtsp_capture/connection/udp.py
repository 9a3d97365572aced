"""RTP and RTCP by UDP (RFC 3550, section 11): a pair of ports for one track, which takes packets of one address only."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable

from utils.exceptions import CaptureFailure

_PORTS = range(20_000, 60_000, 2)
_ATTEMPTS = 50
_BUFFER_BYTES = 2 * 1024 * 1024  # of the kernel: a keyframe comes in one burst


class _Port(asyncio.DatagramProtocol):
    def __init__(self, address: str, channel: int, on_packet: Callable[[int, bytes], None]) -> None:
        self._address, self._channel, self._on_packet = address, channel, on_packet

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if addr[0].removeprefix("::ffff:") == self._address:
            self._on_packet(self._channel, data)

    def error_received(self, exc: Exception) -> None:
        pass  # what we sent was refused: the camera opens its port later


class UdpPair:
    """Ports of ours. Packets are sent to, and taken from, `address` alone, whatever the camera's answer names."""

    def __init__(self, address: str, ports: tuple[int, int], transports: list[asyncio.DatagramTransport]) -> None:
        self.ports = ports
        self._address = address
        self._transports = transports

    @classmethod
    async def open(cls, local: str, address: str, on_packet: Callable[[int, bytes], None]) -> UdpPair:
        """An even port and the next one on `local`; `on_packet` gets 0 or 1 and the packet. Raises CaptureFailure."""
        loop = asyncio.get_running_loop()
        for port in random.sample(_PORTS, _ATTEMPTS):
            transports: list[asyncio.DatagramTransport] = []
            try:
                for index in (0, 1):
                    made, _ = await loop.create_datagram_endpoint(
                        lambda channel=index: _Port(address.partition("%")[0], channel, on_packet),  # type: ignore[misc]
                        local_addr=(local, port + index),
                    )
                    transports.append(made)
            except OSError:
                for made in transports:
                    made.close()
                continue
            transports[0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            return cls(address, (port, port + 1), transports)
        raise CaptureFailure("stream_ended", "This host has no free pair of UDP ports.")

    def send(self, channel: int, port: int, data: bytes) -> None:
        """To the camera's port; 0: it has not said which."""
        if port:
            self._transports[channel].sendto(data, (self._address, port))

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
