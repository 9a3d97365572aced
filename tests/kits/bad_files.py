"""Bad files, made by code: each with its name, its bytes and the code that it is refused with."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from tests.kits.pictures import (
    BMPS,
    JPEGS,
    PLAIN,
    PNGS,
    TIFFS,
    chunk,
    encoded,
    one_strip,
    png,
    run_length_bmp,
    tiff,
)

INVALID, MISMATCH, LARGE, KIND = "invalid_image", "image_type_mismatch", "image_too_large", "unsupported_image_format"
_STRIP = (273, 4, 1, 200)
_GAP = bytes(300)


class BadFile(NamedTuple):
    what: str
    name: str
    data: bytes
    code: str


def bad_files() -> list[BadFile]:
    """More than 80, all different."""
    made = [*_jpegs(), *_pngs(), *_bmps(), *_tiffs(), *_no_pictures()]
    assert len({item.what for item in made}) == len({item.data + item.name.encode() for item in made}) == len(made)
    return made


def jpeg_markers(data: bytes) -> list[int]:
    """Where each marker of a JPEG of one scan begins, SOI aside."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        found.append(at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return [*found, at, len(data) - 2]


def _jpegs() -> Iterator[BadFile]:
    data, end = JPEGS["baseline"], b"\xff\xd9"
    markers = jpeg_markers(data)
    for at in markers:
        name = f"{data[at + 1]:02x} at {at}"
        yield BadFile(f"jpeg cut before {name}", "a.jpg", data[:at], INVALID if at > 2 else MISMATCH)
        if at != markers[-1]:  # there this is the whole picture
            yield BadFile(f"jpeg cut before {name}, ended", "a.jpg", data[:at] + end, INVALID)
    scan = markers[-2] + 14
    yield BadFile("jpeg cut in its scan, ended", "a.jpg", data[: scan + 500] + end, INVALID)
    yield BadFile("jpeg whose scan is noise", "a.jpg", data[:scan] + random.Random(1).randbytes(9000) + end, INVALID)
    for kind, picture, marker in (("baseline", data, 0xC0), ("progressive", JPEGS["progressive"], 0xC2)):
        frame = picture.index(bytes([0xFF, marker])) + 5
        for label, size, code in (("65535 x 65535", (65535, 65535), LARGE), ("0 x 0", (0, 0), INVALID)):
            yield BadFile(
                f"{kind} jpeg of {label}", "a.jpg", picture[:frame] + struct.pack(">HH", *size) + picture[frame + 4 :], code
            )
    scans = JPEGS["progressive"]
    first = scans.index(b"\xff\xda")
    second = scans.index(b"\xff\xda", first + 2)
    many = scans[:second] + scans[first:second] * 500 + scans[second:]
    yield BadFile("progressive jpeg of 500 scans", "a.jpg", many, INVALID)
    yield BadFile("jpeg of 4 MB of fill bytes", "a.jpg", b"\xff\xd8" + b"\xff" * 4_000_000, INVALID)
    yield BadFile("jpeg of 2 million restarts", "a.jpg", b"\xff\xd8\xff" + b"\xff\xd0" * 2_000_000, INVALID)
    segment = b"\xff\xe2\xff\xffICC_PROFILE\0" + bytes(65521)
    yield BadFile("jpeg of a 16 MB ICC profile and no picture", "a.jpg", b"\xff\xd8" + segment * 255 + end, INVALID)
    exif = b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)
    yield BadFile("jpeg of a 64 KB EXIF and no picture", "a.jpg", b"\xff\xd8" + exif + end, INVALID)
    header = data[markers[3] : markers[4]]
    yield BadFile("jpeg with two frame headers", "a.jpg", data[: markers[3]] + header + data[markers[3] :], INVALID)
    yield BadFile("jpeg with 100 components", "a.jpg", data.replace(header, header[:9] + b"\x64" + header[10:]), INVALID)
    yield BadFile("jpeg with a Huffman table that is none", "a.jpg", _damaged_table(data), INVALID)


def _damaged_table(data: bytes) -> bytes:
    at = data.index(b"\xff\xc4") + 5
    return data[:at] + b"\xff" * 16 + data[at + 16 :]


def _pngs() -> Iterator[BadFile]:
    data = PNGS["rgb"]
    pixels = chunk(b"IDAT", zlib.compress(bytes(90)))
    blown = zlib.compress(bytes(5_000_000), 6)
    starts = [8, 33, data.index(b"IDAT") + 100, len(data) - 12, len(data) - 1]
    for at in starts:
        yield BadFile(f"png cut at {at}", "a.png", data[:at], INVALID)
    yield BadFile("png with a wrong CRC", "a.png", data[:200] + bytes([data[200] ^ 1]) + data[201:], INVALID)
    packer = zlib.compressobj(9)
    rows = packer.compress(bytes(30_001 * 300)) + packer.flush()
    yield BadFile("png of 900 megapixels", "a.png", png(30_000, 30_000, chunk(b"IDAT", rows)), LARGE)
    for size, code in (((65535, 65535), LARGE), ((2**31 - 1, 2**31 - 1), LARGE), ((0, 0), INVALID)):
        yield BadFile(f"png of {size[0]} x {size[1]}", "a.png", png(*size, pixels), code)
    frames = chunk(b"acTL", struct.pack(">II", 2**31, 0))
    yield BadFile("png that claims 2^31 frames", "a.png", png(9, 9, frames, pixels), LARGE)
    yield BadFile("png with a text of 5 MB", "a.png", png(9, 9, chunk(b"zTXt", b"k\0\0" + blown), pixels), INVALID)
    unicode = chunk(b"iTXt", b"k\0\1\0\0\0" + blown)
    yield BadFile("png with a UTF-8 text of 5 MB", "a.png", png(9, 9, unicode, pixels), INVALID)
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000)))
    yield BadFile("png with 80 texts of 0.9 MB", "a.png", png(9, 9, text * 80, pixels), INVALID)
    yield BadFile("png with an ICC profile of 5 MB", "a.png", png(9, 9, chunk(b"iCCP", b"k\0\0" + blown), pixels), INVALID)
    yield BadFile("png of 70,000 chunks", "a.png", png(9, 9, chunk(b"aaAa", b"") * 70_000, pixels), INVALID)
    yield BadFile("png whose pixels are noise", "a.png", png(9, 9, chunk(b"IDAT", random.Random(2).randbytes(500))), INVALID)
    yield BadFile("png with too few pixels", "a.png", png(9, 9, chunk(b"IDAT", zlib.compress(bytes(50)))), INVALID)
    yield BadFile("png without pixels", "a.png", png(9, 9), INVALID)
    yield BadFile("png of 7 bits", "a.png", png(9, 9, pixels, depth=7), INVALID)
    yield BadFile("png of colour type 5", "a.png", png(9, 9, pixels, colour=5), INVALID)
    yield BadFile("png of another compression", "a.png", png(9, 9, pixels, rest=b"\1\0\0"), INVALID)
    yield BadFile("png with its header second", "a.png", data[:8] + chunk(b"tEXt", b"a\0b") + data[8:], INVALID)


def _bmps() -> Iterator[BadFile]:
    data = BMPS["RGB"]
    yield BadFile("bmp cut", "a.bmp", data[:5000], INVALID)
    yield BadFile("bmp of its header", "a.bmp", data[:54], INVALID)
    sizes = ((2**31 - 1, 2**31 - 1, LARGE), (-320, 240, LARGE), (320, -(2**31), LARGE), (0, 5, INVALID))
    for width, height, code in sizes:
        yield BadFile(f"bmp of {width} x {height}", "a.bmp", data[:18] + struct.pack("<ii", width, height) + data[26:], code)
    yield BadFile("bmp of 13 bits", "a.bmp", data[:28] + b"\x0d\0" + data[30:], INVALID)
    yield BadFile("bmp of compression 99", "a.bmp", data[:30] + b"\x63" + data[31:], INVALID)
    yield BadFile("bmp with pixels at -1", "a.bmp", data[:10] + b"\xff\xff\xff\xff" + data[14:], INVALID)
    yield BadFile("bmp with a header of 4 GB", "a.bmp", data[:14] + b"\xff\xff\xff\xff" + data[18:], INVALID)
    yield BadFile("bmp of 16 megapixels of runs", "a.bmp", run_length_bmp(4000, 4000, b"\0\0" * 4000 + b"\0\1"), LARGE)
    yield BadFile("bmp whose runs end early", "a.bmp", run_length_bmp(400, 400, b"\x04\x01\0\1"), INVALID)


def _tiffs() -> Iterator[BadFile]:
    body = bytes(1_000_000)
    tile = [(322, 4, 1, 40_000), (323, 4, 1, 40_000), (324, 4, 1, 200), (325, 4, 1, 50)]
    made = {
        "whose directory follows itself": (tiff([*PLAIN, _STRIP], _GAP, following=8), LARGE),
        "whose EXIF is its own directory": (
            tiff([*PLAIN, _STRIP, (34_665, 4, 1, 8), (40_000, 7, 900_000, 300)], body), INVALID
        ),
        "whose directory is at -1": (b"II*\0\xff\xff\xff\xff" + body[:300], INVALID),
        "with many tags at one place": (
            tiff([*PLAIN, _STRIP, *[(40_000 + i, 7, 900_000, 300) for i in range(400)]], body), INVALID
        ),
        "of 10,000 entries": (tiff([*PLAIN, _STRIP, *[(40_000 + i, 3, 1, 4) for i in range(10_000)]], body), INVALID),
        "of 900,000 strips": (tiff([*PLAIN, (273, 4, 900_000, 200)], body), INVALID),
        "with an ICC profile beyond its end": (tiff([*PLAIN, _STRIP, (34_675, 7, 2**31, 200)], _GAP), INVALID),
        "with an EXIF beyond its end": (tiff([*PLAIN, _STRIP, (34_665, 4, 1, 2**31)], _GAP), INVALID),
        "with pixels beyond its end": (tiff([*PLAIN, (273, 4, 1, 2**31)], _GAP), INVALID),
        "with pixels across its end": (tiff([*PLAIN[:-1], (279, 4, 1, 900), _STRIP], _GAP), INVALID),
        "with pixels at -5": (tiff([*PLAIN, (273, 9, 1, 2**32 - 5)], _GAP), INVALID),
        "with -16 bytes of pixels": (tiff([*PLAIN[:-1], (279, 9, 1, 2**32 - 16), _STRIP], _GAP), INVALID),
        "without size": (tiff([(256, 3, 1, 0), *PLAIN[1:], _STRIP], _GAP), INVALID),
        "without pixels": (tiff(PLAIN, _GAP), INVALID),
        "without pages": (b"II*\0" + bytes(100), INVALID),
        "of a million channels": (tiff([*PLAIN[:5], (277, 4, 1, 1_000_000), *PLAIN[6:], _STRIP], _GAP), KIND),
        "of 65535 bits": (tiff([*PLAIN[:2], (258, 3, 1, 65535), *PLAIN[3:], _STRIP], _GAP), KIND),
        "of the old JPEG": (tiff([*PLAIN[:3], (259, 3, 1, 6), *PLAIN[4:], _STRIP], _GAP), KIND),
        "of a tile of gigabytes": (tiff([*PLAIN[:3], (259, 3, 1, 5), *PLAIN[4:6], *tile], _GAP), LARGE),
        "of 65535 x 65535": (tiff([(256, 4, 1, 65535), (257, 4, 1, 65535), *PLAIN[2:], _STRIP], _GAP), LARGE),
        "of one strip of 88 megapixels in RGBA16": (one_strip(11_000, 8_000, 8, 4, 16, rows=10), LARGE),
        "whose deflate is noise": (_noise_in("L-tiff_adobe_deflate"), INVALID),
        "whose LZW is noise": (_noise_in("RGB-tiff_lzw"), INVALID),
        "whose JPEG is noise": (_noise_in("RGB-jpeg"), INVALID),
        "of 101 pages": (
            encoded("TIFF", Image.new("1", (1, 1)), save_all=True, append_images=[Image.new("1", (1, 1))] * 100), LARGE
        ),
    }  # fmt: skip
    for what, (data, code) in made.items():
        yield BadFile(f"tiff {what}", "a.tiff", data, code)
    for at in (3, 6, 9, 100, len(TIFFS["RGB-None"]) - 1):
        yield BadFile(f"tiff cut at {at}", "a.tiff", TIFFS["RGB-None"][:at], MISMATCH if at < 4 else INVALID)


def _noise_in(name: str) -> bytes:
    """Its directory stands at the end; what lies before it is pixels."""
    data = TIFFS[name]
    end = int.from_bytes(data[4:8], "little")
    start, stop = (8, end) if end > 5000 else (len(data) - 3000, len(data) - 1000)
    return data[: start + 10] + random.Random(3).randbytes(stop - start - 10) + data[stop:]


def _no_pictures() -> Iterator[BadFile]:
    archive, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a.jpg", JPEGS["grey"])
    with tarfile.open(fileobj=tar, mode="w") as tape:
        tape.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    script = b"<script>alert(1)</script>"
    made = {
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'>" + script + b"</svg>",
        "html": b"<!doctype html>" + script,
        "elf": b"\x7fELF\x02\x01\x01" + bytes(200),
        "exe": b"MZ" + bytes(200),
        "pdf": b"%PDF-1.7\n" + script,
        "zip": archive.getvalue(),
        "tar": tar.getvalue(),
        "shell": b"#!/bin/sh\nrm -rf /\n",
        "php": b"<?php system($_GET[0]);",
        "xml with an entity": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        "gif": encoded("GIF"),
        "ico": encoded("ICO"),
        "ppm": encoded("PPM"),
        "psd": b"8BPS\0\x01" + bytes(100),
        "mp4": b"\0\0\0\x18ftypmp42" + bytes(100),
        "nothing but zeros": bytes(5000),
        "noise": random.Random(4).randbytes(5000),
    }
    for number, (what, data) in enumerate(made.items()):
        yield BadFile(f"{what} under a picture's name", ("a.jpg", "a.png", "a.bmp", "a.tiff")[number % 4], data, MISMATCH)
    yield BadFile("svg by its name", "a.svg", made["svg"], KIND)
    yield BadFile("html behind a picture's magic, by its name", "a.html", JPEGS["grey"] + made["html"], KIND)
    yield BadFile("png under a jpeg's name", "a.jpg", PNGS["rgba"], MISMATCH)
    yield BadFile("nothing", "a.jpg", b"", INVALID)
    yield BadFile("jpeg's magic alone", "a.jpg", b"\xff\xd8\xff", INVALID)
    yield BadFile("bmp's magic alone", "a.bmp", b"BM", INVALID)
    yield BadFile("png's magic alone", "a.png", b"\x89PNG\r\n\x1a\n" + bytes(4), INVALID)
    yield BadFile("no picture and no name", "blob", made["xml with an entity"], KIND)
