"""Finds cameras: a search of the allowed networks, or one device's streams. Stores nothing.

On the event loop. The answers show URLs as everywhere, without login and query; the whole URL of a stream is in its
`rtsp_ref`, sealed for the caller who got it.
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import replace
from typing import Any, Literal

from config import RtspSettings
from models.access import CameraGrant, Principal
from models.schemas import DiscoveredCamera, DiscoverRequest, DiscoverResponse, MediaProfile
from repositories.database import Database
from services.cameras.onvif.device import Device, OnvifDevice, Profile
from services.cameras.onvif.http_post import http_address
from services.cameras.onvif.search import MAX_TARGETS, Network, Search
from services.cameras.onvif.soap import SoapClient
from services.cameras.places import CameraPlaces, packed, principal_of
from services.cameras.stream_refs import StreamRefs
from services.execution.calls import CallAnswer
from services.rtsp_capture.connection.camera_address import AddressPolicy, CameraAddress, parse_rtsp_url
from utils.concurrency_limit import ConcurrencyLimit
from utils.exceptions import (
    AddressNotAllowed,
    CameraFailed,
    CaptureFailure,
    IngestionException,
    InvalidRequest,
    Overloaded,
    SecretUnreadable,
)
from utils.logger import get_logger
from utils.metrics import DISCOVERIES
from utils.secret_box import SecretBox
from utils.urls import mask_url

log = get_logger(__name__)

AT_ONCE = 4
DISCOVER_SECONDS = 90.0  # that another process may take, its turn included
MAX_WAITING = 16
DEVICE_SECONDS = 20.0  # for all questions to one device
MAX_REGISTERED = 5000  # cameras whose addresses are compared
DEVICE_PATH = "/onvif/device_service"  # Core Specification, section 5.1.2 (entry point)


class Discovery:
    """Raises AddressNotAllowed, InvalidRequest, Overloaded, DatabaseUnavailable beside what its methods name."""

    def __init__(
        self, settings: RtspSettings, database: Database, secrets: SecretBox, policy: AddressPolicy,
        refs: StreamRefs, places: CameraPlaces,
    ) -> None:  # fmt: skip
        self._places = places
        self._settings, self._database, self._secrets, self._policy, self._refs = settings, database, secrets, policy, refs
        self._limit = ConcurrencyLimit(
            AT_ONCE, MAX_WAITING, "Cameras are being searched already, and others wait for it. Try again."
        )

    async def discover(self, body: DiscoverRequest, who: Principal) -> DiscoverResponse:
        """By a process of the site. Raises CameraFailed with a capture's code and NotOnvif for the device that was asked,
        NoWorker."""
        if self._places.serves(body.site):
            return await self._discover(body, who)
        shown = body.model_dump(mode="json", exclude_none=True)
        if body.password is not None:
            shown["password"] = body.password.get_secret_value()
        asked = {"body": shown, "who": packed(who)}
        answer = await self._places.ask("discover", asked, site=body.site, seconds=DISCOVER_SECONDS)
        return DiscoverResponse.model_validate(answer.body)

    async def discover_for_another(self, asked: Any) -> CallAnswer:
        """What another process asks by `discover`."""
        body = DiscoverRequest.model_validate(asked["body"])
        return CallAnswer((await self._discover(body, principal_of(asked["who"]))).model_dump(mode="json"))

    async def _discover(self, body: DiscoverRequest, who: Principal) -> DiscoverResponse:
        kind: Literal["device", "search"] = "search" if body.address is None else "device"
        try:
            if body.address is None:
                networks = self._networks(body.networks)
                async with self._limit.permit():
                    answer = await self._search(networks, body.timeout_s, who.cameras)
            else:
                at = self._device_address(body.address)
                async with self._limit.permit():
                    answer = await self._describe(at, body, who)
        except IngestionException as error:
            DISCOVERIES.labels(kind=kind, outcome=error.code).inc()
            log.info("discovery_failed", kind=kind, code=error.code)
            raise
        DISCOVERIES.labels(kind=kind, outcome="ok").inc()
        log.info("cameras_discovered", kind=kind, found=len(answer.items))
        return answer

    # -- a search ----------------------------------------------------------------------------------------------

    def _networks(self, texts: list[str] | None) -> list[Network] | None:
        if texts is None:
            return None
        networks = [ipaddress.ip_network(text) for text in texts]
        if not all(self._policy.allows_network(network) for network in networks):
            raise AddressNotAllowed("A network is outside RTSP__ALLOWED_NETWORKS.")
        if sum(network.num_addresses for network in networks) > MAX_TARGETS:
            raise InvalidRequest.of("networks", f"have more than {MAX_TARGETS} addresses", code="too_many_addresses")
        return networks

    async def _search(self, networks: list[Network] | None, timeout: float, cameras: CameraGrant) -> DiscoverResponse:
        try:
            found = await Search(self._policy, networks).run(timeout)
        except OSError:
            raise Overloaded("No socket for the search can be opened. Try again.") from None
        registered = await self._registered(cameras) if found else {}
        return DiscoverResponse(
            items=[
                DiscoveredCamera(
                    address=one.address, xaddr=mask_url(one.xaddr) if one.xaddr else None, name=one.name,
                    hardware=one.hardware, onvif=one.onvif, registered_as=registered.get(one.address),
                    clock_offset_s=None, profiles=None,
                )
                for one in found
            ]
        )  # fmt: skip

    async def _registered(self, cameras: CameraGrant) -> dict[str, str]:
        """The camera registered first with each host, of those that the caller may see. Names are not resolved."""
        async with self._database.reading() as uow:
            rows = await uow.cameras.find(cameras, after=None, limit=MAX_REGISTERED)
        found: dict[str, str] = {}
        for index, row in enumerate(rows):
            if index % 50 == 49:  # opening fifty takes 2 ms
                await asyncio.sleep(0)
            try:
                host = parse_rtsp_url(self._secrets.open(row.rtsp_url)).host
            except (SecretUnreadable, InvalidRequest):
                continue
            found.setdefault(host, row.camera_id)
        return found

    # -- one device --------------------------------------------------------------------------------------------

    def _device_address(self, text: str) -> CameraAddress:
        bare = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
        at = http_address(text if "://" in text else f"http://{bare}{DEVICE_PATH}")
        if at is None or "@" in text:
            raise InvalidRequest.of("address", "must be an IP address or a name, with :port, or an xaddr", code="address")
        self._policy.check_literal(at)
        return at

    async def _describe(self, at: CameraAddress, body: DiscoverRequest, who: Principal) -> DiscoverResponse:
        login = None if body.username is None or body.password is None else (body.username, body.password.get_secret_value())
        client = SoapClient(at, self._policy, login, body.timeout_s, tls_verify=self._settings.TLS_VERIFY)
        try:
            async with asyncio.timeout(DEVICE_SECONDS):
                device = await OnvifDevice(client).describe()
        except TimeoutError:
            raise CameraFailed("read_timeout", "The device answered too slowly.", retryable=True) from None
        except CaptureFailure as failure:
            if failure.code == "address_not_allowed":
                raise AddressNotAllowed(failure.message) from None
            raise CameraFailed(failure.code, failure.message, retryable=failure.retryable) from None
        registered = await self._registered(who.cameras)
        return DiscoverResponse(items=[self._shown(at, device, registered.get(at.host), login, who)])

    def _shown(
        self, at: CameraAddress, device: Device, registered_as: str | None, login: tuple[str, str] | None, who: Principal
    ) -> DiscoveredCamera:
        offset = device.clock_offset
        return DiscoveredCamera(
            address=at.host, xaddr=mask_url(at.url()), name=device.name, hardware=device.hardware, onvif=True,
            registered_as=registered_as, clock_offset_s=round(offset, 1) if offset is not None else None,
            profiles=[self._profile(profile, login, who) for profile in device.profiles],
        )  # fmt: skip

    def _profile(self, profile: Profile, login: tuple[str, str] | None, who: Principal) -> MediaProfile:
        code = url = None
        try:
            stream = parse_rtsp_url(profile.stream_url or "")
            self._policy.check_literal(stream)
            url = profile.stream_url
            if login is not None:
                url = replace(stream, username=login[0], password=login[1]).url(credentials=True)
        except InvalidRequest:
            code = "stream_not_found"
        except AddressNotAllowed:
            code = "address_not_allowed"
        snapshot = http_address(profile.snapshot_url or "")
        try:
            if snapshot is not None:
                self._policy.check_literal(snapshot)
        except AddressNotAllowed:
            snapshot = None
        return MediaProfile(
            token=profile.token, name=profile.name, codec=profile.codec, width=profile.width, height=profile.height,
            fps=profile.fps, bitrate_bps=profile.bitrate_bps, rtsp_url=mask_url(url) if url else None,
            rtsp_ref=self._refs.seal(url, who) if url else None, snapshot_uri=mask_url(snapshot.url()) if snapshot else None,
            code=code,
        )  # fmt: skip
