"""Identifiers, cursors, masking and the log: small leaves that invariants 5 and 6 and every list stand on."""

from __future__ import annotations

import base64
import io
import json
import logging
import random
import re
import string
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import structlog

from models.values import FrameFilter, IngestionStatus, Phase, QualityVerdict, RequestFilter, SourceType
from utils.cursors import _TAG_BYTES, _tag, decode_key, encode_cursor
from utils.exceptions import InvalidRequest
from utils.ids import frame_id, new_id
from utils.logger import Throttle, configure_logging, get_logger, info_line
from utils.urls import mask_text, mask_url

AT = datetime(2026, 5, 4, 13, 30, 0, 123456, UTC)


# -- ids ---------------------------------------------------------------------------------------------------------


def test_new_ids_are_version_7_with_the_milliseconds_of_now() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(2000)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == 2000
    for made in ids:
        assert made.version == 7
        assert made.variant == "specified in RFC 4122"
        assert before <= made.int >> 80 <= after
    assert [made.int >> 80 for made in ids] == sorted(made.int >> 80 for made in ids)


def test_new_ids_of_later_milliseconds_sort_later() -> None:
    ids = [new_id(ms) for ms in (0, 1, 255, 256, 2**31, 2**40, 2**48 - 1)]
    assert ids == sorted(ids)
    assert [str(made) for made in ids] == sorted(str(made) for made in ids)
    assert new_id(2**48 - 1).int >> 80 == 2**48 - 1


def test_new_ids_vary_in_every_random_bit() -> None:
    seen_set = seen_clear = 0
    fixed = (0xF << 76) | (0x3 << 62)  # version and variant
    for _ in range(200):
        tail = new_id(1).int & ((1 << 80) - 1)
        seen_set |= tail
        seen_clear |= ~tail & ((1 << 80) - 1)
    assert (seen_set & seen_clear) | fixed == (1 << 80) - 1


def test_a_frame_id_is_the_same_in_every_process_and_at_every_retry() -> None:
    request = UUID("01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d4e")
    # A constant on purpose: rows in databases were made with it.
    assert frame_id(request, 7, AT) == UUID("019df32e-703b-8f6a-957b-8b1ccd3ff860")
    made = frame_id(request, 7, AT)
    assert made.version == 8
    assert made.variant == "specified in RFC 4122"
    assert made.int >> 80 == int(AT.timestamp() * 1000)


def test_frame_ids_differ_by_request_and_slot_and_sort_by_time() -> None:
    request, other = new_id(), new_id()
    slots = [frame_id(request, k, AT + timedelta(milliseconds=40 * k)) for k in range(500)]
    assert slots == sorted(slots)
    assert len(set(slots)) == 500
    assert frame_id(request, 1, AT) != frame_id(request, 2, AT)
    assert frame_id(request, 1, AT) != frame_id(other, 1, AT)
    assert frame_id(request, 1, datetime(1960, 1, 1, tzinfo=UTC)).int >> 80 == 0  # EXIF may say anything


# -- cursors -----------------------------------------------------------------------------------------------------

FILTERS = [
    RequestFilter(),
    RequestFilter(camera_id="a"),
    RequestFilter(camera_id="b"),
    RequestFilter(status=IngestionStatus.FAILED),
    RequestFilter(source_type=SourceType.RTSP),
    RequestFilter(created_from=AT),
    RequestFilter(created_to=AT),
    FrameFilter(),
    FrameFilter(camera_id="a"),
    FrameFilter(request_id=UUID(int=1)),
    FrameFilter(from_=AT),
    FrameFilter(to=AT),
    FrameFilter(source_type=SourceType.RTSP),
    FrameFilter(descending=True),
    FrameFilter(subject="a"),
    FrameFilter(session="a"),
    FrameFilter(phase=Phase.BEFORE),
    FrameFilter(quality=QualityVerdict.BAD),
    RequestFilter(subject="a"),
]


def test_a_cursor_comes_back_whole_and_only_with_its_own_filters() -> None:
    row = new_id()
    for mine in FILTERS:
        cursor = encode_cursor(AT, row, mine, key=b"k")
        assert decode_key(cursor, mine, UUID, b"k") == (AT, row)
        assert cursor.isascii()
        assert not set(cursor) & set("+/=&?# ")
        for other in FILTERS:
            if other is not mine:
                with pytest.raises(InvalidRequest):
                    decode_key(cursor, other, UUID, b"k")


def test_forged_cursors_are_refused_and_never_crash() -> None:
    rng = random.Random(4)
    good = encode_cursor(AT, new_id(), FrameFilter(), key=b"k")
    raw = base64.urlsafe_b64decode(good + "=" * (-len(good) % 4))
    tries: list[str] = ["", "=", "a", "ab", "é", "\x00", "null", "{}", "-" * 500, "A" * 501, good + "A", good[:-1], good * 2]
    for _ in range(2000):
        kind = rng.randrange(3)
        if kind == 0:  # one bit of the decoded bytes
            at = rng.randrange(len(raw) * 8)
            changed = bytearray(raw)
            changed[at // 8] ^= 1 << at % 8
            tries.append(base64.urlsafe_b64encode(bytes(changed)).decode().rstrip("="))
        elif kind == 1:
            tries.append(base64.urlsafe_b64encode(rng.randbytes(rng.randrange(120))).decode().rstrip("="))
        else:
            tries.append("".join(chr(rng.randrange(1, 0x250)) for _ in range(rng.randrange(1, 80))))
    for cursor in tries:
        with pytest.raises(InvalidRequest) as caught:
            decode_key(cursor, FrameFilter(), UUID, b"k")
        assert caught.value.errors[0].name == "cursor"


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"null", b"7", b'"x"', b"[]", b"[1]", b"[1,2]", b"[1,2,3]", b'["2026-05-04T13:30:00+00:00"]',
        b'["2026-05-04T13:30:00", "01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d4e"]',  # no offset: the database would refuse it
        b'["nonsense", "01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d4e"]', b'["2026-05-04T13:30:00+00:00", "x"]',
        b'["2026-05-04T13:30:00+00:00", 5]', b'["2026-05-04T13:30:00+00:00", null]', b'["2026-05-04T13:30:00+00:00", {}]',
        b"\xff\xfe", b'{"a":1,"b":2}', b"[" * 300,
    ],
)  # fmt: skip
def test_a_cursor_with_a_right_tag_and_a_wrong_inside_is_refused(payload: bytes) -> None:
    forged = base64.urlsafe_b64encode(_tag(payload, FrameFilter(), b"k") + payload).decode().rstrip("=")
    assert len(_tag(payload, FrameFilter(), b"k")) == _TAG_BYTES
    with pytest.raises(InvalidRequest):
        decode_key(forged, FrameFilter(), UUID, b"k")


# -- masking -----------------------------------------------------------------------------------------------------

SECRET = "S3cr3t"
URLS = [
    f"rtsp://user:{SECRET}@host/path",
    f"RTSP://user:{SECRET}@host:554/path?a=b",
    f"rtsps://user:{SECRET}%40x%2Fy@host/path",
    f"rtsp://user:{SECRET}@x@host/path",
    f"rtsp://user:a@b@{SECRET}@host/path",
    f"rtsp://user:a@b/{SECRET}@host/path",
    f"rtsp://user:a@b/c?{SECRET}@host/path",
    f"rtsp://user:{SECRET}/x@host/path",
    f"rtsp://user:12/{SECRET}@host/path",
    f"rtsp://us/er:{SECRET}@host/path",
    f"rtsp://user:{SECRET}?x@host/path",
    f"rtsp://user:x?{SECRET}@host/path",
    f"rtsp://user:x#{SECRET}@host/path",
    f"rtsp://user:x'{SECRET}@host/path",
    f'rtsp://user:x"{SECRET}@host/path',
    f"rtsp://user:<{SECRET}>@host/path",
    f"rtsp://user:é{SECRET}@host/path",
    f"rtsp://:{SECRET}@host/path",
    f"rtsp://user:{SECRET}@[::1]:554/path",
    f"rtsp://host/path?user=admin&password={SECRET}",
    f"rtsp://host/path?token={SECRET}&x=1",
    f"rtsp://host/path;pwd={SECRET}",
    f"rtsp://host/path?usr=admin&psw={SECRET}",
    f"rtsp://host/path?loginuse=admin&loginpas={SECRET}",
    f"rtsp://host/user=admin_password={SECRET}_channel=1_stream=0.sdp",
    f"rtsp://host/user=admin&password={SECRET}&channel=1",
    f"postgresql+asyncpg://user:{SECRET}@host:5432/db",
    f"https://host/k?X-Amz-Credential=a&X-Amz-Signature={SECRET}",
    f"rtsp://host/path?t={SECRET}",
    f"rtsp://host?t={SECRET}",
    f"rtsp://host/path?{SECRET}",
    f"rtsp://host/path?a=b?c={SECRET}#d",
    f"rtsp://host/path#{SECRET}",
    f"rtsp://host/path?t='{SECRET}'&x",
    f'rtsp://host/path?t="{SECRET}',
    f"rtsp://{SECRET}@host/path",
    f"rtsp://{SECRET}:x@host/path",
    f"rtsp://host/user={SECRET}_password=x_channel=1",
    f"rtsp://host/live;token={SECRET}/stream",
    f"rtsp://host/live/session={SECRET}/stream",
    f"rtsp://host/&user={SECRET}&channel=1",
    f"rtsps://host:7441/{SECRET}fYrbXAMyr0xKYuC1",
    f"rtsp://host/live/{SECRET.encode().hex()}0123456789abcdef0123/stream",
]


@pytest.mark.parametrize("url", URLS)
def test_no_form_of_url_shows_its_secret(url: str) -> None:
    secrets = (SECRET, SECRET.encode().hex())
    assert not [each for each in secrets if each in mask_url(url) + mask_text(url)]
    assert mask_url(mask_url(url)) == mask_url(url)
    assert "host" in mask_url(url) or "[::1]:554" in mask_url(url)
    for around in (
        "{}",
        "cannot open {}: 401",
        "[tcp @ 0x5581] {}: Connection refused",
        "'{}'",
        '{{"url":"{}"}}',
        "<{}>",
        "a={},b=2",
    ):
        assert not [each for each in secrets if each in mask_text(around.format(url))], around


def test_what_is_no_secret_stays() -> None:
    assert mask_url("rtsp://user:pw@10.0.0.1:554/a/b?c=d") == "rtsp://10.0.0.1:554/a/b"
    assert mask_url("rtsp://user@host/x") == "rtsp://host/x"
    assert mask_url("rtsp://h/user=a_password=b_c_channel=1.sdp?x") == "rtsp://h/user=***_password=***_channel=1.sdp"
    assert mask_url("rtsps://10.0.0.1:7441/fYrbXAMyr0xKYuC1?enableSrtp") == "rtsps://10.0.0.1:7441/***"
    for plain in ("rtsp://host/stream@2", "rtsp://[::1]/x", "no url"):
        assert mask_url(plain) == plain
    assert mask_text("cannot open 'rtsp://u:p@host/x?t=1': 401") == "cannot open 'rtsp://host/x': 401"
    for plain in ("mail me@x.org", "rtsp://host/stream1 failed", "at 12:30 a=b", "10 of 12 stored"):
        assert mask_text(plain) == plain


@pytest.mark.parametrize(
    "path",
    [
        "Streaming/Channels/101", "h264Preview_01_main", "axis-media/media.amp", "cam/realmonitor", "live/ch00_0", "onvif1",
        "MediaInput/h264/stream_1", "unicast/c1/s0/live", "ISAPI/Streaming/channels/101/picture", "profile2/media.smp",
        "0190a0b0-0000-7000-8000-000000000001", "cam-3f9c0a1b2c3d4e5f", "LiveChannel/0/media.smp", "channel=1/stream=0.sdp",
    ],
)  # fmt: skip
def test_paths_of_cameras_are_shown(path: str) -> None:
    assert mask_url(f"rtsp://host:554/{path}") == f"rtsp://host:554/{path}"


def test_a_random_token_in_a_path_is_masked() -> None:
    """Of 16 letters and digits 93 of 100 (the others have no digit), of 32 all but one in 100."""
    alphabet, seeded = string.ascii_letters + string.digits, random.Random(7)
    for length, least in ((16, 930), (22, 970), (32, 990)):
        tokens = ["".join(seeded.choices(alphabet, k=length)) for _ in range(1000)]
        assert sum(mask_url(f"rtsp://h/{token}/x") == "rtsp://h/***/x" for token in tokens) >= least


def test_two_urls_in_one_line_are_both_masked() -> None:
    for between in (" ", " -> ", ",", "|", "\n"):
        line = f"moved rtsp://a:{SECRET}1@h1/x{between}rtsp://b:{SECRET}2@h2/y done"
        assert SECRET not in mask_text(line)
        assert "h2/y" in mask_text(line)


def test_authorization_values_are_masked() -> None:
    for line in (
        f"Authorization: Basic {SECRET}", f"authorization=Bearer {SECRET}",
        f'Authorization: Digest username="u", response="{SECRET}"', f"Proxy-Authorization: Basic {SECRET}\r\nCSeq: 2",
        f"{{'Authorization': 'Basic {SECRET}'}}", f'{{"authorization":"Bearer {SECRET}"}}',
    ):  # fmt: skip
        assert SECRET not in mask_text(line), line


def test_masking_is_fast_on_hostile_text() -> None:
    for line in (
        "a://" * 20_000, "rtsp://" + "x" * 100_000, "?token=" * 20_000, "rtsp://a:b@" * 10_000, "x" * 200_000,
        "ab://" * 20_000, "rtsp://h/" + "_a" * 50_000 + "=b", "rtsp://h/" + "/x=_" * 20_000, "rtsp://h/" + "aB1" * 40_000,
    ):  # fmt: skip
        began = time.perf_counter()
        mask_text(line)
        mask_url(line)
        assert time.perf_counter() - began < 2.0


# -- the log -----------------------------------------------------------------------------------------------------


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    """The real configuration, writing to a buffer; undone afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    names = ("uvicorn", "uvicorn.error", "uvicorn.access", "botocore", "boto3", "urllib3", "s3transfer", "PIL", "asyncio",
             "alembic", "python_multipart", "libav")  # fmt: skip
    kept = {name: (logging.getLogger(name).level, logging.getLogger(name).disabled) for name in names}
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, (was, disabled) in kept.items():
        logging.getLogger(name).setLevel(was)
        logging.getLogger(name).disabled = disabled
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def configure(buffer: io.StringIO, level: str, fmt: str) -> None:
    configure_logging(level, fmt)
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr
    handler.setStream(buffer)


def _fail_with_a_url() -> None:
    try:
        raise OSError(f"cv2: cannot open rtsp://user:{SECRET}@host/x")
    except OSError as error:
        raise RuntimeError(f"reader: Authorization: Basic {SECRET}") from error


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_nothing_that_is_logged_shows_a_secret(log_lines: io.StringIO, fmt: str) -> None:
    configure(log_lines, "DEBUG", fmt)
    log = get_logger(f"test-{fmt}")
    url = f"rtsp://user:{SECRET}@host/x"
    log.info("plain", url=url, nested={"deep": [url, {"u": url}], "password": SECRET}, data=url.encode(), error=OSError(url))
    log.info(f"in the event {url}")  # noqa: G004
    log.warning("positional %s", url)
    log.info("keys", db_password=SECRET, api_key=SECRET, Authorization=SECRET, secret_key=SECRET, upload_token=SECRET)
    structlog.contextvars.bind_contextvars(camera_url=url)
    log.info("bound")
    foreign = logging.getLogger("uvicorn.error")
    foreign.warning("from a library: %s", url)
    foreign.info("with extra", extra={"url": url})
    try:
        _fail_with_a_url()
    except RuntimeError:
        log.exception("ours")
        foreign.exception("theirs")
        log.info("stack", stack_info=True)
    text = log_lines.getvalue()
    assert SECRET not in text
    assert text.count("host/x") >= 8  # the rest of each URL is still there
    assert "Traceback" in text
    if fmt == "json":
        lines = [json.loads(line) for line in text.splitlines()]
        assert {line["event"] for line in lines} >= {"plain", "ours", "theirs", "bound"}
        assert all({"level", "timestamp", "logger", "event"} <= set(line) for line in lines)


FORGED = "2026-01-01T00:00:00Z [info     ] forged                         [test] subject=admin"
BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
HOSTILE = [f"a{each}{FORGED}" for each in BREAKS] + [
    f"\x1b[2K\x1b[1A{FORGED}", f"\x9b2K{FORGED}", f"\b\b{FORGED}", f"\x7f\0{FORGED}", f"\u202e{FORGED}",
    f"\udcff\ud800{FORGED}",
]  # fmt: skip


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_no_value_of_any_field_begins_a_line(log_lines: io.StringIO, fmt: str) -> None:
    """Nor moves the cursor, nor turns the direction of text. Texts, parts of other values, names, messages, tracebacks."""
    configure(log_lines, "DEBUG", fmt)
    log, foreign, lines = get_logger(f"hostile-{fmt}"), logging.getLogger("uvicorn.error"), 0
    for text in HOSTILE:
        log.info(text)
        data = text.encode("utf-8", "surrogatepass")
        log.info("field", path=text, nested={"a": [text, {text: 1}]}, data=data, error=OSError(text))
        log.info("name", **{text: 1})
        log.info("positional %s", text)
        foreign.warning("theirs: %s", text, extra={"of": text})
        structlog.contextvars.bind_contextvars(bound=text)
        log.info("bound")
        structlog.contextvars.clear_contextvars()
        lines += 6
        try:
            raise RuntimeError(text)
        except RuntimeError:
            log.exception("failed")
            foreign.exception("failed")
            log.info("stack", stack_info=True)
        lines += 3
    text = log_lines.getvalue()
    assert "forged" in text
    found = text.split("\n")[:-1]
    assert not [char for char in set(text) - {"\n"} if not char.isprintable()]
    entries = [line for line in found if not line.startswith("  | ")]
    assert len(entries) == lines
    if fmt == "json":
        assert all(text.isascii() for text in found)
        assert all(json.loads(line)["level"] for line in found)
    else:
        assert all(re.match(r"\d{4}-\d\d-\d\dT[0-9:.]*Z \[", line) for line in entries)
        assert not [line for line in entries if line.startswith(FORGED[:20])]


def test_the_level_holds_and_access_lines_are_ours_alone(log_lines: io.StringIO) -> None:
    configure(log_lines, "WARNING", "json")
    get_logger("quiet").info("not shown")
    logging.getLogger("uvicorn.access").error("GET /?token=x")
    logging.getLogger("botocore").info("not shown")
    get_logger("quiet").warning("shown")
    assert [json.loads(line)["event"] for line in log_lines.getvalue().splitlines()] == ["shown"]


# -- throttle ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["json", "console"])
@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_a_line_of_every_request_is_as_all_others(log_lines: io.StringIO, level: str, fmt: str) -> None:
    configure(log_lines, level, fmt)
    fields = {"path": f"/a?token={SECRET}\n\x7f\u2028", "status": 200, "duration_ms": 1.5, "code": None, "password": SECRET}
    structlog.contextvars.bind_contextvars(request_id="r-1")
    try:
        get_logger("api.access").info("http_request", **fields)
        info_line("api.access", "http_request", fields)
    finally:
        structlog.contextvars.clear_contextvars()
    lines = [re.sub(r"20\d\d-\S+Z", "AT", line) for line in log_lines.getvalue().splitlines()]
    assert len(lines) == (2 if level == "INFO" else 0)
    if lines and fmt == "json":
        assert json.loads(lines[0]) == json.loads(lines[1])
    elif lines:
        assert lines[0] == lines[1]
    assert SECRET not in log_lines.getvalue()


def test_a_throttle_lets_one_line_through_and_says_how_many_it_withheld() -> None:
    now = 100.0
    throttle = Throttle(10, lambda: now)
    assert throttle.allow("a") == 0
    assert [throttle.allow("a") for _ in range(5)] == [None] * 5
    assert throttle.allow("b") == 0  # another key is another line
    now = 109.9
    assert throttle.allow("a") is None
    now = 110.0
    assert throttle.allow("a") == 6
    assert throttle.allow("a") is None
    now = 130.0
    assert throttle.allow("a") == 1
    now = 150.0
    assert throttle.allow("a") == 0


def test_a_throttle_holds_a_bounded_number_of_keys() -> None:
    throttle = Throttle(10, lambda: 0.0, max_keys=3)
    for key in "abcdefgh":
        assert throttle.allow(key) == 0
    assert len(throttle._last) == 3
    assert throttle.allow("h") is None  # the newest are kept
