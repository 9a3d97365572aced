"""WS-Discovery (OASIS, April 2005 draft, which ONVIF uses; Core Specification, section 7): probes by UDP, and what answers.

Whoever answers may lie: an answer counts only when it is to a probe of ours, its sender is an allowed address, and of the
addresses that it names only allowed literal ones are taken. Nothing here connects to anything.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
import socket
import struct
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element  # a type

from services.cameras.onvif.device import SCOPE, name_and_hardware
from services.cameras.onvif.http_post import http_address
from services.cameras.onvif.safe_xml import BadXml, child, parse, text
from services.rtsp_capture.connection.camera_address import AddressPolicy
from services.rtsp_capture.connection.own_services import IpAddress
from utils.logger import get_logger
from utils.metrics import DISCOVERY_ANSWERS

log = get_logger(__name__)

PORT = 3702
GROUP = "239.255.255.250"
_SIOCGIFADDR = 0x8915
MAX_FOUND = 256
MAX_ANSWERS = 2048  # datagrams that are looked at
MAX_DATAGRAM = 16_384  # bytes; devices send 1 to 4 KB
MAX_TARGETS = 1024  # addresses that are probed one by one
_MAX_ELEMENTS = 500
_QUEUE = 256
_PACE = 32  # datagrams that go out at once, every 10 ms
# Devices answer one of the two, some only one. Without a type all devices answer, printers as well.
_TYPES = ("<d:Types>dn:NetworkVideoTransmitter</d:Types>", "")
_PROBE = (
    '<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" '
    'xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery" '
    'xmlns:dn="http://www.onvif.org/ver10/network/wsdl"><s:Header>'
    "<a:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</a:Action><a:MessageID>{id}</a:MessageID>"
    "<a:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To></s:Header><s:Body><d:Probe>{types}</d:Probe></s:Body>"
    "</s:Envelope>"
)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """A device that answered. `xaddr`: None when it named none that is allowed."""

    address: str
    xaddr: str | None
    name: str | None
    hardware: str | None
    onvif: bool


def targets(networks: Iterable[Network], policy: AddressPolicy) -> list[IpAddress]:
    """The addresses to probe one by one: hosts of the networks that are allowed."""
    found: dict[IpAddress, None] = {}
    for network in networks:
        for address in network.hosts() if network.num_addresses > 2 else network:
            if policy.allows_address(address):
                found[address] = None
    return list(found)


def read_answer(
    data: bytes, sender: str, ids: Iterable[str], allowed: Callable[[IpAddress, int], bool]
) -> FoundDevice | None:
    """The device of a ProbeMatches; None for an answer to somebody else, or of no device. Raises BadXml."""
    root = parse(data, _MAX_ELEMENTS)
    relates = text(child(root, "Header"), "RelatesTo")
    if relates is None or relates not in ids:
        return None
    match = child(root, "Body", "ProbeMatches", "ProbeMatch")
    if match is None:
        return None
    scopes = (text(match, "Scopes", limit=8192) or "").split()
    types = [one.rpartition(":")[2] for one in (text(match, "Types") or "").split()]
    name, hardware = name_and_hardware(scopes)
    onvif = "NetworkVideoTransmitter" in types or any(scope.startswith(SCOPE) for scope in scopes)
    return FoundDevice(sender, _own_xaddr(match, sender, allowed), name, hardware, onvif)


def _own_xaddr(match: Element, sender: str, allowed: Callable[[IpAddress, int], bool]) -> str | None:
    """The first allowed one at the sender's own address, else the first allowed one."""
    found = []
    for url in (text(match, "XAddrs", limit=8192) or "").split()[:16]:
        where = http_address(url)
        try:
            host = ipaddress.ip_address(where.host) if where is not None else None
        except ValueError:  # a name: it could be anybody's
            continue
        if where is not None and host is not None and len(url) <= 500 and allowed(host, where.port):
            found.append((str(host) != sender, where.url()))
    return min(found, default=(True, None), key=lambda one: one[0])[1]


class _Answers(asyncio.DatagramProtocol):
    """Takes datagrams into a bounded queue."""

    def __init__(self, queue: asyncio.Queue[tuple[bytes, str]]) -> None:
        self._queue = queue

    def datagram_received(self, data: bytes, addr: tuple[str, int] | tuple[str, int, int, int]) -> None:
        if len(data) > MAX_DATAGRAM or self._queue.full():
            DISCOVERY_ANSWERS.labels(outcome="dropped").inc()
            return
        self._queue.put_nowait((data, str(addr[0]).partition("%")[0]))


class Search:
    """One search."""

    def __init__(self, policy: AddressPolicy, networks: Sequence[Network] | None, port: int = PORT) -> None:
        """`networks`: only answers from there count, and each address in them is asked by itself; None: all allowed ones."""
        self._policy, self._networks, self._port = policy, networks, port
        self._ids = [f"urn:uuid:{uuid.uuid4()}" for _ in _TYPES]
        self._found: dict[str, FoundDevice] = {}

    async def run(self, timeout: float) -> list[FoundDevice]:
        """Who answers within `timeout` seconds; ONVIF devices first, then by address. Raises OSError without a network."""
        queue: asyncio.Queue[tuple[bytes, str]] = asyncio.Queue(_QUEUE)
        hosts = targets(self._networks or (), self._policy)
        families = {socket.AF_INET} | ({socket.AF_INET6} if any(host.version == 6 for host in hosts) else set())
        loop = asyncio.get_running_loop()
        sockets: dict[int, asyncio.DatagramTransport] = {}
        sending: asyncio.Task[None] | None = None
        try:
            for family in families:
                bind = ("0.0.0.0", 0) if family == socket.AF_INET else ("::", 0)  # noqa: S104  # answers come to any
                transport, _ = await loop.create_datagram_endpoint(lambda: _Answers(queue), bind, family=family)
                sockets[family] = transport
            sending = asyncio.create_task(self._send(sockets, hosts, timeout))
            try:
                async with asyncio.timeout(timeout):
                    for _ in range(MAX_ANSWERS):
                        self._take(*await queue.get())
                        await asyncio.sleep(0)
            except TimeoutError:
                pass
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            for transport in sockets.values():
                transport.close()
        return sorted(self._found.values(), key=lambda one: (not one.onvif, ipaddress.ip_address(one.address).packed))

    def _inside(self, address: IpAddress) -> bool:
        mine = self._networks
        return self._policy.allows_address(address) and (mine is None or any(address in network for network in mine))

    def _counts(self, address: IpAddress, port: int) -> bool:
        return self._inside(address) and self._policy.allows(address, port)

    def _take(self, data: bytes, sender: str) -> None:
        outcome = "not_allowed"
        if self._inside(ipaddress.ip_address(sender)):
            try:
                found = read_answer(data, sender, self._ids, self._counts)
                outcome = "ignored" if found is None else "listed"
            except BadXml:
                found, outcome = None, "malformed"
            before = self._found.get(sender)
            if found is not None and before is None and len(self._found) >= MAX_FOUND:
                outcome = "dropped"
            elif found is not None and (before is None or (found.onvif and not before.onvif)):
                self._found[sender] = found
        DISCOVERY_ANSWERS.labels(outcome=outcome).inc()

    async def _send(self, sockets: dict[int, asyncio.DatagramTransport], hosts: Sequence[IpAddress], timeout: float) -> None:
        """Every probe twice: datagrams get lost."""
        probes = [
            _PROBE.format(id=identity, types=types).encode() for identity, types in zip(self._ids, _TYPES, strict=True)
        ]
        for again in range(2):
            if again:
                await asyncio.sleep(timeout / 4)
            for probe in probes:
                self._multicast(sockets[socket.AF_INET], probe)
            for number, host in enumerate(hosts):
                for probe in probes:
                    sockets[socket.AF_INET if host.version == 4 else socket.AF_INET6].sendto(probe, (str(host), self._port))
                if number % (_PACE // len(probes)) == 0:
                    await asyncio.sleep(0.01)

    def _multicast(self, transport: asyncio.DatagramTransport, probe: bytes) -> None:
        """By every interface whose own address is allowed, one hop: the routing table knows one of them only."""
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as sending:
            for address in _interface_addresses(sending):
                if not self._policy.allows_address(ipaddress.ip_address(address)):
                    continue
                try:
                    sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
                    sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address)
                    sending.sendto(probe, (GROUP, self._port))
                except OSError as error:  # an interface that is down, or takes no multicast
                    log.info("discovery_interface", errno=error.errno)


def _interface_addresses(asking: socket.socket) -> list[bytes]:
    """The IPv4 address of each interface that has one, as four bytes (Linux: netdevice(7))."""
    found = []
    for _, name in socket.if_nameindex():
        try:
            found.append(fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))[20:24])
        except OSError:
            continue
    return found
