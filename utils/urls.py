"""URLs without their secrets: what may be logged or answered."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

MASK = "***"
# Greedy up to the last @ before a space, quote or a path that follows it: FFmpeg accepts a raw "/" or "@" in a
# password, so masking stops at the last @ rather than the first.
_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,20})://([^\s\"'<>]*)@")
_QUERY_SECRET = re.compile(
    r"(?i)([?&;](?:password|passwd|pwd|pass|token|secret|auth|key|api_key|access_token|signature"
    r"|x-amz-signature|x-amz-credential|x-amz-security-token)=)[^&#\s\"'<>]*"
)
_HEADER_SECRET = re.compile(r"(?i)\b((?:proxy-)?authorization\s*[:=]\s*)(basic|digest|bearer)\s+[^\r\n\"']+")


def mask_text(text: str) -> str:
    """`text` with user information and secret query values of every URL in it, and Authorization values, masked."""
    if "://" in text:
        text = _URL.sub(rf"\1://{MASK}@", text)
    if "=" in text:
        text = _QUERY_SECRET.sub(rf"\1{MASK}", text)
    if "uthorization" in text or "UTHORIZATION" in text:
        text = _HEADER_SECRET.sub(rf"\1\2 {MASK}", text)
    return text


def mask_url(url: str) -> str:
    """A URL as it may be shown: `rtsp://user:***@host/path`; the user name stays, the password never does."""
    parts: SplitResult = urlsplit(url)
    if "@" in parts.netloc:
        userinfo, _, host = parts.netloc.rpartition("@")
        user, colon, _ = userinfo.partition(":")
        parts = parts._replace(netloc=f"{user}:{MASK}@{host}" if colon else f"{user}@{host}")
    return _QUERY_SECRET.sub(rf"\1{MASK}", parts.geturl())
