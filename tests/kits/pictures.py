"""Pictures of every kind that uploads take, made in memory."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

_noise = np.random.default_rng(7).integers(0, 255, (48, 64, 3), dtype=np.uint8)
SMALL = Image.fromarray(_noise)
PHOTO = SMALL.resize((320, 240), Image.Resampling.BICUBIC)


def encoded(fmt: str, image: Image.Image = PHOTO, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0, rest: bytes = b"\0\0\0") -> bytes:
    header = struct.pack(">IIBB", width, height, depth, colour) + rest
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def tiff(tags: list[tuple[int, int, int, int]], tail: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of one directory at 8; `tail` begins behind it."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following) + tail


# The tags of a grey picture of 4 x 4 pixels but its strip's offset, 273.
PLAIN = [
    (256, 3, 1, 4),
    (257, 3, 1, 4),
    (258, 3, 1, 8),
    (259, 3, 1, 1),
    (262, 3, 1, 1),
    (277, 3, 1, 1),
    (278, 3, 1, 4),
    (279, 4, 1, 16),
]


def one_strip(width: int, height: int, pixel: int, samples: int, bits: int, *, rows: int | None = None) -> bytes:
    """A deflated TIFF whose picture, all zero, is one strip: `pixel` bytes a pixel, the first `rows` of them there."""
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(bytes(width * pixel)) for _ in range(rows or height)) + packer.flush()
    at = 8 + 2 + 12 * 11 + 4
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, samples, at if samples > 2 else bits), (259, 3, 1, 8),
        (262, 3, 1, 2 if samples > 2 else 1), (273, 4, 1, at + 8), (277, 3, 1, samples), (278, 4, 1, 2**32 - 1),
        (279, 4, 1, len(body)), (284, 3, 1, 1), (338, 3, 1, 2),
    ]  # fmt: skip
    return tiff(tags, struct.pack("<4H", *[bits] * 4) + body)


def run_length_bmp(width: int, height: int, codes: bytes) -> bytes:
    palette = bytes(1024)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(codes), 0, 0, 54 + 1024) + header + palette + codes


def rich_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 1
    exif.get_ifd(0x8769).update({0x9003: "2026:05:04 15:30:00", 0x829A: 0.001, 0x8827: 800})
    exif.get_ifd(0x8825).update({1: "N", 2: (44.0, 20.0, 30.0), 3: "E", 4: (11.0, 42.0, 0.0)})
    return exif


JPEGS = {
    "baseline": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "grey": encoded("JPEG", PHOTO.convert("L")),
    "cmyk": encoded("JPEG", PHOTO.convert("CMYK")),
    "rgb": encoded("JPEG", keep_rgb=True),
    "444": encoded("JPEG", subsampling=0, quality=95),
    "restarts": encoded("JPEG", restart_marker_rows=1),
}
TIFFS = {
    f"{mode}-{compression}": encoded("TIFF", PHOTO.convert(mode), compression=compression)
    for mode, compression in [
        ("RGB", None), ("RGB", "tiff_lzw"), ("RGB", "jpeg"), ("L", "tiff_adobe_deflate"), ("1", "group4"), ("P", "packbits"),
        ("CMYK", None), ("RGBA", "tiff_lzw"), ("I;16", None), ("F", None),
    ]
}  # fmt: skip
PNGS = {
    "rgb": encoded("PNG"),
    "rgba": encoded("PNG", PHOTO.convert("RGBA")),
    "palette": encoded("PNG", PHOTO.convert("P")),
    "bits": encoded("PNG", PHOTO.convert("1")),
    "grey16": encoded("PNG", PHOTO.convert("I;16")),
    "rgb16": png(2, 2, chunk(b"IDAT", zlib.compress((b"\0" + bytes(12)) * 2)), depth=16, colour=2),
}
BMPS = {mode: encoded("BMP", PHOTO.convert(mode)) for mode in ("RGB", "L", "P", "1", "RGBA")}
# (name, format, bytes): whole pictures of 320 x 240 pixels, one of 2 x 2.
GOOD = [
    *[(f"jpg-{name}", "jpg", data) for name, data in JPEGS.items()],
    *[(f"png-{name}", "png", data) for name, data in PNGS.items()],
    *[(f"bmp-{name}", "bmp", data) for name, data in BMPS.items()],
    *[(f"tiff-{name}", "tiff", data) for name, data in TIFFS.items()],
]


def flat_jpeg(sampling: tuple[tuple[int, int], ...], width: int = 64, height: int = 48) -> bytes:
    """A grey JPEG of any sampling factors (4:1:0 is ((4, 2), (1, 1), (1, 1))): each block is its zero and an end."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    across, down = max(h for h, _ in sampling), max(v for _, v in sampling)
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    blocks = units * sum(h * v for h, v in sampling)
    bits = "00" * blocks  # one code each for "no difference" and "end of block": 0, and 0
    bits += "1" * (-len(bits) % 8)
    components = b"".join(bytes([i + 1, h << 4 | v, 0]) for i, (h, v) in enumerate(sampling))
    one_code = bytes([1]) + bytes(15) + b"\0"
    return (
        b"\xff\xd8" + segment(0xDB, b"\0" + bytes([16] * 64))
        + segment(0xC0, struct.pack(">BHHB", 8, height, width, len(sampling)) + components)
        + segment(0xC4, b"\x00" + one_code + b"\x10" + one_code)
        + segment(0xDA, bytes([len(sampling)]) + b"".join(bytes([i + 1, 0]) for i in range(len(sampling))) + b"\0\x3f\0")
        + int(bits, 2).to_bytes(len(bits) // 8, "big") + b"\xff\xd9"
    )  # fmt: skip
