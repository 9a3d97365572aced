"""Where a camera is, and whether the operator allows going there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from config import EVERY_PORT, Settings
from services.rtsp_capture.connection.lookups import Lookups
from services.rtsp_capture.connection.own_services import IpAddress, OwnServices, forms
from utils.exceptions import AddressNotAllowed, CaptureFailure, InvalidRequest

DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322}  # RFC 7826, sections 4.2 and 22.14
# Clouds answer here with their machines' credentials; some lie inside private networks.
METADATA_ADDRESSES = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
OUTSIDE = "The camera's address is outside RTSP__ALLOWED_NETWORKS, or belongs to the service itself."
WRONG_PORT = "The camera's port is not among RTSP__ALLOWED_PORTS."


@dataclass(frozen=True, slots=True)
class CameraAddress:
    """A camera's URL in its parts; user and password decoded. `repr` shows neither."""

    scheme: str
    host: str
    port: int
    target: str  # path and query, as sent
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"CameraAddress({self.scheme}://{self.host}:{self.port})"

    @property
    def tls(self) -> bool:
        return self.scheme == "rtsps"

    def url(self, *, host: str | None = None, credentials: bool = False) -> str:
        """The URL, optionally to another host (the address that a name was resolved to), optionally with credentials.

        User and password are percent-encoded part by part: FFmpeg misreads `@ / : # ? %` otherwise.
        """
        name = host or self.host
        name = f"[{name}]" if ":" in name else name
        user = ""
        if credentials and self.username is not None:
            user = quote(self.username, safe="")
            user += f":{quote(self.password, safe='')}@" if self.password is not None else "@"
        return f"{self.scheme}://{user}{name}:{self.port}{self.target}"


def parse_rtsp_url(url: str) -> CameraAddress:
    """The parts of an rtsp:// or rtsps:// URL. Raises InvalidRequest, which never repeats the URL."""

    def bad(why: str) -> InvalidRequest:
        return InvalidRequest.of("rtsp_url", why, code="rtsp_url")

    if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in url) or "\\" in url:
        raise bad("has a space, backslash or control character: percent-encode it")
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in DEFAULT_PORTS:
        raise bad("must begin with rtsp:// or rtsps://")
    # Up to the last @ before the path: a raw @ in a password is common in what people paste.
    authority, slash, path = rest.partition("/")
    if "@" not in authority and "@" in path.split("?")[0] and ":" in authority and not _is_host_and_port(authority):
        raise bad("has a / in its password: percent-encode it as %2F")
    if "@" in authority and "@" in path.split("?")[0]:
        # Either belongs to the password, and then the host is another one, or to the path: which one is not known.
        raise bad("has an @ before and after a /: percent-encode those that do not end the password as %40, the / as %2F")
    userinfo, _, hostport = authority.rpartition("@")
    try:
        parts = urlsplit(f"rtsp://{hostport}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise bad("has no valid host and port") from error
    if not host or port == 0:
        raise bad("has no valid host and port")
    if "#" in path or "?" in hostport or "#" in hostport:
        raise bad("has a # or ? where it cannot stand: percent-encode it")
    user, colon, password = userinfo.partition(":")
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in unquote(userinfo)):
        raise bad("has a control character in its user name or password")
    return CameraAddress(
        scheme.lower(), host, port or DEFAULT_PORTS[scheme.lower()], f"/{path}" if slash else "/",
        unquote(user) if userinfo else None, unquote(password) if colon else None,
    )  # fmt: skip


def _is_host_and_port(text: str) -> bool:
    """Whether `text` is certainly a host and its port, rather than a user and the beginning of a password."""
    host, _, port = text.rpartition(":")
    return port.isdigit() and ("." in host or host.startswith("["))


class AddressPolicy:
    """Which addresses camera URLs may point to: networks as CIDRs, and ports; minus the service's own parts.

    A metadata address is allowed only by a network of that one address; a part of ours only by such a network and a port
    that is listed by itself. On any event loop.
    """

    def __init__(
        self, networks: Iterable[str], ports: Iterable[str] = EVERY_PORT, own: OwnServices | None = None,
        lookups: Lookups | None = None,
    ) -> None:  # fmt: skip
        """`ports`: numbers, or first-last."""
        self._networks = [ipaddress.ip_network(network) for network in networks]
        ranges = [(first, last or first) for first, _, last in (text.partition("-") for text in ports)]
        self._ports = [range(int(first), int(last) + 1) for first, last in ranges]
        self._own = own or OwnServices(())
        self._lookups = lookups or Lookups()

    def allows(self, address: IpAddress, port: int) -> bool:
        """Does not block."""
        found = forms(address)
        holding = self._holding(address)
        by_itself = any(network.num_addresses == 1 for network in holding)
        if any(form in METADATA_ADDRESSES for form in found):
            return by_itself and self.allows_port(port)
        if self._own.holds(address, port) and not (by_itself and any(len(r) == 1 and port in r for r in self._ports)):
            return False
        return bool(holding) and self.allows_port(port)

    def _holding(self, address: IpAddress) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The allowed networks in which it lies."""
        judged = getattr(address, "ipv4_mapped", None) or address
        return [network for network in self._networks if judged.version == network.version and judged in network]

    def allows_port(self, port: int) -> bool:
        return any(port in ports for ports in self._ports)

    def allows_address(self, address: IpAddress) -> bool:
        """Whether it lies in a network that is allowed, whatever the port; nothing is known of the service's own parts."""
        holding = self._holding(address)
        if any(form in METADATA_ADDRESSES for form in forms(address)):
            return any(network.num_addresses == 1 for network in holding)
        return bool(holding)

    def allows_network(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
        """Whether the whole network lies in an allowed one."""
        same = [one for one in self._networks if one.version == network.version]
        return any(network.subnet_of(one) for one in same)  # type: ignore[arg-type]  # of one version

    def check_literal(self, camera: CameraAddress) -> None:
        """Raises AddressNotAllowed for a port, or an IP literal, outside; a name is judged when it is connected to."""
        if not self.allows_port(camera.port):
            raise AddressNotAllowed(WRONG_PORT)
        try:
            address = ipaddress.ip_address(camera.host.partition("%")[0])
        except ValueError:
            return
        if not self.allows(address, camera.port):
            raise AddressNotAllowed(OUTSIDE)

    async def resolve(self, camera: CameraAddress, timeout: float) -> list[str]:
        """The camera's allowed IP addresses, resolved once. Raises CaptureFailure dns_failure, address_not_allowed."""
        if not self.allows_port(camera.port):
            raise CaptureFailure("address_not_allowed", WRONG_PORT)
        addresses = await self._lookups.addresses(camera.host, timeout)
        await self._own.fresh(camera.port)
        allowed = [text for text in addresses if self.allows(ipaddress.ip_address(text.partition("%")[0]), camera.port)]
        if allowed:
            return allowed
        raise CaptureFailure("address_not_allowed", OUTSIDE)


def camera_policy(settings: Settings, own: OwnServices) -> AddressPolicy:
    """Where cameras may be."""
    return AddressPolicy(settings.camera_networks, settings.camera_ports, own)
