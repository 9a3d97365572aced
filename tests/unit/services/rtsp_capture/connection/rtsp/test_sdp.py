"""SDPs as cameras write them: which track is captured, and what it is asked for by."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rtsp_capture.connection.rtsp.sdp import VideoTrack, aggregate_urls, control_urls, video_track
from tests.kits.fuzz import fuzzed
from utils.exceptions import CaptureFailure

HEAD = "v=0\r\no=- 0 0 IN IP4 1.2.3.4\r\ns=x\r\nt=0 0\r\n"
H264 = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
AV1 = "m=video 0 RTP/AVP 97\r\na=rtpmap:97 AV1/90000\r\na=control:av1\r\n"
META = "m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\na=control:meta\r\n"


@pytest.mark.parametrize(
    ("media", "codec", "payload"),
    [
        (H264, "h264", 96),
        ("m=video 0 RTP/AVP 97\r\na=rtpmap:96 H264/90000\na=rtpmap:97 h265/90000\n", "hevc", 97),
        ("m=audio 0 RTP/AVP 0\r\nm=video 0 RTP/AVP 26\r\na=control:x\r\n", "mjpeg", 26),
        ("m=video 0 RTP/AVP 98\r\na=rtpmap:98 JPEG/90000\r\nm=audio 0 RTP/AVP 8\r\n", "mjpeg", 98),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\n" + H264.replace("96", "97"), "hevc", 96),
        # As owners of cameras report them.
        (AV1 + H264, "h264", 96), (META + H264, "h264", 96), ("m=audio 0 RTP/AVP 97\r\na=control:a\r\n" + H264, "h264", 96),
        ("c=\x01\x02IN IP4\r\n" + H264, "h264", 96), ("c=IN c=IN IP4 0.0.0.0\r\n" + H264, "h264", 96),
        ("m=video -1 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n", "h264", 96),
        ("m=video 0 RTP/AVP 98 96\r\na=rtpmap:96 H264/90000\r\n", "h264", 96),
        ("m=video 0 RTP/AVP 98 96\r\na=rtpmap:98 H264/90000\r\n", "h264", 98),
        ("m=video 0 RTP/AVP 98 96\r\na=rtpmap:98 VP9/90000\r\na=rtpmap:96 H264/90000\r\n", "h264", 96),
        ("m=video 0 RTP/AVP 98\r\na=rtpmap:96 H264/90000\r\n", "h264", 96),
        ("m=video 0 RTP/AVP 96\r\na=rtpmap:96  H264\r\n", "h264", 96),
        ("m=video\t0 RTP/AVP\t96\na=rtpmap:96\tH264/90000", "h264", 96),
        ("m=VIDEO 0 RTP/AVP 96\r\na=rtpmap:96 h264/0\r\n", "h264", 96),
        ("m = video 0 RTP/AVP 96\r\na= rtpmap:96 H264/90000\r\n", "h264", 96),
        ("\x00m=video 0 RTP/AVP 96\r\r\na=rtpmap:96 H264 / 90000\r\r\n", "h264", 96),
        ("m=audio 0 RTP/AVP 0\r\n", "no_video", 0), ("", "stream_ended", 0), ("v=0\r\ns=x\r\n", "stream_ended", 0),
        ("m=\r\n", "no_video", 0), ("m=video\r\n", "no_video", 0),
        (META, "no_video", 0), (AV1, "unsupported_codec", 0), ("m=video 0 RTP/AVP 96\r\n", "unsupported_codec", 0),
    ],
)  # fmt: skip
def test_the_first_video_that_can_be_decoded(media: str, codec: str, payload: int) -> None:
    if not payload:
        with pytest.raises(CaptureFailure) as caught:
            video_track((HEAD + media).encode())
        assert caught.value.code == codec
        return
    track = video_track((HEAD + media).encode())
    assert (track.codec, track.payload_type, track.clock_rate) == (codec, payload, 90_000)


def test_parameter_sets_frame_rate_and_extensions() -> None:
    sps, pps = b"\x67\x42\x00\x1e" + bytes(9), b"\x68\xce"
    sets = f"{base64.b64encode(sps).decode()},{base64.b64encode(pps).decode()}"
    lines = (
        f"a=fmtp:96 packetization-mode=1;  sprop-parameter-sets={sets};profile-level-id=42001e\r\na=framerate:12.5\r\n"
        "a=extmap:3 http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time\r\n"
    )
    track = video_track((HEAD + H264 + lines).encode())
    assert (track.sets, track.fps, track.capture_time) == ((sps, pps), 12.5, 3)
    broken = video_track((HEAD + H264 + "a=fmtp:96 sprop-parameter-sets=Z,!!,\r\na=framerate:x\r\n").encode())
    assert (broken.sets, broken.fps) == ((), None)
    hevc = video_track(
        b"m=video 0 RTP/AVP 96\na=rtpmap:96 H265/90000\na=fmtp:96 sprop-vps=QAE=; sprop-sps=QgE=; sprop-pps=RAE=; "
        b"sprop-max-don-diff=2"
    )
    assert (hevc.sets, hevc.don) == ((b"\x40\x01", b"\x42\x01", b"\x44\x01"), True)


ASKED = "rtsp://cam:554/live?ch=1&sub=%24a"


def track(control: str, base: str = "") -> VideoTrack:
    session = f"a=control:{base}\r\n" if base else ""
    return video_track((HEAD + session + H264 + (f"a=control:{control}\r\n" if control else "")).encode())


@pytest.mark.parametrize(
    ("control", "session", "content_base", "url"),
    [
        ("trackID=1", "", "rtsp://cam:554/live/", "rtsp://cam:554/live/trackID=1"),
        ("trackID=1", "*", "rtsp://cam:554/live", "rtsp://cam:554/live/trackID=1"),
        ("trackID=1", "", "", f"{ASKED}/trackID=1"),  # the query stays in front, byte for byte, as FFmpeg does it
        ("/trackID=1?a=%20", "", "rtsp://cam/x?q=%24&r", "rtsp://cam/x?q=%24&r/trackID=1?a=%20"),
        ("rtsp://cam:554/other/path/t1?x=%24", "", "rtsp://cam:554/live/", "rtsp://cam:554/other/path/t1?x=%24"),
        ("rtsp://10.9.9.9/live/t1", "", "", "rtsp://10.9.9.9/live/t1"),  # a name only: the connection stays
        ("t1", "rtsp://10.9.9.9/s/", "rtsp://cam/live/", "rtsp://10.9.9.9/s/t1"),
        ("", "", "rtsp://cam/live/", "rtsp://cam/live/"), ("*", "", "", ASKED),
    ],
)  # fmt: skip
def test_control_urls(control: str, session: str, content_base: str, url: str) -> None:
    found = control_urls(track(control, session), ASKED, content_base)
    assert found[0] == url
    assert len(set(found)) == len(found) <= 4


def test_a_camera_behind_translation_is_asked_by_our_name_for_it_too() -> None:
    assert "rtsp://cam:554/live/t1" in control_urls(track("t1"), ASKED, "rtsp://192.168.1.64:554/live/")


def test_urls_with_blanks_are_not_sent() -> None:
    assert all(" " not in url for url in control_urls(track("a b"), ASKED, ""))
    assert aggregate_urls(track("t", "rtsp://x/a b"), ASKED, "", "rtsp://x/t")[0] == ASKED


TEXT = st.text(st.characters(max_codepoint=0x2FF), max_size=40)
LINES = st.one_of(
    TEXT, TEXT.map(lambda t: f"m=video {t}"), TEXT.map(lambda t: f"a=rtpmap:{t}"), TEXT.map(lambda t: f"a=fmtp:96 {t}"),
    st.sampled_from(["m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000", "a=control:rtsp://[::1"]),
)  # fmt: skip


@fuzzed
@given(st.one_of(st.binary(max_size=500), st.lists(LINES, max_size=30).map("\r\n".join).map(str.encode)), TEXT)
def test_any_sdp_gives_a_track_or_a_failure(data: bytes, base: str) -> None:
    try:
        found = video_track(data)
    except CaptureFailure:
        return
    for url in control_urls(found, ASKED, base) + aggregate_urls(found, ASKED, base, "rtsp://x/y"):
        assert url.isprintable()


def test_256_kib_of_anything_take_no_second() -> None:
    for line in ("m=video 0 RTP/AVP 96\r\n", "a=rtpmap:96 \t \t \t\r\n", "a=fmtp:96 ;;;;;;==;\r\n", "\t \t \t", "a=x\r\n"):
        data = (H264 + line * (256 * 1024 // len(line))).encode()
        assert video_track(data).codec == "h264"
