"""EXIF fields and the capture time that comes of them."""

from __future__ import annotations

import io
import json
import random
import struct
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from models.values import ReceivedFile, TimestampSource
from services.upload_handler.exif import MAX_TEXT, clean_text, read_exif
from services.upload_handler.upload_time import upload_time
from services.upload_handler.validation import check_image
from tests.kits.fuzz import EXAMPLES

ARRIVED = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)
ROME = ZoneInfo("Europe/Rome")


def block(
    main: dict[int, Any] | None = None, exif: dict[int, Any] | None = None, gps: dict[int, Any] | None = None
) -> bytes:
    made = Image.Exif()
    made.update(main or {})
    if exif:
        made.get_ifd(0x8769).update(exif)
    if gps:
        made.get_ifd(0x8825).update(gps)
    return made.tobytes()


FULL = block(
    {0x010F: "Sony", 0x0110: "ILCE-9M3", 0x0131: "v1", 0x0112: 8},
    {
        0x9003: "2026:05:04 15:29:58", 0x9011: "+02:00", 0x9291: "25", 0x829A: IFDRational(1, 2000),
        0x829D: IFDRational(28, 10), 0x8827: 6400, 0x920A: IFDRational(400, 1), 0xA434: "FE 400mm F2.8",
    },
    {1: "S", 2: (44.0, 20.0, 36.0), 3: "W", 4: (11.0, 42.0, 0.0), 5: b"\x01", 6: IFDRational(25, 2)},
)  # fmt: skip


def test_every_field() -> None:
    assert read_exif(FULL) == {
        "time_original": "2026:05:04 15:29:58", "offset": "+02:00", "sub_second": "25", "exposure_time": 0.0005,
        "f_number": 2.8, "iso": 6400, "focal_length_mm": 400.0, "orientation": 8, "make": "Sony", "model": "ILCE-9M3",
        "lens": "FE 400mm F2.8", "software": "v1", "gps": {"lat": -44.3433333, "lon": -11.7, "alt": -12.5},
    }  # fmt: skip


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "TIFF"])
def test_it_is_found_in_every_format_that_has_it(fmt: str, tmp_path: Any) -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif.load(block({0x010F: "Canon"}, {0x8827: 100}))
    Image.new("RGB", (8, 8)).save(out, fmt, exif=exif)
    path, name = tmp_path / "f", {"JPEG": "a.jpg", "PNG": "a.png", "TIFF": "a.tif"}[fmt]
    path.write_bytes(out.getvalue())
    found = check_image(ReceivedFile(0, name, None, path, len(out.getvalue()), ""), ["jpg", "png", "tiff"], 1000)
    assert found.exif == {"make": "Canon", "iso": 100}


@pytest.mark.parametrize("data", [None, b"", b"Exif\0\0", block()])
def test_none_when_there_is_none(data: bytes | None) -> None:
    assert read_exif(data) is None


def test_values_that_json_or_postgresql_do_not_take_are_left_out() -> None:
    found = read_exif(
        block(
            {0x010F: "a\0b", 0x0110: "x\x01\x1b[31m\u202ey\x7f".encode(), 0x0131: "z" * 5000, 0x0112: 77},
            {0x829A: IFDRational(1, 0), 0x829D: IFDRational(0, 5), 0x8827: 0, 0x920A: IFDRational(0, 0)},
            {1: "N", 2: (IFDRational(1, 0), 0.0, 0.0), 3: "E", 4: (500.0, 0.0, 0.0)},
        )
    )
    assert found == {"make": "a", "model": "x [31m y", "software": "z" * MAX_TEXT}
    json.dumps(found, allow_nan=False).encode("utf-8")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9", "café"),
        (b"\xed\xa0\x80x", "í x"),
        (b"\0\0", None),
        (b"   ", None),
        (b" a  b ", "a b"),
    ],
)
def test_text_is_made_plain(raw: bytes, text: str | None) -> None:
    assert clean_text(raw) == text


def test_damaged_blocks_never_raise() -> None:
    rng = random.Random(5)
    for _ in range(50 * EXAMPLES):
        broken = bytearray(FULL)
        if rng.random() < 0.3:
            broken = broken[: rng.randrange(len(broken))]
        for _ in range(rng.choice((1, 3, 30))):
            if broken:
                broken[rng.randrange(len(broken))] = rng.randrange(256)
        found = read_exif(bytes(broken))
        text = json.dumps(found, allow_nan=False, ensure_ascii=False)
        assert "\\u0000" not in text
        text.encode("utf-8")
        upload_time(None, found, ROME, ARRIVED)


def test_a_tag_bomb_costs_nothing() -> None:
    count = 5400  # of 64 KB each, in 64 KB
    entries = b"".join(struct.pack("<HHII", 1000 + i, 7, 60_000, 10) for i in range(count))
    assert read_exif(b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(4)) == {"damaged": True}


def taken(exif: dict[str, Any] | None, ref: datetime | None = None, zone: ZoneInfo = ROME) -> tuple[str, str, float | None]:
    found = upload_time(ref, exif, zone, ARRIVED)
    assert found.at.tzinfo is UTC
    return found.at.isoformat(), found.source.value, found.uncertainty_ms


def test_the_client_comes_first() -> None:
    ref = datetime(2020, 1, 1, 12, tzinfo=timezone(timedelta(hours=1)))
    assert taken(read_exif(FULL), ref) == ("2020-01-01T11:00:00+00:00", "client", None)


@pytest.mark.parametrize(
    ("fields", "at", "uncertainty"),
    [
        ({"offset": "+02:00"}, "2026-05-04T13:00:00+00:00", 1000.0),
        ({"offset": "-03:30"}, "2026-05-04T18:30:00+00:00", 1000.0),
        ({"offset": "Z"}, "2026-05-04T15:00:00+00:00", 1000.0),
        ({"offset": "+02:00", "sub_second": "25"}, "2026-05-04T13:00:00.250000+00:00", 10.0),
        ({"offset": "+02:00", "sub_second": "007"}, "2026-05-04T13:00:00.007000+00:00", 1.0),
        ({"offset": "+02:00", "sub_second": "1234567"}, "2026-05-04T13:00:00.123456+00:00", 0.001),
        ({"offset": "+02:00", "sub_second": "x"}, "2026-05-04T13:00:00+00:00", 1000.0),
        ({}, "2026-05-04T13:00:00+00:00", None),
        ({"sub_second": "5"}, "2026-05-04T13:00:00.500000+00:00", None),
        ({"offset": "+5:30"}, "2026-05-04T09:30:00+00:00", 1000.0),
        ({"offset": "-330"}, "2026-05-04T18:30:00+00:00", 1000.0),
        ({"offset": "+99:00"}, "2026-05-04T13:00:00+00:00", None),
        ({"offset": "garbage"}, "2026-05-04T13:00:00+00:00", None),
    ],
)
def test_exif_with_and_without_offset(fields: dict[str, str], at: str, uncertainty: float | None) -> None:
    exif = {"time_original": "2026:05:04 15:00:00", **fields}
    assert taken(exif) == (at, "exif", uncertainty)


@pytest.mark.parametrize(
    ("local", "at"),
    [
        ("2025:10:26 02:30:00", "2025-10-26T00:30:00+00:00"),  # twice: the first
        ("2026:03:29 02:30:00", "2026-03-29T01:30:00+00:00"),  # never: as if not yet changed
        ("2026-01-02 03:04:05", "2026-01-02T02:04:05+00:00"),
        ("2019:01:01 24:04:18", "2018-12-31T23:04:18+00:00"),  # four minutes past midnight of that day
        ("2019:01:01 12:00:60", "2019-01-01T11:01:00+00:00"),
        ("2019:12:31 23:59:60", "2019-12-31T23:00:00+00:00"),
    ],
)
def test_local_times_at_the_change_of_the_clock(local: str, at: str) -> None:
    assert taken({"time_original": local}) == (at, "exif", None)


@pytest.mark.parametrize(
    "text",
    ["0000:00:00 00:00:00", "    :  :     :  :  ", "1969:12:31 12:00:00", "2026:05:06 13:30:00", "9999:12:31 23:59:59",
     "2026:02:30 10:00:00", "2026:05:04 25:00:00", "2026:05:04", "", "yesterday", "0001:01:01 00:00:00"],
)  # fmt: skip
def test_a_clock_that_was_never_set_means_arrival(text: str) -> None:
    assert taken({"time_original": text, "offset": "+02:00"}) == (ARRIVED.isoformat(), "upload", None)
    assert taken({"time_original": text}) == (ARRIVED.isoformat(), "upload", None)


def test_the_offset_of_the_last_change_is_used_where_there_is_no_other() -> None:
    for tags, offset in (({0x9010: "+03:00"}, "+03:00"), ({0x9010: "+03:00", 0x9011: "-01:00"}, "-01:00")):
        exif = Image.Exif()
        exif.get_ifd(0x8769).update({0x9003: "2026:05:04 15:00:00", **tags})
        found = read_exif(exif.tobytes())
        assert found is not None
        assert found["offset"] == offset


def test_what_cannot_be_read_is_said() -> None:
    whole = FULL.removeprefix(b"Exif\0\0")
    for block_of_noise in (b"II", b"garbage" * 10, b"II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\x99" * 200):
        assert read_exif(block_of_noise) == {"damaged": True}
    beyond = whole[:4] + b"\xff\xff\xff\x0f" + whole[8:]
    assert read_exif(beyond) == {"damaged": True}
    found = read_exif(whole[: len(whole) * 2 // 3])
    assert found is not None
    assert found["damaged"] is True
    assert "damaged" not in (read_exif(whole) or {})


def test_a_day_ahead_is_still_believed() -> None:
    assert taken({"time_original": "2026:05:05 13:29:00", "offset": "+00:00"})[1] == TimestampSource.EXIF.value


def test_no_exif_means_arrival() -> None:
    assert taken(None) == (ARRIVED.isoformat(), "upload", None)
    assert taken({"make": "Sony"}) == (ARRIVED.isoformat(), "upload", None)
