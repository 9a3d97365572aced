"""One RTSP connection on the event loop: runs a `Conversation`, delivers packets, keeps the session alive.

Everything is in the loop's thread. What is understood of the bytes is in `rtsp`, which does no I/O.

Longer than 250 lines: one protocol, whose callbacks share the state of one connection.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Generator
from typing import TypeVar, cast

from services.rtsp_capture.connection.rtsp.conversation import Ask, Conversation, Playing
from services.rtsp_capture.connection.rtsp.framing import (
    Data,
    Framing,
    ProtocolError,
    Response,
    ServerRequest,
    Skipped,
    write_request,
    write_response,
)
from services.rtsp_capture.connection.rtsp.rtp import receiver_report
from utils.exceptions import CaptureFailure

KEEP_ALIVE_SHARE = 0.4  # of the session's timeout between two signs of life: under half of it
_USER_AGENT = ("User-Agent", "trackshift-ingestion")
_MAX_OUTSTANDING = 32  # keep-alives that are not answered
_MISNUMBERED_AFTER = 0.3  # seconds for which the right answer is waited for
_ENDED = "The camera closed the connection or answered something that is not RTSP."

T = TypeVar("T")


class RtspClient(asyncio.Protocol):
    """`on_data` gets (channel, payload) of each packet, None for data that was lost; `on_end` is called once."""

    def __init__(self, timeout: float) -> None:
        """`timeout`: seconds that an answer may take."""
        self.on_data: Callable[[list[Data | None]], None] | None = None
        self.hold: Callable[[bytes], None] | None = None  # takes what comes, for `understand` to be given later
        self.on_end: Callable[[], None] | None = None
        self.closed = False
        self.answered = False  # something in RTSP
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._framing = Framing()
        self._transport: asyncio.Transport | None = None
        # Not from 1 on: an answer to somebody else's request may lie on the connection.
        self._cseq = random.randrange(100, 1000)  # noqa: S311
        self._waiting: tuple[int, asyncio.Future[Response]] | None = None
        self._misnumbered: tuple[asyncio.Future[Response], Response] | None = None
        self._kept: dict[int, str] = {}  # methods of keep-alives that wait for their answers
        self._timer: asyncio.TimerHandle | None = None
        self._early: list[Data | None] = []  # before `on_data` is there
        self._conversation: Conversation
        self._playing: Playing
        self._report: Callable[[bytes], None]
        self._methods: list[str] = []
        self._ssrc = random.getrandbits(32)

    # -- asking ------------------------------------------------------------------------------------------------

    async def run(self, talk: Generator[Ask, Response, T]) -> T:
        """Asks what it wants to ask. Raises CaptureFailure; ConnectionError when the camera closed the connection."""
        try:
            async with asyncio.timeout(self._timeout):
                ask = next(talk)
                while True:
                    ask = talk.send(await self._answer(ask))
        except StopIteration as end:
            result: T = end.value
            return result
        except TimeoutError:
            raise CaptureFailure("read_timeout", "The camera accepted the connection and did not answer in time.") from None

    async def _answer(self, ask: Ask) -> Response:
        if self.closed:
            raise ConnectionError
        self._cseq += 1
        future: asyncio.Future[Response] = self._loop.create_future()
        self._waiting = (self._cseq, future)
        self._send(ask, self._cseq)
        return await future

    def _send(self, ask: Ask, cseq: int) -> None:
        if self._transport is None:
            return
        try:
            self._transport.write(write_request(ask.method, ask.uri, cseq, (*ask.headers, _USER_AGENT)))
        except ProtocolError:
            raise CaptureFailure("stream_ended", _ENDED) from None

    def expect(self, channels: tuple[int, int]) -> None:
        """From now on packets may come on these channels."""
        self._framing.channels = frozenset(channels)

    # -- signs of life -----------------------------------------------------------------------------------------

    def keep_alive(
        self, conversation: Conversation, playing: Playing, report: Callable[[bytes], None] | None = None
    ) -> None:
        """Begins to tell the camera that we are there, by all that it may count: what it refuses is left out.

        `report` sends RTCP; None: it goes over this connection.
        """
        self._conversation, self._playing = conversation, playing
        self._report = report or self._interleave
        known = conversation.methods
        self._methods = [name for name in ("GET_PARAMETER", "OPTIONS") if name in known]
        if "GET_PARAMETER" not in self._methods and not known - {"OPTIONS"}:
            self._methods.insert(0, "GET_PARAMETER")  # it has not said what it knows
        self._next_sign()

    def _next_sign(self) -> None:
        self._timer = self._loop.call_later(self._playing.timeout * KEEP_ALIVE_SHARE, self._give_sign)

    def _give_sign(self) -> None:
        if self.closed or self._transport is None:
            return
        self._report(receiver_report(self._ssrc))
        for method in self._methods:
            self._sign(method)
        self._next_sign()

    def _interleave(self, report: bytes) -> None:
        if self._transport is not None:
            self._transport.write(b"$" + bytes((self._playing.channels[1],)) + len(report).to_bytes(2, "big") + report)

    def _sign(self, method: str) -> None:
        self._cseq += 1
        if len(self._kept) >= _MAX_OUTSTANDING:
            del self._kept[next(iter(self._kept))]
        self._kept[self._cseq] = method
        uri = self._conversation.url
        try:
            self._send(Ask(method, uri, self._conversation.common(method, uri)), self._cseq)
        except CaptureFailure:
            pass

    def _signed(self, method: str, response: Response) -> None:
        login = self._conversation.login
        if response.status == 401:  # the nonce has gone stale in mid-session
            if login is not None and login.challenged(response.headers.get("www-authenticate", [])):
                self._sign(method)
        elif login is not None:
            login.went_through()
        if response.status in (400, 405, 451, 500, 501, 551) and method in self._methods:
            self._methods.remove(method)
            if not self._methods and method != "OPTIONS" and "OPTIONS" in self._conversation.methods:
                self._methods.append("OPTIONS")

    @property
    def local_address(self) -> str:
        """Ours, as the camera sees it but for translation on the way."""
        name = self._transport.get_extra_info("sockname") if self._transport is not None else None
        return str(name[0]) if name else ""

    # -- the connection ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being its subclass

    def data_received(self, data: bytes) -> None:
        if self.hold is not None:
            self.hold(data)
            return
        packets = self.understand(data)
        if not packets:
            return
        if self.on_data is not None:
            self.on_data(packets)
        elif self._framing.channels:
            self._early = (self._early + packets)[-2000:]

    def understand(self, data: bytes) -> list[Data | None]:
        """What came next: the packets in it; messages are answered."""
        try:
            events = self._framing.feed(data)
        except ProtocolError:
            self._lost()
            self._abort()
            return []
        packets: list[Data | None] = []
        for event in events:
            if isinstance(event, Data):
                packets.append(event)
            elif isinstance(event, Response):
                self._answered(event)
            elif isinstance(event, Skipped):
                packets.append(None)
            else:
                self._asked(event)
        return packets

    def deliver(self, on_data: Callable[[list[Data | None]], None]) -> None:
        """From now on packets go there; those first that came before."""
        self.on_data = on_data
        early, self._early = self._early, []
        if early:
            on_data(early)

    def _answered(self, response: Response) -> None:
        self.answered = True
        cseq = response.cseq
        if cseq is not None and (method := self._kept.pop(cseq, None)) is not None:
            self._signed(method, response)
        elif self._waiting is not None and cseq in (None, self._waiting[0]):
            self._take(self._waiting[1], response)
        elif self._waiting is not None:
            # Somebody else's, from a former session; or ours, and the camera counts wrongly: then no other comes.
            self._misnumbered = (self._waiting[1], response)
            self._loop.call_later(_MISNUMBERED_AFTER, self._take, *self._misnumbered)

    def _take(self, future: asyncio.Future[Response], response: Response) -> None:
        if not future.done():
            self._waiting = self._misnumbered = None
            future.set_result(response)

    def _asked(self, request: ServerRequest) -> None:
        """Cameras may ask whether we are there; all else, redirects among it, is not done."""
        known = request.method in ("OPTIONS", "GET_PARAMETER", "SET_PARAMETER")
        if self._transport is not None:
            self._transport.write(write_response("200 OK" if known else "501 Not Implemented", request.cseq))

    def eof_received(self) -> None:
        return None  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def _lost(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._misnumbered is not None:
            self._take(*self._misnumbered)
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_exception(ConnectionError())
        if self.on_end is not None:
            self.on_end()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self, teardown: Conversation | None = None) -> None:
        """Ends the connection, with TEARDOWN where there is a session. `on_end` is not called any more."""
        self.on_end = self.on_data = self.hold = None
        if not self.closed and self._transport is not None:
            if teardown is not None and teardown.session:
                self._cseq += 1
                try:
                    self._send(Ask("TEARDOWN", teardown.url, teardown.common("TEARDOWN", teardown.url)), self._cseq)
                except CaptureFailure:
                    pass
            self._transport.close()
            # A peer that reads nothing would keep what waits to be written, and with it the connection.
            self._loop.call_later(1.0, self._transport.abort)
        self._lost()
