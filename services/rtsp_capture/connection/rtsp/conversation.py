"""What is asked of a camera, from the first question to PLAY (RFC 2326, section 10). Pure: requests out, answers in.

Each step is a generator that yields requests and is sent their answers; who runs it has the socket. Nothing is followed:
whatever an answer names, the next request goes out on the same connection. Raises CaptureFailure.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TypeVar

from services.rtsp_capture.connection.rtsp.framing import Response
from services.rtsp_capture.connection.rtsp.login import Login
from services.rtsp_capture.connection.rtsp.sdp import VideoTrack, aggregate_urls, control_urls, video_track
from utils.exceptions import CaptureCode, CaptureFailure

DEFAULT_TIMEOUT = 60.0  # seconds (section 12.37)
_MAX_ROUNDS = 8  # answers of 401 to one request
_INTERLEAVED = re.compile(r"interleaved\s*=\s*(\d{1,3})(?:\s*-\s*(\d{1,3}))?", re.IGNORECASE)
_SERVER_PORTS = re.compile(r"server_port\s*=\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?", re.IGNORECASE)
_TIMEOUT = re.compile(r"timeout\s*=\s*(\d{1,6})", re.IGNORECASE)
_BUSY = "The camera refuses a login that it has accepted before: its places may be taken, or its password was changed."
# A camera that does not know a URL that we made of its SDP may know the next one.
_NOT_THAT_URL = frozenset((400, 404, 405, 451, 454, 455, 457, 459, 460, 500, 501))

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, without CSeq and what all have in common."""

    method: str
    uri: str
    headers: tuple[tuple[str, str], ...] = ()


Talk = Generator[Ask, Response, T]


@dataclass(frozen=True, slots=True)
class Playing:
    """What was agreed."""

    track: VideoTrack
    channels: tuple[int, int]  # of RTP and RTCP; by UDP, the camera's ports, 0 where it does not say
    uri: str  # for keep-alives
    timeout: float  # seconds without a sign of life after which the session ends


@dataclass(slots=True)
class Conversation:
    """One connection's. `url` holds neither user nor password. `proven`: the login was accepted by this camera before."""

    url: str
    login: Login | None
    proven: bool = False
    methods: frozenset[str] = frozenset()  # that the camera says it knows; empty: it does not say
    session: str = ""
    _content_base: str = field(default="", repr=False)

    def ask(self, method: str, uri: str, *headers: tuple[str, str]) -> Talk[Response]:
        """One request, with the login that is asked for. Raises CaptureFailure unauthorized_camera, camera_busy."""
        for _ in range(_MAX_ROUNDS):
            response = yield Ask(method, uri, (*headers, *self.common(method, uri)))
            if response.status != 401:
                if self.login is not None:
                    self.login.went_through()
                return response
            if self.login is None or not self.login.challenged(response.headers.get("www-authenticate", [])):
                break
        raise self.refused()

    def common(self, method: str, uri: str) -> tuple[tuple[str, str], ...]:
        """The headers of this request that depend on what was said so far."""
        value = self.login.authorization(method, uri) if self.login is not None else None
        session = (("Session", self.session),) if self.session else ()
        return (*session, ("Authorization", value)) if value is not None else session

    def refused(self) -> CaptureFailure:
        """What a final 401 means."""
        if self.login is not None and (self.proven or self.login.accepted):
            return CaptureFailure("camera_busy", _BUSY)
        return CaptureFailure("unauthorized_camera", "The camera refused the user name or password.")

    def options(self) -> Talk[None]:
        """What the camera knows. Not all answer it, and it needs no login."""
        response = yield Ask("OPTIONS", self.url)
        names = ",".join(response.headers.get("public", []))
        known = frozenset(name.strip().upper() for name in names.split(",")) - {""}
        self.methods = known | {"OPTIONS"} if 200 <= response.status < 300 else frozenset()

    def describe(self) -> Talk[VideoTrack]:
        """The track that can be captured."""
        response = yield from self.ask("DESCRIBE", self.url, ("Accept", "application/sdp"))
        if failure := classify(response.status):
            raise failure
        self._content_base = response.header("content-base") or response.header("content-location")
        if not self._content_base.lower().startswith(("rtsp://", "rtsps://")):
            self._content_base = ""
        return video_track(response.body)

    def setup(self, track: VideoTrack, ports: tuple[int, int] | None = None) -> Talk[Playing]:
        """SETUP of the track over this connection, or to these UDP ports of ours."""
        offer = "RTP/AVP/TCP;unicast;interleaved=0-1"
        if ports is not None:
            offer = f"RTP/AVP;unicast;client_port={ports[0]}-{ports[1]}"
        transport = ("Transport", offer)
        uris = control_urls(track, self.url, self._content_base)
        uri, response = yield from self._first_known("SETUP", uris, transport)
        if failure := classify(response.status):
            raise failure
        header = response.header("session")
        self.session = header.partition(";")[0].strip()
        pattern, mask = (_INTERLEAVED, 255) if ports is None else (_SERVER_PORTS, 65535)
        found = pattern.search(response.header("transport"))
        first = int(found[1]) if found else 0
        second = int(found[2]) if found and found[2] else first + (ports is None or first > 0)
        channels = (first & mask, second & mask)
        told = _TIMEOUT.search(header.partition(";")[2])
        timeout = max(1.0, float(told[1])) if told and int(told[1]) else DEFAULT_TIMEOUT
        return Playing(track, channels, uri, timeout)

    def start(self, playing: Playing) -> Talk[None]:
        """PLAY. Its answer may come after the first packets."""
        uris = aggregate_urls(playing.track, self.url, self._content_base, playing.uri)
        _, response = yield from self._first_known("PLAY", uris, ("Range", "npt=0.000-"))
        if failure := classify(response.status):
            raise failure

    def _first_known(self, method: str, uris: list[str], *headers: tuple[str, str]) -> Talk[tuple[str, Response]]:
        """The first of the URLs that the camera knows, and its answer; the answer to the first where it knows none."""
        refusal: tuple[str, Response] | None = None
        for uri in uris or [self.url]:
            response = yield from self.ask(method, uri, *headers)
            if response.status not in _NOT_THAT_URL:
                return uri, response
            refusal = refusal or (uri, response)
        assert refusal is not None
        return refusal


def classify(status: int) -> CaptureFailure | None:
    """The failure that an RTSP status (RFC 2326, section 7.1.1) means; None for success."""
    if 200 <= status < 300:
        return None
    table: dict[int, tuple[CaptureCode, str]] = {
        401: ("unauthorized_camera", "The camera refused the user name or password."),
        403: ("forbidden_camera", "The camera forbids this stream to this user."),
        404: ("stream_not_found", "The camera has no stream at this path."),
        410: ("stream_not_found", "The camera has no stream at this path any more."),
        453: ("camera_busy", "The camera has no bandwidth left for another viewer."),
        461: ("transport_refused", "The camera does not send over this transport: set transport: udp (or tcp) for it."),
        503: ("camera_busy", "The camera cannot serve the stream now."),
    }
    if 300 <= status < 400:
        return CaptureFailure("redirect_refused", "The camera redirects elsewhere; redirects are not followed.")
    if status in table:
        return CaptureFailure(*table[status])
    return CaptureFailure("stream_not_found", f"The camera answered with RTSP status {status}.")
