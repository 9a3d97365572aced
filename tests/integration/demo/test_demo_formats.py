"""The demo camera's formats, transports and faults, seen by FFmpeg: other tests rely on what these establish."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from demo.camera import Camera
from demo.film import make_film, make_sound, read_frame_number
from demo.rtp import parse_jpeg
from demo.show import Faults, Show

pytestmark = pytest.mark.paced

FPS = 25
SECONDS = 2.0
PICTURES = round(FPS * SECONDS)
OPTIONS = {"timeout": "3000000", "analyzeduration": "200000"}
Picture = NDArray[np.uint8]
Numbered = list[int | None]


def film(folder: Path, **fields: Any) -> Path:
    return make_film(folder, **{"width": 320, "height": 184, "fps": FPS, "seconds": SECONDS, "bitrate": 300_000, **fields})


FORMATS: dict[str, Callable[[Path], Show]] = {
    "plain": lambda f: Show([film(f)]),
    "sets in SDP": lambda f: Show([film(f)], sets="sdp"),
    "sets in band": lambda f: Show([film(f)], sets="band"),
    "hevc sets in SDP": lambda f: Show([film(f, codec="hevc")], sets="sdp"),
    "hevc sets in band": lambda f: Show([film(f, codec="hevc")], sets="band"),
    "open GOP": lambda f: Show([film(f, bframes=3, open_gop=True)]),
    "hevc open GOP": lambda f: Show([film(f, codec="hevc", bframes=3, open_gop=True)]),
    "intra refresh": lambda f: Show([film(f, intra_refresh=True)]),
    "hevc intra refresh": lambda f: Show([film(f, codec="hevc", intra_refresh=True)]),
    "interlaced": lambda f: Show([film(f, interlaced=True)]),
    "slices": lambda f: Show([film(f, slices=4)]),
    "AAC after": lambda f: Show([film(f), make_sound(f)]),
    "AAC before": lambda f: Show([make_sound(f), film(f)]),
    "PCMU before": lambda f: Show([make_sound(f, codec="pcmu"), film(f, codec="hevc")]),
    "PCMA after": lambda f: Show([film(f, codec="mjpeg"), make_sound(f, codec="pcma")]),
    "two videos": lambda f: Show([film(f), film(f, first=1000, seed=2)]),
    "mjpeg": lambda f: Show([film(f, codec="mjpeg")]),
    "small packets": lambda f: Show([film(f)], packet_bytes=200),
    "short": lambda f: Show([film(f, seconds=1.0)], packet_bytes=200),
    "resolution switch": lambda f: Show(
        [[film(f, seconds=1.0), film(f, seconds=1.0, width=480, height=272, first=FPS, seed=2)]]
    ),
    "large": lambda f: Show([film(f, width=1920, height=1080, bitrate=12_000_000, slices=4)]),
    "other codec": lambda f: Show([film(f)], codec="vp8"),
}


@pytest.fixture(scope="module")
def shows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Show]:
    folder = tmp_path_factory.mktemp("films")
    return {name: make(folder) for name, make in FORMATS.items()}


@pytest.fixture(scope="module")
def camera(shows: dict[str, Show]) -> Iterator[Camera]:
    with Camera({name.replace(" ", "-"): show for name, show in shows.items()}, join="burst", report_every=0.5) as made:
        yield made


def url(camera: Camera, name: str) -> str:
    return camera.url_of(name.replace(" ", "-"))


def bgr(frame: av.VideoFrame) -> Picture:
    return frame.to_ndarray(format="bgr24").astype(np.uint8, copy=False)


def pictures(address: str, count: int, transport: str = "tcp", **options: str) -> list[tuple[int | None, Picture]]:
    """The first decoded pictures and their numbers."""
    with av.open(address, options={**OPTIONS, "rtsp_transport": transport, **options}) as stream:
        images = (bgr(frame) for frame in stream.decode(video=0))
        return [(read_frame_number(image), image) for _, image in zip(range(count), images, strict=False)]


def numbers(seen: list[tuple[int | None, Picture]]) -> Numbered:
    return [number for number, _ in seen]


def steps(found: Numbered) -> set[int]:
    assert None not in found
    return {(b - a) % PICTURES for a, b in pairwise(n for n in found if n is not None)}


RECEIVED = [(name, "tcp") for name in FORMATS if name not in ("other codec", "large", "short")]
RECEIVED += [(name, "udp") for name in ("plain", "hevc open GOP", "AAC before", "two videos", "mjpeg", "small packets")]


@pytest.fixture(scope="module")
def received(camera: Camera) -> dict[tuple[str, str], list[tuple[int | None, Picture]]]:
    """All formats read side by side, to save time."""
    with ThreadPoolExecutor(len(RECEIVED)) as pool:
        reads = {key: pool.submit(pictures, url(camera, key[0]), 30, key[1]) for key in RECEIVED}
        return {key: read.result() for key, read in reads.items()}


@pytest.mark.parametrize(("name", "transport"), RECEIVED)
def test_every_picture_comes_and_is_the_films(
    received: dict[tuple[str, str], list[tuple[int | None, Picture]]], shows: dict[str, Show], name: str, transport: str
) -> None:
    seen = received[name, transport]
    assert len(seen) == 30
    assert steps(numbers(seen)) == {1}
    video = next(films for films in shows[name].films if "sound" not in films[0].name)
    truth: dict[int | None, Picture] = {}
    for path in video:
        with av.open(str(path)) as whole:
            images = [bgr(frame) for frame in whole.decode(video=0)]
        truth |= {read_frame_number(image): image for image in images}
    assert len(truth) == PICTURES
    for number, image in seen:
        assert image.shape == truth[number].shape
        assert np.abs(image.astype(int) - truth[number]).max() <= 3  # JPEG pictures lose the name of their matrix


def test_a_large_picture_by_udp_loses_nothing(camera: Camera) -> None:
    with av.open(url(camera, "large"), options={**OPTIONS, "rtsp_transport": "udp"}) as stream:
        video = stream.streams.video[0]
        video.thread_type = "NONE"
        sizes = [packet.size for _, packet in zip(range(60), stream.demux(video), strict=False)]
    assert max(sizes) > 80_000


@pytest.mark.parametrize(("name", "codec"), [("AAC after", "aac"), ("AAC before", "aac"), ("PCMU before", "pcm_mulaw")])
def test_sound_beside_the_pictures_keeps_time_with_them(camera: Camera, name: str, codec: str) -> None:
    """By sender reports, both tracks' times are of one clock."""
    with av.open(url(camera, name), options={**OPTIONS, "rtsp_transport": "tcp"}) as stream:
        kinds = [each.type for each in stream.streams]
        assert kinds == (["audio", "video"] if "before" in name else ["video", "audio"])
        assert stream.streams.audio[0].codec_context.name == codec
        clocks: dict[str, list[float]] = {"audio": [], "video": []}
        deadline = time.monotonic() + 5
        for packet in stream.demux():
            for side in packet.iter_sidedata():
                if "PRFT" in str(side.data_type).upper():
                    taken = int(np.frombuffer(bytes(side)[:8], np.int64)[0]) / 1e6
                    clocks[packet.stream.type].append(time.time() - taken)
            if min(map(len, clocks.values())) >= 20 or time.monotonic() > deadline:
                break
    for late in clocks.values():
        assert len(late) >= 20
        assert -0.01 < sorted(late)[len(late) // 2] < 0.2


def test_mjpeg_pictures_keep_their_scan(camera: Camera, shows: dict[str, Show]) -> None:
    with av.open(str(shows["mjpeg"].films[0][0])) as whole:
        scans = {parse_jpeg(bytes(packet)) for packet in whole.demux(video=0) if packet.size}
    with av.open(url(camera, "mjpeg"), options={**OPTIONS, "rtsp_transport": "tcp"}) as stream:
        for _, packet in zip(range(10), stream.demux(video=0), strict=False):
            assert parse_jpeg(bytes(packet)) in scans


def test_the_sdp_may_name_another_codec(camera: Camera) -> None:
    with contextlib.closing(socket.create_connection((camera.host, camera.port), 5)) as control:
        assert "a=rtpmap:96 VP8/90000" in rtsp(control, "DESCRIBE", url(camera, "other codec"), 1)


def missing(found: Numbered, total: int = PICTURES) -> list[int]:
    """The numbers between the first and the last that did not come."""
    known = [number for number in found if number is not None]
    gone = []
    for a, b in pairwise(known):
        gone += [(a + step) % total for step in range(1, (b - a) % total)]
    return gone


def counted_by_time(address: str, count: int) -> list[int]:
    """Which pictures come, by their times alone (no decoding), from some moment on."""
    with av.open(address, options={**OPTIONS, "rtsp_transport": "tcp"}) as stream:
        times = [packet.pts for _, packet in zip(range(count), stream.demux(video=0), strict=False)]
    return [round(value * FPS / 90_000) for value in times if value is not None]


@pytest.mark.parametrize("hidden", [False, True])
def test_whole_pictures_are_taken_out(shows: dict[str, Show], hidden: bool) -> None:
    with Camera(shows["plain"]) as camera:
        camera.fault(Faults(drop_every=10, hidden=hidden))
        found = counted_by_time(camera.url, 60)
    assert {b - a for a, b in pairwise(found)} == {1, 2}
    gone = missing([*found], 10**9)
    assert len(gone) in (6, 7)
    assert {b - a for a, b in pairwise(gone)} == {10}


def test_listed_pictures_are_taken_out_and_the_rest_is_whole(shows: dict[str, Show]) -> None:
    with Camera(Show(shows["mjpeg"].tracks, faults=Faults(drop_units=(7, 8, 30)))) as camera:
        assert set(missing(numbers(pictures(camera.url, 60)))) == {7, 8, 30}


def test_half_a_picture_comes(shows: dict[str, Show]) -> None:
    path = shows["slices"].films[0][0]
    with av.open(str(path)) as whole:
        size = {number: packet.size for number, packet in enumerate(whole.demux(video=0))}
    with (
        Camera(Show([path], faults=Faults(cut_units=(25,)))) as camera,
        av.open(camera.url, options={**OPTIONS, "rtsp_transport": "tcp"}) as stream,
    ):
        packets = (packet for _, packet in zip(range(60), stream.demux(video=0), strict=False))
        keys = {packet.size for packet in packets if packet.is_keyframe}
    assert len(keys) == 2
    assert any(abs(key - size[0]) < 100 for key in keys)  # parameter sets are added
    assert any(0.3 * size[25] < key < 0.6 * size[25] for key in keys)
    assert not any(abs(key - size[25]) < 100 for key in keys)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_packets_get_lost_from_now_on(shows: dict[str, Show], transport: str) -> None:
    with (
        Camera(shows["short"]) as camera,
        av.open(camera.url, options={**OPTIONS, "rtsp_transport": transport}) as stream,
    ):
        packets = stream.demux(video=0)

        def bytes_of_a_lap(start: int | None = None) -> tuple[int, int]:
            """In the packets of a film's length, and the time it ended."""
            total = 0
            for packet in packets:
                if packet.pts is None:
                    continue
                start = packet.pts if start is None else start
                total += packet.size
                if packet.pts - start >= 90_000:
                    return total, packet.pts
            raise AssertionError("the stream ended")

        whole, end = bytes_of_a_lap()
        camera.fault(Faults(loss=0.3))
        less, end = bytes_of_a_lap(end)
        camera.fault(Faults())
        _, end = bytes_of_a_lap(end)
        again, _ = bytes_of_a_lap(end)
    assert 0.55 < less / whole < 0.85
    assert 0.95 < again / whole < 1.05


def test_the_same_seed_loses_the_same() -> None:
    lost = [number for number in range(10_000) if Faults(loss=0.3).loses(0, number)]
    assert lost == [number for number in range(10_000) if Faults(loss=0.3).loses(0, number)]
    assert lost != [number for number in range(10_000) if Faults(loss=0.3, seed=2).loses(0, number)]
    assert 0.28 < len(lost) / 10_000 < 0.32


def rtsp(sock: socket.socket, method: str, address: str, cseq: int, *headers: str) -> str:
    lines = "\r\n".join([f"{method} {address} RTSP/1.0", f"CSeq: {cseq}", *headers])
    sock.sendall(f"{lines}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(65536)
    return answer.decode()


def udp_session(camera: Camera, address: str) -> tuple[socket.socket, socket.socket]:
    """A client that asked for UDP and plays."""
    media = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    media.bind(("127.0.0.1", 0))
    media.settimeout(5)
    control = socket.create_connection((camera.host, camera.port), 5)
    port = media.getsockname()[1]
    rtsp(control, "DESCRIBE", address, 1)
    answer = rtsp(control, "SETUP", address + "/track1", 2, f"Transport: RTP/AVP/UDP;unicast;client_port={port}-{port + 1}")
    assert "server_port=" in answer
    session = answer.split("Session: ")[1].split(";")[0]
    rtsp(control, "PLAY", address, 3, f"Session: {session}")
    return control, media


def test_a_silent_udp_client_loses_its_session_and_one_that_reports_keeps_it(shows: dict[str, Show]) -> None:
    with Camera(shows["plain"], session_timeout=2) as camera:
        control, media = udp_session(camera, camera.url)
        other, other_media = udp_session(camera, camera.url)
        with contextlib.ExitStack() as stack:
            for each in (control, media, other, other_media):
                stack.enter_context(each)
            started = time.monotonic()
            _, sender = other_media.recvfrom(65536)
            control.settimeout(0.3)
            ended = None
            while time.monotonic() - started < 6:
                other_media.sendto(b"\x80\xc9\x00\x01\x00\x00\x00\x01", sender)  # an empty receiver report
                with contextlib.suppress(TimeoutError):
                    if control.recv(65536) == b"":
                        ended = time.monotonic() - started
                        break
            assert ended is not None
            assert 1.5 < ended < 5
            while True:  # what came before
                data, _ = other_media.recvfrom(65536)
                if data[1] & 0x7F == 96 and time.monotonic() - started > ended + 0.5:
                    break


def test_a_udp_client_that_hangs_up_frees_the_ports(shows: dict[str, Show]) -> None:
    with Camera(shows["plain"]) as camera:
        control, media = udp_session(camera, camera.url)
        _, (_, port) = media.recvfrom(65536)
        control.close()
        deadline = time.monotonic() + 3
        while True:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
                probe.bind((camera.host, port))
                break
            assert time.monotonic() < deadline
            time.sleep(0.02)
        media.close()


def test_colours_are_named_and_true(tmp_path: Path) -> None:
    """A pure colour painted comes out as itself by the matrix that the stream names, and not by the other one."""
    from demo.scene import Scene

    for size, name, other in (((320, 184), 6, "ITU709"), ((1280, 720), 1, "ITU601")):
        path = film(tmp_path, width=size[0], height=size[1], seconds=0.2, bitrate=8_000_000)
        with av.open(str(path)) as whole:
            frame = next(whole.decode(video=0))
        assert (int(frame.colorspace), int(frame.color_range)) == (name, 1)
        drawn = Scene(*size, 1, "CAM 1").render(0, "00:00:00.000", 0).astype(int)
        right = np.abs(drawn - frame.to_ndarray(format="bgr24")).mean()
        wrong = np.abs(drawn - frame.reformat(format="bgr24", src_colorspace=other).to_ndarray()).mean()
        assert right < 3
        assert wrong > right + 1, (right, wrong)
