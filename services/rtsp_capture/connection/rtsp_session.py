"""A session with a camera, up to PLAY: one connection to the judged address, asked and set up. On the sockets' loop."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from config import RtspSettings
from services.rtsp_capture.connection.camera_address import AddressPolicy, CameraAddress
from services.rtsp_capture.connection.dial import dial, tls_context
from services.rtsp_capture.connection.rtsp.conversation import Conversation, Playing
from services.rtsp_capture.connection.rtsp.framing import Data
from services.rtsp_capture.connection.rtsp.login import Login
from services.rtsp_capture.connection.rtsp.sdp import VideoTrack
from services.rtsp_capture.connection.rtsp_client import RtspClient
from services.rtsp_capture.connection.udp import UdpPair
from utils.exceptions import CaptureFailure

_MAX_KNOWN = 10_000
_MAX_EARLY = 2000  # datagrams: a first picture of 3 MB
_PUNCH = b"\x80" + bytes(11)  # opens firewalls on the way, as FFmpeg does
OnPackets = Callable[[list[Data | None]], None]


@dataclass(slots=True)
class RtspSession:
    """What was agreed, and what it goes over."""

    client: RtspClient
    conversation: Conversation
    track: VideoTrack
    playing: Playing
    udp: UdpPair | None
    on_packets: OnPackets | None = None
    _hold: Callable[[bytes | Data], None] | None = None
    _early: list[Data | None] = field(default_factory=list)  # datagrams that came before `start` was done

    @property
    def channels(self) -> tuple[int, int]:
        """Of RTP and RTCP."""
        return (0, 1) if self.udp is not None else self.playing.channels

    async def start(
        self, on_packets: OnPackets, on_end: Callable[[], None], hold: Callable[[bytes | Data], None] | None = None
    ) -> None:
        """PLAY; packets then come, None for data that was lost. Raises CaptureFailure, ConnectionError.

        `hold` takes what comes from then on as it is, datagrams or bytes, which `client.understand` is to be given later.
        """
        await self.client.run(self.conversation.start(self.playing))
        if self.client.closed:
            raise ConnectionError
        self.client.on_end = on_end
        self.client.keep_alive(self.conversation, self.playing, self._report if self.udp is not None else None)
        self.on_packets = on_packets
        early, self._early = self._early, []
        if early:
            on_packets(early)
        self.client.deliver(on_packets)
        self._hold = self.client.hold = hold

    def datagram(self, channel: int, data: bytes) -> None:
        """The first may come before the answer to PLAY is read: with it a parameter set would be lost."""
        if self._hold is not None:
            self._hold(Data(channel, data))
        elif self.on_packets is not None:
            self.on_packets([Data(channel, data)])
        elif len(self._early) < _MAX_EARLY:
            self._early.append(Data(channel, data))

    def _report(self, report: bytes) -> None:
        if self.udp is not None:
            self.udp.send(1, self.playing.channels[1], report)

    def close(self) -> None:
        self.on_packets = self._hold = None
        self.client.close(self.conversation)
        if self.udp is not None:
            self.udp.close()


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


class SessionOpener:
    """One a process: it remembers whose login was accepted, and who hangs up on OPTIONS."""

    def __init__(self, settings: RtspSettings, policy: AddressPolicy) -> None:
        self._settings, self._policy = settings, policy
        self._proven = _Known()
        self._no_options = _Known()
        self._rtsp = _Known()  # addresses that have answered RTSP

    async def open(self, camera: CameraAddress, transport: str) -> RtspSession:
        """Raises CaptureFailure; its message holds neither URL nor credentials."""
        if (camera.host, camera.port) not in self._no_options:
            try:
                return await self._attempt(camera, transport, ask_options=True)
            except _HungUpOnOptions:
                self._no_options.add(camera.host, camera.port)
        return await self._attempt(camera, transport, ask_options=False)

    def succeeded(self, camera: CameraAddress) -> None:
        """The camera sends: its login is right, whatever it answers later."""
        self._proven.add(*_login(camera))

    async def _attempt(self, camera: CameraAddress, transport: str, *, ask_options: bool) -> RtspSession:
        timeout = self._settings.OPEN_TIMEOUT
        addresses = await self._policy.resolve(camera, timeout)
        context = tls_context(self._settings.TLS_VERIFY, self._settings.TLS_CA_FILE) if camera.tls else None
        try:
            address, client = await dial(camera, addresses, timeout, lambda: RtspClient(timeout), context)
        except CaptureFailure as failure:
            failure.answered = any((one, camera.port) in self._rtsp for one in addresses)
            raise
        login = Login(camera.username, camera.password or "") if camera.username is not None else None
        conversation = Conversation(camera.url(), login, _login(camera) in self._proven)
        try:
            if ask_options:
                await _options(client, conversation, timeout)
            return await _set_up(client, conversation, address, by_udp=transport == "udp")
        except ConnectionError:
            client.close(conversation)
            raise self._marked(
                CaptureFailure("stream_ended", "The camera closed the connection or answered something that is not RTSP."),
                client, address, camera.port,
            ) from None  # fmt: skip
        except CaptureFailure as failure:
            client.close(conversation)
            self._marked(failure, client, address, camera.port)
            raise
        except BaseException:
            client.close(conversation)
            raise
        finally:
            if client.answered:
                self._rtsp.add(address, camera.port)

    def _marked(self, failure: CaptureFailure, client: RtspClient, address: str, port: int) -> CaptureFailure:
        failure.answered = client.answered or (address, port) in self._rtsp
        return failure


def _login(camera: CameraAddress) -> tuple[object, ...]:
    return camera.host, camera.port, camera.username, camera.password


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


async def _set_up(client: RtspClient, conversation: Conversation, address: str, *, by_udp: bool) -> RtspSession:
    track = await client.run(conversation.describe())
    if not by_udp:
        playing = await client.run(conversation.setup(track))
        client.expect(playing.channels)
        return RtspSession(client, conversation, track, playing, None)
    came: list[Callable[[int, bytes], None]] = []
    udp = await UdpPair.open(client.local_address, address, lambda channel, data: came[0](channel, data) if came else None)
    try:
        playing = await client.run(conversation.setup(track, udp.ports))
    except BaseException:
        udp.close()
        raise
    session = RtspSession(client, conversation, track, playing, udp)
    came.append(session.datagram)
    for index, port in enumerate(playing.channels):
        udp.send(index, port, _PUNCH)
    return session
