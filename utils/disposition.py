"""Content-Disposition (RFC 6266): a picture is shown, not saved, and under which name it would be saved."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

MAX_NAME = 100  # characters: the name is part of a presigned URL, percent-encoded twice
_ENDINGS = {"jpg": (".jpg", ".jpeg"), "tiff": (".tif", ".tiff"), "h264": (".mp4",), "h265": (".mp4",)}
_PLAIN = re.compile(r"[A-Za-z0-9 ._()+-]*")  # nothing to change: nearly all names, and 200 of them make a list
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}[A-Za-z0-9_]\.[a-z]{2,5}")  # stays, if its ending fits
_UNSAFE = frozenset('/\\:*?"<>|%')  # mean something to a file system, a shell or a header


def inline(filename: str, fmt: str) -> str:
    """The header's value for a picture of that format: `inline`, the name in ASCII, and in UTF-8 too where that differs
    (RFC 8187).

    The name is the client's: what is no plain character of a name becomes `_`, and its ending is one of `fmt`.
    """
    name = safe_name(filename, fmt)
    if name.isascii():
        return f'inline; filename="{name}"'
    plain = "".join(char if char.isascii() else "_" for char in name)
    return f"""inline; filename="{plain}"; filename*=UTF-8''{quote(name, safe="")}"""


def safe_name(filename: str, fmt: str) -> str:
    """A file name that is no path, hides nothing (control characters, marks of direction), and ends as `fmt` does."""
    if _SAFE.fullmatch(filename) and filename.endswith(_ENDINGS.get(fmt, f".{fmt}")):
        return filename  # nearly all
    text = filename
    if not _PLAIN.fullmatch(text):
        text = unicodedata.normalize("NFC", filename.encode("utf-8", "replace").decode())
        text = "".join("_" if char in _UNSAFE or not (char == " " or char.isprintable()) else char for char in text)
    endings = _ENDINGS.get(fmt, (f".{fmt}",))
    ending = next((end for end in endings if text.lower().endswith(end)), "")
    stem = text[: len(text) - len(ending)].strip(" .")[: MAX_NAME - 5].rstrip(" .") or "frame"
    return stem + (text[len(text) - len(ending) :] if ending else endings[0])
