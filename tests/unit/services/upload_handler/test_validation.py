"""check_image with real pictures: whole ones pass, everything else is a typed refusal."""

from __future__ import annotations

import hashlib
import io
import random
import resource
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from models.values import ReceivedFile
from services.upload_handler.check_call import CheckedImage
from services.upload_handler.validation import check_image
from tests.kits.fuzz import EXAMPLES
from tests.kits.pictures import (
    BMPS,
    GOOD,
    JPEGS,
    PHOTO,
    PLAIN,
    PNGS,
    SMALL,
    TIFFS,
    chunk,
    encoded,
    flat_jpeg,
    png,
    rich_exif,
    run_length_bmp,
    tiff,
)
from utils.exceptions import (
    ImageTooLarge,
    ImageTypeMismatch,
    InvalidImage,
    PayloadTooLarge,
    UnsupportedImageFormat,
)

# Of damaged TIFFs; the module filters them, pytest undoes it.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
ALL = ["jpg", "png", "bmp", "tiff"]
MAX_PIXELS = 20_000_000


@pytest.fixture
def check(tmp_path: Path) -> Any:
    def run(
        data: bytes, name: str | None = "a.jpg", declared: str | None = None, max_pixels: int = MAX_PIXELS, **fields: Any
    ) -> CheckedImage:
        path = tmp_path / "received"
        path.write_bytes(data)
        file = ReceivedFile(0, name, declared, path, len(data), hashlib.sha256(data).hexdigest(), **fields)
        return check_image(file, fields.pop("allowed", ALL), max_pixels)

    return run


good = pytest.mark.parametrize(("fmt", "data"), [pytest.param(fmt, data, id=name) for name, fmt, data in GOOD])


@good
def test_whole_pictures_pass(check: Any, fmt: str, data: bytes) -> None:
    found = check(data, f"x.{fmt}")
    assert found.format == fmt
    assert (found.width, found.height) in ((320, 240), (2, 2))


@good
def test_cut_pictures_are_refused_at_every_length(check: Any, fmt: str, data: bytes) -> None:
    lengths = {1, 2, 3, 8, 16, 30, 60, 100, len(data) - 1, len(data) - 2, len(data) - 3, len(data) - 13}
    lengths |= {len(data) * step // 23 for step in range(1, 23)}
    for length in sorted(n for n in lengths if 0 < n < len(data)):
        with pytest.raises((InvalidImage, ImageTypeMismatch)):
            check(data[:length], f"x.{fmt}")


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_cut_in_its_scan_with_an_end_put_on_is_refused(check: Any, name: str) -> None:
    data = JPEGS[name]
    start = data.index(b"\xff\xda") + 20
    for step in range(1, 20):
        with pytest.raises(InvalidImage):
            check(data[: start + (len(data) - 10 - start) * step // 20].rstrip(b"\xff") + b"\xff\xd9")


@pytest.mark.parametrize("name", ["baseline", "progressive", "cmyk"])
def test_what_cameras_really_write_is_not_refused(check: Any, name: str) -> None:
    data = JPEGS[name]
    after_soi = b"\xff\xd8\xff\xe2\x00\x10MPF\0" + bytes(10)
    tables = data.index(b"\xff\xdb")
    odd = {
        "trailing bytes": data + b"SEFT" + bytes(5000),
        "a second picture (MPO)": data + JPEGS["grey"],
        "a second picture, cut": data + JPEGS["grey"][:300],
        "padding before the end": data[:-2] + bytes(37) + b"\xff\xd9",
        "fill bytes before a marker": data[:tables] + b"\xff\xff\xff" + data[tables:],
        "bytes before a marker": data[:tables] + b"\x11\x22\x33" + data[tables:],
        "both": data[:tables] + b"\x11\x22\x33" + data[tables:-2] + bytes(50) + b"\xff\xd9",
        "a segment nobody knows": after_soi + data[2:],
        "a comment with an end marker in it": b"\xff\xd8\xff\xfe\x00\x06\xff\xd9\xff\xda" + data[2:],
    }
    if b"JFIF" in data:
        at = data.index(b"JFIF") + 5
        odd["JFIF 9"] = data[:at] + b"\x09" + data[at + 1 :]
    if name == "baseline":
        scan = data.index(b"\xff\xda")
        spectral = scan + 5 + 2 * data[scan + 4]
        odd["odd scan parameters"] = data[: spectral + 1] + b"\0" + data[spectral + 2 :]
    for what, picture in odd.items():
        found = check(picture)
        assert (found.width, found.height) == (320, 240), what


def test_a_cut_scan_is_not_hidden_by_harmless_oddities(check: Any) -> None:
    data = JPEGS["baseline"]
    tables = data.index(b"\xff\xdb")
    odd = data[:tables] + b"\x11\x22\x33" + data[tables : len(data) * 2 // 3]
    for picture in (odd + b"\xff\xd9", odd + bytes(40) + b"\xff\xd9"):
        with pytest.raises(InvalidImage):
            check(picture)


def test_a_real_mpo_passes(check: Any) -> None:
    found = check(encoded("MPO", save_all=True, append_images=[PHOTO.rotate(90)]))
    assert (found.format, found.width, found.height) == ("jpg", 320, 240)


def test_animated_and_multi_page_files(check: Any) -> None:
    pages = [PHOTO.rotate(turn) for turn in (1, 2, 3)]
    assert check(encoded("PNG", save_all=True, append_images=pages), "a.png").format == "png"
    assert check(encoded("TIFF", save_all=True, append_images=pages), "a.tif", "image/tiff").format == "tiff"
    for fmt, name in (("PNG", "a.png"), ("TIFF", "a.tiff")):
        with pytest.raises(ImageTooLarge):
            check(encoded(fmt, save_all=True, append_images=pages), name, max_pixels=4 * 320 * 240 - 1)
    tiny = [Image.new("1", (1, 1))] * 101
    with pytest.raises(ImageTooLarge):
        check(encoded("TIFF", tiny[0], save_all=True, append_images=tiny[1:]), "a.tiff")


def test_a_damaged_later_page_is_found(check: Any) -> None:
    data = encoded("TIFF", save_all=True, append_images=[PHOTO.rotate(1)], compression="tiff_lzw")
    check(data, "a.tiff")
    second = data.rindex(b"\x80\x00")  # LZW streams begin with a clear code
    broken = data[:second] + b"\xff" * 200 + data[second + 200 :]
    with pytest.raises(InvalidImage):
        check(broken, "a.tiff")


def test_size_is_the_files_not_the_oriented_one(check: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for fmt, name in (("JPEG", "a.jpg"), ("PNG", "a.png"), ("TIFF", "a.tif")):
        found = check(encoded(fmt, exif=exif), name)
        assert (found.width, found.height) == (320, 240)
        assert found.exif["orientation"] == 6


@pytest.mark.parametrize("order", ["<", ">"])
def test_big_tiff(check: Any, order: str) -> None:
    pixels = bytes(range(16))
    tags = [
        (256, 3, 4),
        (257, 3, 4),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 16),
        (277, 3, 1),
        (278, 3, 4),
        (279, 4, 16),
    ]
    entries = b"".join(
        struct.pack(f"{order}HHQ", tag, kind, 1) + struct.pack(f"{order}{'H' if kind == 3 else 'I'}", value).ljust(8, b"\0")
        for tag, kind, value in tags
    )
    magic = b"II" if order == "<" else b"MM"
    data = (
        magic + struct.pack(f"{order}HHHQ", 43, 8, 0, 32) + pixels + struct.pack(f"{order}Q", len(tags)) + entries + bytes(8)
    )
    if order == ">":
        with pytest.raises(UnsupportedImageFormat):  # Pillow does not read it
            check(data, "a.tiff")
        return
    assert check(data, "a.tiff").width == 4
    with pytest.raises(InvalidImage):
        check(data[:-9], "a.tiff")


@pytest.mark.parametrize("declared", ["image/jpeg", "image/jpg", "image/pjpeg", None, "", "application/octet-stream"])
@pytest.mark.parametrize("name", ["a.jpg", "A.JPEG", "x.y.Jpg"])
def test_jpeg_under_all_its_names(check: Any, declared: str | None, name: str) -> None:
    assert check(JPEGS["baseline"], name, declared).content_type == "image/jpeg"


@pytest.mark.parametrize(
    ("data", "name", "declared"),
    [
        (JPEGS["baseline"], "a.png", None), (PNGS["rgb"], "a.jpg", None), (PNGS["rgb"], "a.png", "image/jpeg"),
        (BMPS["RGB"], "a.bmp", "image/png"), (TIFFS["RGB-None"], "a.jpg", "image/tiff"),
        (JPEGS["baseline"], "a.jpg", "text/plain"),
        (JPEGS["baseline"], "a.jpg", "image/gif"), (b"just text, no picture", "a.jpg", "image/jpeg"),
        (encoded("GIF", SMALL), "a.png", None), (encoded("WEBP"), "a.jpg", None), (b"\xff", "a.jpg", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.png", "image/png"), (b"PK\x03\x04", "a.tiff", None),
    ],
)  # fmt: skip
def test_bytes_that_contradict_name_or_type(check: Any, data: bytes, name: str, declared: str | None) -> None:
    with pytest.raises(ImageTypeMismatch):
        check(data, name, declared)


@pytest.mark.parametrize("name", ["a.gif", "a.jpg.exe", "a.svg", "a.PDF", "a.html", "a.txt"])
def test_names_of_another_kind(check: Any, name: str) -> None:
    with pytest.raises(UnsupportedImageFormat):
        check(JPEGS["baseline"], name)


@pytest.mark.parametrize(
    "name", ["blob", "a", "a.jfif", "a.jpe", "A.JPG", "a.jpg ", "a.mpo", "jpg", "", None, ".", "upload.tmp", "a.bin", "4.5"]
)
def test_names_that_claim_no_other_kind(check: Any, name: str | None) -> None:
    """The bytes decide."""
    for declared in ("image/jpeg", "application/octet-stream", None):
        assert check(JPEGS["baseline"], name, declared).format == "jpg"


def test_what_is_no_picture_and_does_not_claim_to_be(check: Any) -> None:
    for name in ("blob", "", None):
        with pytest.raises(UnsupportedImageFormat):
            check(b"just text, no picture", name)
        with pytest.raises(ImageTypeMismatch):
            check(b"just text, no picture", name, "image/png")
        with pytest.raises(ImageTypeMismatch):
            check(PNGS["rgb"], name, "image/jpeg")


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def test_jpegs_that_libjpeg_and_browsers_show_whole(check: Any) -> None:
    data = encoded("JPEG", exif=rich_exif())
    exif, frame, scan = data.index(b"\xff\xe1"), data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    behind = frame + 2 + int.from_bytes(data[frame + 2 : frame + 4], "big")
    icc = b"ICC_PROFILE\0"
    odd = {
        "an EXIF segment of length 0": data[: exif + 2] + b"\0\0" + data[exif + 4 :],
        "an EXIF segment of length 1": data[: exif + 2] + b"\0\1" + data[exif + 4 :],
        "an EXIF segment that is too short": data[: exif + 2] + b"\0\x14" + data[exif + 4 :],
        "an EXIF of noise": data[: exif + 12] + b"\x99" * 200 + data[exif + 212 :],
        "ICC behind the frame header": data[:behind] + _segment(0xE2, icc + b"\1\1" + bytes(500)) + data[behind:],
        "ICC of a missing part": data[:behind] + _segment(0xE2, icc + b"\2\3" + bytes(500)) + data[behind:],
        "ICC before the scan": data[:scan] + _segment(0xE2, icc + b"\0\0" + bytes(500)) + data[scan:],
        "Adobe and JFIF once more": data[:behind] + _segment(0xEE, b"Adobe\0d\0\0\0\0\7") + data[behind:],
        "zeros between segments": data[:frame] + bytes(30) + data[frame:],
        "an unknown application segment": data[:scan] + _segment(0xEB, b"abc") + data[scan:],
        "restarts between segments": data[:frame] + b"\xff\xd3" + data[frame:],
        "segments behind the scan": data[:-2] + _segment(0xE5, b"ab") + _segment(0xFE, b"c") + data[-2:],
        "4:1:0": flat_jpeg(((4, 2), (1, 1), (1, 1))),
        "3 x 1": flat_jpeg(((3, 1), (1, 1), (1, 1))),
        "4:1:0 with padding": flat_jpeg(((4, 2), (1, 1), (1, 1)))[:-2] + bytes(50) + b"\xff\xd9",
    }
    for what, picture in odd.items():
        assert Image.open(io.BytesIO(picture)).convert("L").size == check(picture)[2:4], what


def test_a_cut_jpeg_of_odd_sampling_is_refused(check: Any) -> None:
    data = flat_jpeg(((4, 2), (1, 1), (1, 1)), 640, 480)
    check(data)
    for cut in (12, 100, 700):
        for picture in (data[: -cut - 2], data[: -cut - 2] + b"\xff\xd9", data[: -cut - 2] + b"\xff\xe5\0\4ab\xff\xd9"):
            with pytest.raises(InvalidImage):
                check(picture)


def test_only_allowed_extensions(check: Any, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(PNGS["rgb"])
    file = ReceivedFile(0, "a.png", None, path, len(PNGS["rgb"]), "")
    with pytest.raises(UnsupportedImageFormat):
        check_image(file, ["jpg"], MAX_PIXELS)


def test_too_large_and_empty(check: Any) -> None:
    with pytest.raises(PayloadTooLarge):
        check(JPEGS["baseline"], too_large=True)
    with pytest.raises(InvalidImage):
        check(b"")


def test_a_png_with_a_wrong_crc_anywhere_is_refused(check: Any) -> None:
    data = PNGS["rgb"]
    for at in (20, 30, 60, len(data) // 2, len(data) - 14, len(data) - 2):
        with pytest.raises(InvalidImage, match=r"chunk I(HDR|DAT|END) at byte \d+ is damaged"):
            check(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "a.png")
    assert check(data + b"trailer", "a.png")


# Bombs. Each must be refused (or taken) soon and without much memory.


def _bounded(seconds: float, megabytes: float) -> Any:
    class Bound:
        def __enter__(self) -> None:
            self.started = time.process_time()
            self.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        def __exit__(self, *_: object) -> None:
            assert time.process_time() - self.started < seconds
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.memory < megabytes * 1024

    return Bound()


def test_a_png_of_900_megapixels(check: Any) -> None:
    packer = zlib.compressobj(9)
    rows = packer.compress(bytes(30_001 * 3000)) + packer.flush()
    with _bounded(1, 50), pytest.raises(ImageTooLarge):
        check(png(30_000, 30_000, chunk(b"IDAT", rows)), "a.png")


def test_png_chunk_bombs(check: Any) -> None:
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    blown = zlib.compress(bytes(60_000_000), 9)
    with _bounded(3, 50):
        for bomb in (chunk(b"zTXt", b"k\0\0" + blown), chunk(b"iTXt", b"k\0\1\0\0\0" + blown)):
            with pytest.raises(InvalidImage):
                check(png(1, 1, bomb, pixels), "a.png")
        for bomb in (chunk(b"iCCP", b"k\0\0" + blown), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000))) * 200):
            try:
                check(png(1, 1, bomb, pixels), "a.png")
            except InvalidImage:
                pass
        with pytest.raises(InvalidImage):
            check(png(1, 1, chunk(b"aaAa", b"") * 70_000, pixels), "a.png")
        # more data than the picture has: decoders stop at its end
        assert check(png(1, 1, chunk(b"IDAT", blown)), "a.png").width == 1


def test_an_animation_that_claims_many_frames(check: Any) -> None:
    with pytest.raises(ImageTooLarge):
        check(png(9, 9, chunk(b"acTL", struct.pack(">II", 2**31, 0)), chunk(b"IDAT", zlib.compress(bytes(90)))), "a.png")


def test_tiff_bombs(check: Any) -> None:
    body = bytes(4_000_000)
    whole = tiff([*PLAIN, (273, 4, 1, 200)], bytes(300))
    assert check(whole, "a.tiff").width == 4
    strip, gap = (273, 4, 1, 200), bytes(300)
    tile = [(322, 4, 1, 40_000), (323, 4, 1, 40_000), (324, 4, 1, 200), (325, 4, 1, 50)]
    bombs = {
        "a circle": ("more than 100 pages", tiff([*PLAIN, strip], gap, following=8)),
        "many tags at one place": (
            "larger than the file",
            tiff([*PLAIN, strip, *[(40_000 + i, 7, 3_900_000, 300) for i in range(400)]], body),
        ),
        "many entries": ("malformed", tiff([*PLAIN, strip, *[(40_000 + i, 3, 1, 4) for i in range(10_000)]], body)),
        "numbers": ("too many values", tiff([*PLAIN, (273, 4, 900_000, 200)], body)),
        "a tag beyond the end": ("cut off", tiff([*PLAIN, strip, (40_000, 7, 900_000, 200)], gap)),
        "data beyond the end": ("cut off", tiff([*PLAIN, (273, 4, 1, 2**31)], gap)),
        "data across the end": ("cut off", tiff([*PLAIN[:-1], (279, 4, 1, 900), strip], gap)),
        "an EXIF directory that is itself": (
            "larger than the file",
            tiff([*PLAIN, strip, (34_665, 4, 1, 8), (40_000, 7, 3_900_000, 300)], body),
        ),
        "no size": ("no size", tiff([(256, 3, 1, 0), *PLAIN[1:], strip], gap)),
        "no data": ("no picture data", tiff(PLAIN, gap)),
        "no pages": ("no pages", b"II*\0" + bytes(100)),
        "a million channels": ("more channels", tiff([*PLAIN[:5], (277, 4, 1, 1_000_000), *PLAIN[6:], strip], gap)),
        "old JPEG": ("compression", tiff([*PLAIN[:3], (259, 3, 1, 6), *PLAIN[4:], strip], gap)),
        "a tile of gigabytes": ("too large", tiff([*PLAIN[:3], (259, 3, 1, 5), *PLAIN[4:6], *tile], gap)),
        "gigapixels": ("more pixels", tiff([(256, 4, 1, 60_000), (257, 4, 1, 60_000), *PLAIN[2:], strip], gap)),
    }
    with _bounded(3, 80):
        for what, (message, bomb) in bombs.items():
            print(what)  # shown when this one is taken
            with pytest.raises((InvalidImage, ImageTooLarge, UnsupportedImageFormat), match=message):
                check(bomb, "a.tiff")


def test_jpeg_bombs(check: Any) -> None:
    data = JPEGS["progressive"]
    frame = data.index(b"\xff\xc2")
    huge = data[: frame + 5] + struct.pack(">HH", 65_000, 65_000) + data[frame + 9 :]
    scan = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", scan + 2)
    many = data[:second] + data[scan:second] * 500 + data[second:]
    flat = b"\xff\xd8" + b"\xff\x00" * 10_000_000
    with _bounded(4, 150):
        with pytest.raises(ImageTooLarge):
            check(huge)
        with pytest.raises(InvalidImage, match="64 scans"):
            check(many)
        for filler in (flat, b"\xff\xd8" + b"\xff" * 20_000_000, b"\xff\xd8" + b"\xff\xd0" * 10_000_000):
            with pytest.raises((InvalidImage, ImageTypeMismatch)):
                check(filler[:3] + filler)
            with pytest.raises(InvalidImage):
                check(data[: second + 30] + filler[2:])


def test_a_progressive_jpeg_may_not_need_more_memory_than_the_limit(check: Any) -> None:
    picture = encoded("JPEG", Image.new("RGB", (1000, 1000)), progressive=True, subsampling=0)
    assert check(picture, max_pixels=1_500_000)
    with pytest.raises(ImageTooLarge):  # 3 x 2 bytes a pixel, 4 are allowed
        check(picture, max_pixels=1_000_000)
    assert check(encoded("JPEG", Image.new("RGB", (1000, 1000)), subsampling=0), max_pixels=1_000_000)


def test_a_run_length_bmp_cannot_hold_a_thread_for_long(check: Any) -> None:
    assert check(run_length_bmp(4, 2, b"\x04\x01\0\0\x04\x02\0\x01"), "a.bmp").width == 4
    with _bounded(1, 50):
        with pytest.raises(ImageTooLarge):
            check(run_length_bmp(4000, 4000, b"\0\0" * 4000 + b"\0\1"), "a.bmp")
        with pytest.raises(InvalidImage):
            check(run_length_bmp(400, 400, b"\x04\x01\0\1"), "a.bmp")


def test_a_bmp_with_an_absurd_header(check: Any) -> None:
    for width, height in ((2**31 - 1, 2**31 - 1), (100_000, 100_000), (0, 5)):
        data = BMPS["RGB"][:18] + struct.pack("<ii", width, height) + BMPS["RGB"][26:]
        with _bounded(1, 20), pytest.raises((ImageTooLarge, InvalidImage)):
            check(data, "a.bmp")


def test_damaged_files_give_only_typed_refusals(check: Any) -> None:
    rng = random.Random(20_260_504)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seeds = [
        *[("jpg", encoded("JPEG", SMALL, **options)) for options in ({}, {"progressive": True}, {"restart_marker_rows": 1})],
        *[("png", encoded("PNG", SMALL.convert(mode))) for mode in ("RGB", "P")],
        ("png", encoded("PNG", SMALL, save_all=True, append_images=[SMALL.rotate(9)])),
        *[("bmp", encoded("BMP", SMALL.convert(mode))) for mode in ("RGB", "P", "1")],
        *[
            ("tiff", encoded("TIFF", SMALL, compression=name))
            for name in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")
        ],
        ("tiff", encoded("TIFF", SMALL, save_all=True, append_images=[SMALL.rotate(9)], exif=rich_exif())),
        ("jpg", encoded("JPEG", SMALL, exif=rich_exif())),
    ]
    outcomes: dict[str, int] = {}
    slowest = 0.0
    for _ in range(20 * EXAMPLES):
        fmt, data = rng.choice(seeds)
        broken = bytearray(data)
        if rng.random() < 0.3:
            broken = broken[: rng.randrange(4, len(broken))]
        head = 400 if rng.random() < 0.6 else len(broken)  # structure is at the front, of TIFF also at the end
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            at = rng.randrange(3, max(4, min(head, len(broken))))
            if rng.random() < 0.3:
                at = len(broken) - 1 - min(at, len(broken) - 1)
            broken[at] = rng.choice((0, 255, 127, 128, rng.randrange(256), broken[at] ^ (1 << rng.randrange(8))))
        if fmt == "png" and rng.random() < 0.7:
            broken = bytearray(_with_crcs(bytes(broken)))
        started = time.process_time()
        try:
            found = check(bytes(broken), f"a.{fmt}")
            outcomes["taken"] = outcomes.get("taken", 0) + 1
            assert found.width * found.height <= MAX_PIXELS
        except (InvalidImage, ImageTooLarge, ImageTypeMismatch, UnsupportedImageFormat) as error:
            outcomes[error.code] = outcomes.get(error.code, 0) + 1
        slowest = max(slowest, time.process_time() - started)
    assert outcomes["invalid_image"] > 50
    assert slowest < 3, outcomes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 400 * 1024


def _with_crcs(data: bytes) -> bytes:
    """The PNG with every chunk's CRC made right again, so that damage reaches what lies behind the check."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            break
        out += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return out + data[at:]


def test_png_info_text_is_not_looked_at(check: Any) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 1000, zip=True)
    assert check(encoded("PNG", pnginfo=info), "a.png").exif is None
