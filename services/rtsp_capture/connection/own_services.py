"""The service's own PostgreSQL, Redis, store and API: no camera's address leads there, by whatever name or form.

A part is known by its port and by the addresses that its name has, which are looked up every REFRESH_INTERVAL seconds, and
again before a camera at one of these ports is connected to. Of a part on this machine every address of this machine is
one: it may listen on all of them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from config import Settings
from services.rtsp_capture.connection.lookups import Lookups
from utils.exceptions import CaptureFailure
from utils.logger import Throttle, get_logger

log = get_logger(__name__)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
REFRESH_INTERVAL = 30.0  # seconds
FRESH = 2.0  # seconds for which a lookup holds when a camera at such a port is connected to
KEPT = 3600.0  # seconds for which an address counts after it was last among a name's: stores answer with others each time
_TIMEOUT = 2.0  # seconds of one lookup
_MAX_ADDRESSES = 256  # of one name
_LOG_INTERVAL = 600.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052, section 2.1


@dataclass(slots=True)
class OwnPart:
    """`host`: a name or an address; empty, or a socket's folder: this machine."""

    host: str
    port: int
    found: dict[IpAddress, float] = field(default_factory=dict)  # when it was last among the name's

    @property
    def here(self) -> bool:
        """Whether it is on this machine by what its setting says."""
        return not self.host or self.host.startswith("/")


def forms(address: IpAddress) -> list[IpAddress]:
    """The address, and the IPv4 address that it stands for (mapped, NAT64, 6to4)."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(address.packed[-4:])
    return [address] if inner is None else [address, inner]


def is_this_machine(address: IpAddress) -> bool:
    """Whether the address is one of this machine's. One that can be bound to is; asks the kernel, does not block."""
    if address.is_unspecified or address.is_loopback:
        return True
    v6 = address.version == 6
    places: list[tuple[str | int, ...]] = [(str(address), 0)]
    if v6 and address.is_link_local:
        places = [(str(address), 0, 0, index) for index, _ in socket.if_nameindex()]
    for place in places:
        try:
            with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM) as trial:
                trial.bind(place)
                return True
        except OSError:
            continue
    return False


class OwnServices:
    """One a process. `holds` does not block; from any thread."""

    def __init__(
        self, parts: Iterable[OwnPart], lookups: Lookups | None = None, *,
        clock: Callable[[], float] = time.monotonic, here: Callable[[IpAddress], bool] = is_this_machine,
    ) -> None:  # fmt: skip
        self._parts = [part for part in parts if part.port]
        self._lookups = lookups or Lookups(most=max(1, len(self._parts)))
        self._clock, self._here = clock, here
        self._refreshed = float("-inf")
        self._throttle = Throttle(_LOG_INTERVAL, clock)
        for part in self._parts:
            try:
                part.found[ipaddress.ip_address(part.host)] = float("inf")
            except ValueError:
                continue

    def holds(self, address: IpAddress, port: int) -> bool:
        """Whether a connection there reaches a part of ours."""
        parts = [part for part in self._parts if part.port == port]
        if not parts:
            return False
        wanted = set(forms(address))
        local = any(map(self._here, wanted))
        for part in parts:
            found = {form for known in list(part.found) for form in forms(known)}
            if wanted & found or (local and (part.here or any(map(self._here, found)))):
                return True
        return False

    def named(self, host: str, port: int) -> bool:
        """Whether this is the name by which a setting names a part."""
        name = host.lower().rstrip(".")
        return any(part.port == port and part.host.lower().rstrip(".") == name for part in self._parts if part.host)

    async def fresh(self, port: int) -> None:
        """Looks the names up again if a part has this port and the last time was more than FRESH seconds ago."""
        if any(part.port == port for part in self._parts) and self._clock() - self._refreshed > FRESH:
            await self.refresh()

    async def refresh(self) -> None:
        """Looks all names up; of one that is not answered the known addresses stay. Raises nothing."""
        names = {part.host for part in self._parts if not part.here and float("inf") not in part.found.values()}
        await asyncio.gather(*(self._look_up(name) for name in names))
        self._refreshed = self._clock()

    async def _look_up(self, name: str) -> None:
        try:
            addresses = await self._lookups.addresses(name, _TIMEOUT)
        except CaptureFailure as failure:
            if (withheld := self._throttle.allow(name)) is not None:
                log.warning("own_service_unresolved", host=name, reason=failure.message, withheld=withheld)
            return
        now = self._clock()
        seen = {ipaddress.ip_address(text.partition("%")[0]): now for text in addresses}
        for part in self._parts:
            if part.host == name:
                kept = {address: at for address, at in part.found.items() if now - at < KEPT} | seen
                part.found = dict(sorted(kept.items(), key=lambda item: -item[1])[:_MAX_ADDRESSES])


def own_services(settings: Settings, more_ports: Iterable[int] = ()) -> OwnServices:
    """Those that the settings name, which must name the embedded parts, too. `more_ports`: of this machine."""
    db, redis, api, store = settings.DB, settings.REDIS, settings.API, settings.STORAGE
    parts = [OwnPart(db.HOST, db.PORT), OwnPart(redis.HOST, redis.PORT), OwnPart(api.HOST, api.PORT)]
    if db.DIRECT_HOST:
        parts.append(OwnPart(db.DIRECT_HOST, db.DIRECT_PORT))
    parts += [_endpoint(text, secure=store.SECURE) for text in (store.ENDPOINT, store.PUBLIC_ENDPOINT) if text]
    return OwnServices([*parts, *(OwnPart("", port) for port in more_ports)])


def _endpoint(text: str, *, secure: bool) -> OwnPart:
    """host:port or a URL."""
    url = urlsplit(text if "://" in text else f"{'https' if secure else 'http'}://{text}")
    return OwnPart(url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
