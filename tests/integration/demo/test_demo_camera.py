"""The demo camera and its fault proxy, seen by the clients the service uses: FFmpeg through OpenCV and PyAV."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from demo.camera import Camera
from demo.faults import FaultProxy
from demo.film import Codec, make_film, make_sound, make_still, read_frame_number
from demo.sources import Film, capture_time

FPS = 25
SECONDS = 2.0
PICTURES = round(FPS * SECONDS)
Seen = tuple[int | None, int | None, float]  # pts, frame number, time of receipt
OPTIONS = {"rtsp_transport": "tcp", "timeout": "2000000", "analyzeduration": "100000"}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")

    def film(codec: Codec, bframes: int) -> Path:
        return make_film(
            folder, codec=codec, width=320, height=180, fps=FPS, seconds=SECONDS, bitrate=300_000, bframes=bframes
        )

    return {
        "h264": film("h264", 0),
        "h264b": film("h264", 2),
        "hevc": film("hevc", 0),
        "hevcb": film("hevc", 2),
        "sound": make_sound(folder),
    }


@pytest.fixture(scope="module")
def camera(films: dict[str, Path]) -> Iterator[Camera]:
    with Camera(films, join="burst", report_every=0.5) as camera:
        yield camera


@pytest.fixture
def proxy(camera: Camera) -> Iterator[FaultProxy]:
    with FaultProxy(camera.port) as proxy:
        yield proxy


def pictures(url: str, count: int, options: dict[str, str] | None = None) -> list[Seen]:
    """The first pictures of a stream."""
    with av.open(url, options=OPTIONS | (options or {})) as stream:
        seen = []
        for frame in stream.decode(video=0):
            seen.append((frame.pts, read_frame_number(frame.to_ndarray(format="bgr24")), time.time()))
            if len(seen) == count:
                break
        return seen


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def assert_consecutive(numbers: list[int | None], pictures_in_film: int = PICTURES) -> None:
    assert None not in numbers
    known = [number for number in numbers if number is not None]
    assert {(b - a) % pictures_in_film for a, b in pairwise(known)} == {1}


def assert_continuous(seen: list[Seen], pictures_in_film: int = PICTURES) -> None:
    assert_consecutive([number for _, number, _ in seen], pictures_in_film)
    pts = [value for value, _, _ in seen if value is not None]
    assert len(pts) >= len(seen) - 1  # FFmpeg gives the first picture no time
    assert {b - a for a, b in pairwise(pts)} == {90_000 // FPS}


@pytest.mark.parametrize("name", ["h264", "h264b", "hevc", "hevcb"])
def test_pyav_reads_every_picture_and_the_film_never_ends(camera: Camera, name: str) -> None:
    seen = pictures(camera.url_of(name), PICTURES + 30 if name == "h264b" else 35)
    assert_continuous(seen)


@pytest.mark.parametrize("name", ["h264", "h264b", "hevc"])
def test_opencv_reads_the_same(camera: Camera, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|analyzeduration;100000")
    capture = cv2.VideoCapture(camera.url_of(name), cv2.CAP_FFMPEG)
    try:
        assert capture.isOpened()
        numbers: list[int | None] = []
        for _ in range(35):
            ok, image = capture.read()
            assert ok
            numbers.append(read_frame_number(image))
    finally:
        capture.release()
    assert_consecutive(numbers)


@pytest.mark.alone  # how late a picture comes is measured
def test_a_picture_tells_when_it_was_taken_and_sender_reports_agree(camera: Camera) -> None:
    with av.open(camera.url_of("h264"), options=OPTIONS) as stream:
        late, errors = [], []
        decoder = stream.streams.video[0].codec_context
        clocks: dict[int, float] = {}
        deadline = time.monotonic() + 8
        for packet in stream.demux(video=0):
            for side in packet.iter_sidedata():
                if "PRFT" in str(side.data_type).upper() and packet.pts is not None:
                    micros = int(np.frombuffer(bytes(side)[:8], np.int64)[0])
                    clocks[packet.pts] = micros / 1e6
            for frame in decoder.decode(packet):
                number = read_frame_number(frame.to_ndarray(format="bgr24"))
                assert number is not None
                now = time.time()
                taken = capture_time(number, FPS, PICTURES, now)
                late.append(now - taken)
                if frame.pts in clocks:
                    errors.append(abs(clocks[frame.pts] - taken))
            if len(errors) > 20 or time.monotonic() > deadline:
                break
    assert 0 < min(late[20:]) < 0.2
    assert len(errors) > 20
    assert max(errors) < 0.003


def test_the_rtp_timestamp_may_wrap(films: dict[str, Path]) -> None:
    with Camera(films["h264"], join="burst", rtp_start=2**32 - 90_000) as camera:
        assert_continuous(pictures(camera.url, 50))


def test_a_client_in_the_middle_of_a_group_gets_pictures_from_the_next_key(films: dict[str, Path]) -> None:
    with Camera(films["h264"], join="now") as camera:
        seen = pictures(camera.url, 30)
        assert_continuous(seen[1:])


async def test_a_long_group_that_is_repeated_at_once_comes_whole(tmp_path: Path) -> None:
    """125 pictures at once are more than a client's queue holds: whoever reads them loses none."""
    path = make_film(tmp_path, width=160, height=90, fps=FPS, seconds=6.0, gop=150, bitrate=50_000)
    source = Film(path, "burst", 1)
    source._shift += 5.0 - source.now() % 6.0  # into the group, seconds
    with source.watch() as queue:
        numbers = [(await asyncio.wait_for(queue.get(), 5)).number for _ in range(130)]
    assert numbers == list(range(130))


@pytest.mark.alone  # a live scene leaves pictures out when its encoder is kept waiting, and this one must be whole
def test_the_live_scene_shows_the_time() -> None:
    with Camera(size=(640, 360), bitrate=800_000) as live:
        with contextlib.ExitStack() as others:
            others.enter_context(av.open(live.url, options=OPTIONS))
            started = time.monotonic()
            seen = pictures(live.url, 40)
            assert time.monotonic() - started < 5
        assert_continuous(seen, 2**20)
        for _, number, now in seen[25:]:
            assert number is not None
            assert 0 < now - capture_time(number, FPS, 2**20, now) < 0.5


def test_an_unknown_stream_is_not_found(camera: Camera) -> None:
    with pytest.raises(av.HTTPNotFoundError):
        av.open(camera.url_of("nothing"), options=OPTIONS)


def test_a_source_without_video(camera: Camera) -> None:
    with av.open(camera.url_of("sound"), options=OPTIONS) as stream:
        assert not stream.streams.video
        assert sum(1 for _, packet in zip(range(20), stream.demux(audio=0), strict=False) if packet.size) == 20


def read_to_the_end(stream: av.container.InputContainer) -> int:
    """Read until FFmpeg gives up or the stream ends; the number of packets that came."""
    count = 0
    with contextlib.suppress(av.FFmpegError):
        for packet in stream.demux(video=0):
            count += bool(packet.size)
    return count


def test_a_killed_camera_comes_back_on_its_port(films: dict[str, Path]) -> None:
    with Camera(films["h264"], join="burst") as camera:
        url = camera.url
        with av.open(url, options=OPTIONS) as stream:
            camera.kill()
            assert read_to_the_end(stream) < PICTURES
        with pytest.raises(av.ConnectionRefusedError):
            av.open(url, options=OPTIONS)
        camera.start()
        assert camera.url == url
        assert_continuous(pictures(url, 10))


def test_a_frozen_camera_is_silent_and_goes_on_at_the_present(films: dict[str, Path]) -> None:
    with Camera(films["h264"], join="burst") as camera:
        with av.open(camera.url, options=OPTIONS | {"timeout": "500000"}) as stream:
            camera.freeze()
            started = time.monotonic()
            assert read_to_the_end(stream) < PICTURES
            assert time.monotonic() - started > 0.4
        camera.thaw()
        _, number, now = pictures(camera.url, 30)[-1]
        assert number is not None
        assert 0 < now - capture_time(number, FPS, PICTURES, now) < 0.5


@pytest.mark.parametrize("scheme", ["basic", "digest", "both"])
def test_authentication(proxy: FaultProxy, scheme: str) -> None:
    proxy.require_auth("driver", "p@ss:word", scheme)  # type: ignore[arg-type]
    assert len(pictures(proxy.url("h264", "driver:p%40ss%3Aword"), 3)) == 3
    for userinfo in ("", "driver:wrong", "other:p%40ss%3Aword"):
        with pytest.raises(av.HTTPUnauthorizedError):
            av.open(proxy.url("h264", userinfo), options=OPTIONS)


def test_digest_with_qop_and_a_stale_nonce(proxy: FaultProxy) -> None:
    proxy.require_auth("driver", "secret", "digest", qop=True)
    assert proxy.challenge is not None
    assert len(pictures(proxy.url("h264", "driver:secret"), 3)) == 3
    sent = next(r.headers["authorization"] for r in proxy.requests if "authorization" in r.headers)
    describe = next(r for r in proxy.requests if r.headers.get("authorization") == sent)
    assert proxy.challenge.judge(describe.method, describe.uri, sent) == "right"
    proxy.challenge.renew()
    assert proxy.challenge.judge(describe.method, describe.uri, sent) == "stale"
    assert proxy.challenge.judge("TEARDOWN", describe.uri, sent) == "wrong"


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        (403, "Forbidden", av.HTTPForbiddenError),
        (404, "Not Found", av.HTTPNotFoundError),
        (453, "Not Enough Bandwidth", av.HTTPOtherClientError),
        (503, "Service Unavailable", av.HTTPServerError),
    ],
)
def test_answers(proxy: FaultProxy, status: int, reason: str, error: type[Exception]) -> None:
    proxy.answer(status, reason)
    with pytest.raises(error):
        av.open(proxy.url("h264"), options=OPTIONS)
    proxy.clear()
    assert len(pictures(proxy.url("h264"), 3)) == 3


def test_a_redirect_is_followed(proxy: FaultProxy, camera: Camera) -> None:
    proxy.answer(302, "Moved Temporarily", {"Location": camera.url_of("h264")})
    assert len(pictures(proxy.url("anything"), 3)) == 3
    assert [r.method for r in proxy.requests if r.method != "OPTIONS"] == ["DESCRIBE"]


def test_connections_are_counted_and_dropped(proxy: FaultProxy) -> None:
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(av.open(proxy.url("h264"), options=OPTIONS)) for _ in range(3)]
        assert (proxy.open, proxy.total, proxy.playing) == (3, 3, 3)
        proxy.drop_connections(reset=True)
        assert proxy.open == 0
        for stream in streams:
            assert read_to_the_end(stream) < PICTURES
    assert proxy.total == 3
    assert len(pictures(proxy.url("h264"), 3)) == 3
    until(lambda: proxy.open == 0)
    assert proxy.total == 4


def test_media_is_held_back_and_comes_later(proxy: FaultProxy) -> None:
    with av.open(proxy.url("h264"), options=OPTIONS) as stream:
        proxy.freeze()
        timer = threading.Timer(0.8, proxy.thaw)
        timer.start()
        numbers, times = [], []
        for _, frame in zip(range(60), stream.decode(video=0), strict=False):
            numbers.append(read_frame_number(frame.to_ndarray(format="bgr24")))
            times.append(time.monotonic())
        timer.join()
        assert (proxy.open, proxy.total) == (1, 1)
    assert_consecutive(numbers)
    assert max(b - a for a, b in pairwise(times)) > 0.4


def test_a_frozen_network_times_out_with_its_connection_open(proxy: FaultProxy) -> None:
    with av.open(proxy.url("h264"), options=OPTIONS | {"timeout": "500000"}) as stream:
        proxy.freeze()
        assert read_to_the_end(stream) < PICTURES
        assert proxy.open == 1


def test_refusing_and_listening_again(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(av.ConnectionRefusedError):
        av.open(proxy.url("h264"), options=OPTIONS)
    proxy.listen()
    assert len(pictures(proxy.url("h264"), 3)) == 3


def test_a_black_hole_answers_nothing(proxy: FaultProxy) -> None:
    proxy.black_hole()
    started = time.monotonic()
    with pytest.raises(av.FFmpegError):
        av.open(proxy.url("h264"), options=OPTIONS | {"timeout": "500000"})
    assert 0.4 < time.monotonic() - started < 3
    assert proxy.total == 1
    assert [r.method for r in proxy.requests] == ["OPTIONS"]


def test_a_throttled_stream_falls_behind(proxy: FaultProxy) -> None:
    proxy.throttle(20_000)  # bytes a second, of a film of some 37 000
    seen = pictures(proxy.url("h264"), 25, {"probesize": "32", "analyzeduration": "0"})
    assert seen[-1][2] - seen[0][2] > 24 / FPS * 1.1


def test_packets_are_lost_and_the_stream_goes_on(proxy: FaultProxy) -> None:
    proxy.lose(7)
    with av.open(proxy.url("h264"), options=OPTIONS) as stream:
        assert sum(1 for _ in zip(range(30), stream.demux(video=0), strict=False)) == 30
    assert proxy.lost >= 3
    proxy.clear()
    assert_continuous(pictures(proxy.url("h264"), 10))


def test_stills_carry_exif_and_their_number() -> None:
    taken = datetime(2026, 3, 4, 10, 11, 12, 345_000, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    data = make_still(7, 640, 360, taken, wear=1.0, quality=50)
    with Image.open(BytesIO(data)) as image:
        assert image.size == (640, 360)
        assert image.getexif()[0x010F] == "TrackShift"
        details = image.getexif().get_ifd(0x8769)
    assert (details[0x9003], details[0x9011], details[0x9291]) == ("2026:03:04 10:11:12", "+05:30", "345")
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert read_frame_number(decoded) == 7
    assert read_frame_number(cv2.resize(decoded, (320, 180), interpolation=cv2.INTER_AREA)) == 7
    assert read_frame_number(np.zeros((360, 640, 3), np.uint8)) is None
    with pytest.raises(ValueError, match="time zone"):
        make_still(7, 64, 36, datetime(2026, 3, 4))  # noqa: DTZ001


def test_a_film_is_made_once(films: dict[str, Path]) -> None:
    film = films["h264"]
    made = film.stat().st_mtime_ns
    again = make_film(film.parent, width=320, height=180, fps=FPS, seconds=SECONDS, bitrate=300_000)
    assert again == film
    assert again.stat().st_mtime_ns == made
    assert datetime.fromtimestamp(made / 1e9, UTC) < datetime.now(UTC)
