"""What an ONVIF device says of itself and of its streams. Nothing in the device is changed.

Order: its time (which asks for no login, and dates the logins that follow: Core Specification, section 8.3.7), its
services, what it is, its media profiles, and for each profile where its stream and its snapshot are. Media2 is asked where
there is one: the first Media service knows no H.265.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import unquote
from xml.etree.ElementTree import Element  # a type
from xml.sax.saxutils import escape  # escapes only

from services.cameras.onvif.http_post import http_address
from services.cameras.onvif.safe_xml import child, number, text
from services.cameras.onvif.soap import Fault, SoapClient
from services.rtsp_capture.connection.camera_address import CameraAddress
from utils.exceptions import CaptureFailure, NotOnvif

MAX_PROFILES = 64
SCOPE = "onvif://www.onvif.org/"
_DEVICE = "http://www.onvif.org/ver10/device/wsdl"
_MEDIA1 = "http://www.onvif.org/ver10/media/wsdl"
_MEDIA2 = "http://www.onvif.org/ver20/media/wsdl"
_SCHEMA = "http://www.onvif.org/ver10/schema"
_CODECS = {"h264": "h264", "h265": "h265", "hevc": "h265", "jpeg": "mjpeg", "mpeg4": "mpeg4", "mpv4-es": "mpeg4"}


@dataclass(frozen=True, slots=True)
class Profile:
    """One stream of a device. The URLs are as the device gave them: for its login, and not to be shown."""

    token: str
    name: str | None
    codec: str | None
    width: int | None
    height: int | None
    fps: float | None
    bitrate_bps: int | None
    stream_url: str | None = None
    snapshot_url: str | None = None


@dataclass(frozen=True, slots=True)
class Device:
    name: str | None
    hardware: str | None
    clock_offset: float | None  # seconds, the device's clock minus ours; null when it did not say
    profiles: list[Profile]


def name_and_hardware(scopes: list[str]) -> tuple[str | None, str | None]:
    """What the scopes say (Core Specification, section 7.3.2.2): of each the first."""
    said: dict[str, str] = {}
    for scope in scopes:
        kind, _, value = scope.removeprefix(SCOPE).partition("/")
        if scope.startswith(SCOPE) and (shown := shown_text(unquote(value))) is not None:
            said.setdefault(kind, shown)
    return said.get("name"), said.get("hardware")


def shown_text(value: str | None) -> str | None:
    """A device's word for itself, fit to be shown: printable, at most 200 characters."""
    kept = "".join(char for char in value or "" if char.isprintable()).strip()[:200]
    return kept or None


class OnvifDevice:
    """The questions to one device. Raises CaptureFailure and NotOnvif."""

    def __init__(self, client: SoapClient, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._client = client
        self._now = now

    async def describe(self) -> Device:
        """All of it; what a device does not know of itself is None."""
        offset = await self._read_clock()
        services = await self._services()
        name, hardware = await self._identity()
        media2 = services.get(_MEDIA2)
        profiles = await self._profiles(media2, two=True) if media2 is not None else []
        if not profiles:
            if (media1 := services.get(_MEDIA1)) is None:
                raise NotOnvif("The device has no media service.")
            profiles = await self._profiles(media1, two=False)
        return Device(name, hardware, offset, profiles)

    async def _read_clock(self) -> float | None:
        try:
            said = await self._client.call(f'<GetSystemDateAndTime xmlns="{_DEVICE}"/>', anonymous=True)
        except Fault:
            return None
        except CaptureFailure as failure:
            if failure.code != "unauthorized_camera":
                raise
            return None  # against the specification; it will say when a login is wrong
        if said.tag != "GetSystemDateAndTimeResponse":
            raise NotOnvif
        utc = child(said, "SystemDateAndTime", "UTCDateTime")
        parts = [text(utc, "Date", part) for part in ("Year", "Month", "Day")]
        parts += [text(utc, "Time", part) for part in ("Hour", "Minute", "Second")]
        try:
            at = datetime(*(int(part or "") for part in parts), tzinfo=UTC)  # type: ignore[arg-type, misc]
            self._client.offset = at - self._now()
            self._now() + self._client.offset  # a clock in the year 9999 must leave room for the seconds to come
        except (ValueError, OverflowError):
            return None
        return self._client.offset.total_seconds()

    async def _services(self) -> dict[str, CameraAddress]:
        """Where each service is, by its namespace; of the address, its host is not used (SoapClient.call)."""
        found: dict[str, CameraAddress] = {}
        try:
            said = await self._client.call(
                f'<GetServices xmlns="{_DEVICE}"><IncludeCapability>false</IncludeCapability></GetServices>'
            )
            for one in said:
                namespace, where = text(one, "Namespace"), http_address(text(one, "XAddr") or "")
                if namespace in (_MEDIA1, _MEDIA2) and where is not None:
                    found.setdefault(namespace, where)
        except Fault:
            pass
        if not found:
            try:
                said = await self._client.call(
                    f'<GetCapabilities xmlns="{_DEVICE}"><Category>All</Category></GetCapabilities>'
                )
            except Fault:
                raise NotOnvif("The device does not say where its media service is.") from None
            where = http_address(text(said, "Capabilities", "Media", "XAddr") or "")
            if where is not None:
                found[_MEDIA1] = where
        return found

    async def _identity(self) -> tuple[str | None, str | None]:
        name = hardware = None
        try:
            said = await self._client.call(f'<GetScopes xmlns="{_DEVICE}"/>')
            name, hardware = name_and_hardware([text(scope, "ScopeItem") or "" for scope in said])
        except Fault:
            pass
        if name is None or hardware is None:
            try:
                said = await self._client.call(f'<GetDeviceInformation xmlns="{_DEVICE}"/>')
                maker, model = shown_text(text(said, "Manufacturer")), shown_text(text(said, "Model"))
                name = name or shown_text(f"{maker or ''} {model or ''}")
                hardware = hardware or model
            except Fault:
                pass
        return name, hardware

    async def _profiles(self, at: CameraAddress, *, two: bool) -> list[Profile]:
        namespace = _MEDIA2 if two else _MEDIA1
        wanted = "<Type>VideoEncoder</Type>" if two else ""
        try:
            said = await self._client.call(f'<GetProfiles xmlns="{namespace}">{wanted}</GetProfiles>', at=at)
        except Fault:
            if two:
                return []
            raise NotOnvif("The device does not say what its media profiles are.") from None
        found = []
        for one in [element for element in said if element.tag == "Profiles"][:MAX_PROFILES]:
            token = one.get("token")
            encoder = child(one, "Configurations", "VideoEncoder") if two else child(one, "VideoEncoderConfiguration")
            if token and len(token) <= 200 and encoder is not None:
                found.append(await self._located(_profile(token, one, encoder), at, two=two))
        return found

    async def _located(self, profile: Profile, at: CameraAddress, *, two: bool) -> Profile:
        """The profile with where its stream and its snapshot are."""
        token = f"<ProfileToken>{escape(profile.token)}</ProfileToken>"
        namespace = _MEDIA2 if two else _MEDIA1
        if two:
            stream = f'<GetStreamUri xmlns="{namespace}"><Protocol>RTSP</Protocol>{token}</GetStreamUri>'
        else:
            stream = (
                f'<GetStreamUri xmlns="{namespace}"><StreamSetup><Stream xmlns="{_SCHEMA}">RTP-Unicast</Stream>'
                f'<Transport xmlns="{_SCHEMA}"><Protocol>RTSP</Protocol></Transport></StreamSetup>{token}</GetStreamUri>'
            )
        urls = []
        for body in (stream, f'<GetSnapshotUri xmlns="{namespace}">{token}</GetSnapshotUri>'):
            try:
                said: Element | None = await self._client.call(body, at=at)
            except Fault:
                said = None
            except CaptureFailure as failure:
                if failure.code != "unauthorized_camera":
                    raise
                said = None  # the login held until here: this user may not see this stream
            urls.append(text(said, "Uri") or text(said, "MediaUri", "Uri"))
        return replace(profile, stream_url=urls[0], snapshot_url=urls[1])


def _profile(token: str, one: Element, encoder: Element) -> Profile:
    width, height = number(encoder, "Resolution", "Width"), number(encoder, "Resolution", "Height")
    codec = (text(encoder, "Encoding", limit=40) or "").lower()
    bitrate = number(encoder, "RateControl", "BitrateLimit")  # kilobits
    return Profile(
        token, shown_text(text(one, "Name")), _CODECS.get(codec, shown_text(codec)), int(width) if width else None,
        int(height) if height else None, number(encoder, "RateControl", "FrameRateLimit"),
        int(bitrate * 1000) if bitrate else None,
    )  # fmt: skip
