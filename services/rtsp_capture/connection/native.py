"""The reader `native`: our own RTSP client, on one event loop for the sockets of all cameras (`io_loop`).

The connection on which the camera is asked is the one that its pictures come by: a camera with one place is captured,
and what answered the questions is what sends.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable

from config import RtspSettings
from services.rtsp_capture.connection.address import AddressPolicy
from services.rtsp_capture.connection.dial import dial
from services.rtsp_capture.connection.io_loop import IoLoop, Linked
from services.rtsp_capture.connection.native_media import NativeMedia
from services.rtsp_capture.connection.preflight import conversation_with
from services.rtsp_capture.connection.reader import Connection, ConnectionEnd, ConnectionPlan
from services.rtsp_capture.connection.rtsp.conversation import Conversation, Playing
from services.rtsp_capture.connection.rtsp.framing import Data
from services.rtsp_capture.connection.rtsp_client import RtspClient
from services.rtsp_capture.connection.udp import UdpPair
from utils.exceptions import CaptureFailure
from utils.logger import get_logger

log = get_logger(__name__)

_SILENCE_CHECKS = 8  # in RTSP__READ_TIMEOUT
_QUIET = 0.05  # seconds without a packet after which nothing more of a picture is waited for
_MAX_KNOWN = 10_000


class _Known:
    """A bounded set of what was learnt about cameras."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()
        self._salt = os.urandom(16)

    def _key(self, *parts: object) -> bytes:
        return hashlib.blake2b(repr(parts).encode(), key=self._salt, digest_size=16).digest()

    def add(self, *parts: object) -> None:
        self._keys[self._key(*parts)] = None
        if len(self._keys) > _MAX_KNOWN:
            self._keys.popitem(last=False)

    def __contains__(self, parts: tuple[object, ...]) -> bool:
        return self._key(*parts) in self._keys


class NativeConnector:
    """Connects to cameras. One a process: it remembers whose login was accepted, and who hangs up on OPTIONS."""

    def __init__(self, settings: RtspSettings, policy: AddressPolicy) -> None:
        self._settings, self._policy = settings, policy
        self._io = IoLoop()
        self._proven = _Known()
        self._no_options = _Known()

    async def __call__(self, plan: ConnectionPlan) -> Connection:
        """Raises CaptureFailure; its message holds neither URL nor credentials."""
        return await Linked(self._io, plan).begin(self._connect)

    async def close(self) -> None:
        """Once all connections have ended."""
        await self._io.close()

    async def _connect(self, plan: ConnectionPlan) -> Connection:
        """On the sockets' loop, as all that follows."""
        camera = plan.address
        if (camera.host, camera.port) not in self._no_options:
            try:
                return await self._attempt(plan, ask_options=True)
            except _HungUpOnOptions:
                self._no_options.add(camera.host, camera.port)
        return await self._attempt(plan, ask_options=False)

    async def _attempt(self, plan: ConnectionPlan, *, ask_options: bool) -> Connection:
        settings, camera = self._settings, plan.address
        login = (camera.host, camera.port, camera.username, camera.password)
        timeout = settings.OPEN_TIMEOUT
        address, client = await dial(
            camera, self._policy, timeout, lambda: RtspClient(timeout), tls_verify=settings.TLS_VERIFY
        )
        conversation = conversation_with(camera, proven=login in self._proven)
        connection = NativeConnection(plan, settings, client, conversation)
        try:
            if ask_options:
                await _options(client, conversation, timeout)
            await connection.begin(address)
        except ConnectionError:
            await connection.give_up()
            raise CaptureFailure(
                "stream_ended", "The camera closed the connection or answered something that is not RTSP."
            ) from None
        except BaseException:
            await connection.give_up()
            raise
        self._proven.add(*login)
        return connection


class _HungUpOnOptions(Exception):
    """The camera closed the connection instead of answering."""


async def _options(client: RtspClient, conversation: Conversation, timeout: float) -> None:
    """What the camera knows, where it answers soon."""
    try:
        async with asyncio.timeout(min(1.0, timeout / 3)):
            await client.run(conversation.options())
    except ConnectionError:
        raise _HungUpOnOptions from None
    except TimeoutError:
        pass
    if client.closed:
        raise _HungUpOnOptions


class NativeConnection:
    """One connection (`reader.Connection`). `begin` asks the camera; then packets come until `ended`."""

    def __init__(
        self, plan: ConnectionPlan, settings: RtspSettings, client: RtspClient, conversation: Conversation
    ) -> None:
        self._plan, self._settings = plan, settings
        self._client, self._conversation = client, conversation
        self._loop = asyncio.get_running_loop()
        self._media: NativeMedia | None = None
        self._udp: UdpPair | None = None
        self._silent = 0  # checks in a row in which no packet had come
        self._heard = False
        self._checking: asyncio.TimerHandle | None = None
        self._quiet: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[ConnectionEnd] = self._loop.create_future()

    async def begin(self, address: str) -> None:
        """Asks for the camera's video; `address` is the one connected to. Raises CaptureFailure, ConnectionError."""
        client, conversation = self._client, self._conversation
        track = await client.run(conversation.describe())
        by_udp = self._plan.transport == "udp"
        if by_udp:
            self._udp = await UdpPair.open(client.local_address, address, self._datagram)
        playing = await client.run(conversation.setup(track, self._udp.ports if self._udp is not None else None))
        channels = (0, 1) if by_udp else playing.channels
        plan, settings = self._plan, self._settings
        self._media = NativeMedia(
            plan, track, channels, lossy=by_udp, max_pixels=settings.MAX_PIXELS, max_offset=settings.MAX_CLOCK_OFFSET
        )
        if self._udp is None:
            client.expect(channels)
        else:
            for index, port in enumerate(playing.channels):
                self._udp.send(index, port, b"\x80" + bytes(11))  # opens firewalls on the way, as FFmpeg does
        await client.run(conversation.start(playing))
        if client.closed:
            raise ConnectionError
        client.on_end = self._hung_up
        client.keep_alive(conversation, playing, self._report_by(playing))
        self._checking = self._loop.call_later(settings.READ_TIMEOUT / _SILENCE_CHECKS, self._check_silence)
        client.deliver(self._on_data)

    def _report_by(self, playing: Playing) -> Callable[[bytes], None] | None:
        udp = self._udp
        return None if udp is None else lambda report: udp.send(1, playing.channels[1], report)

    # -- packets -----------------------------------------------------------------------------------------------

    def _datagram(self, channel: int, data: bytes) -> None:
        self._on_data([Data(channel, data)])

    def _on_data(self, packets: list[Data | None]) -> None:
        if self._media is None or self.ended.done():
            return
        try:
            heard, goodbye = self._media.take(packets)
        except Exception as error:
            self._failed(error)
            return
        self._heard |= heard
        if goodbye:
            self._finish(CaptureFailure("stream_ended", "The camera said that it ends the stream."), goodbye=True)
            return
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        if self._media.waits:
            self._quiet = self._loop.call_later(_QUIET, self._flush)

    def _flush(self) -> None:
        self._quiet = None
        if self._media is not None and not self.ended.done():
            try:
                self._media.flush()
            except Exception as error:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Nothing that a camera sends may end more than its own connection."""
        if not isinstance(error, CaptureFailure):
            log.error("stream_not_understood", camera_id=self._plan.name, exc_info=error)
            error = CaptureFailure("stream_ended", f"Reading the stream failed ({type(error).__name__}).")
        self._finish(error)

    def _check_silence(self) -> None:
        """In a process that was suspended, one check finds everything silent: that is one of several."""
        self._silent = 0 if self._heard else self._silent + 1
        self._heard = False
        if self._silent >= _SILENCE_CHECKS:
            self._finish(CaptureFailure("read_timeout", "The camera sent nothing for RTSP__READ_TIMEOUT seconds."))
        else:
            self._checking = self._loop.call_later(self._settings.READ_TIMEOUT / _SILENCE_CHECKS, self._check_silence)

    def _hung_up(self) -> None:
        self._finish(CaptureFailure("stream_ended", "The camera ended the stream or closed the connection."))

    # -- the end -----------------------------------------------------------------------------------------------

    @property
    def reported(self) -> bool:
        return self._media is not None and self._media.reported

    def stop(self) -> None:
        self._finish(None)

    def abandon(self, failure: CaptureFailure) -> bool:
        self._finish(failure)
        return True

    async def join(self) -> None:
        """Nothing is left once it has ended."""

    async def give_up(self) -> None:
        """It could not be begun."""
        self._finish(None)

    def _finish(self, failure: CaptureFailure | None, *, goodbye: bool = False) -> None:
        if self.ended.done():
            return
        for timer in (self._checking, self._quiet):
            if timer is not None:
                timer.cancel()
        count = 0
        if self._media is not None:
            self._media.close()
            count = self._media.count
        self._client.close(self._conversation)
        if self._udp is not None:
            self._udp.close()
        self.ended.set_result(ConnectionEnd(failure, count, goodbye))
