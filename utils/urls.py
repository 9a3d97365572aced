"""URLs without their secrets: what may be logged or answered."""

from __future__ import annotations

import re

MASK = "***"
# Greedy up to the last @ before a space: people (and FFmpeg) put a raw / @ ? # or quote into a password. Rather mask
# too much than stop too early.
_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,20})://(\S*)@")
_QUERY_SECRET = re.compile(
    r"(?i)([?&;](?:password|passwd|pwd|psw|pass|pw|loginpas|loginpass|token|secret|auth|key|api_key|access_token"
    r"|signature|x-amz-signature|x-amz-credential|x-amz-security-token)=)[^&#\s\"'<>]*"
)
# Recorders that take the login from the path: /user=admin_password=secret_channel=1_stream=0.sdp.
_PATH_SECRET = re.compile(r"(?i)([/_](?:password|passwd|pwd|psw|pass|pw)=)(?:(?!_[a-z]+=)[^/?&#\s\"'<>])*")
_HEADER_SECRET = re.compile(
    r"(?i)\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)(?:basic|bearer)\s+[^\s\"']+"
    r"|\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)digest\s[^\r\n]+"  # its value has quotes of its own
)


def mask_text(text: str) -> str:
    """`text` with user information and secret query values of every URL in it, and Authorization values, masked."""
    if "://" in text:
        text = _URL.sub(rf"\1://{MASK}@", text)
    if "=" in text:
        text = _masked_values(text)
    if "uthorization" in text or "UTHORIZATION" in text:
        text = _HEADER_SECRET.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)
    return text


def is_masked(url: str) -> bool:
    """Whether a secret in this URL is the mask itself: a URL as it was shown, sent back."""
    plain = url.replace(MASK, "x")
    return MASK in url and mask_url(url) == url and mask_url(plain) != plain


def mask_url(url: str) -> str:
    """A URL as it may be shown: `rtsp://user:***@host/path`; the user name stays, the password never does.

    Split as parse_rtsp_url does, not by urlsplit: for that a raw ? or # in a password begins the query.
    """
    scheme, sep, rest = url.partition("://")
    if not sep:
        return mask_text(url)
    authority, slash, path = rest.partition("/")
    if "@" in path and ":" in rest.rpartition("@")[0]:  # a raw / in user name or password: what is which cannot be told
        authority, slash, path = f"{MASK}@{rest.rpartition('@')[2]}", "", ""
    elif "@" in authority:
        userinfo, _, host = authority.rpartition("@")
        user, colon, _ = userinfo.partition(":")
        authority = f"{user}:{MASK}@{host}" if colon else f"{user}@{host}"
    return _masked_values(f"{scheme}://{authority}{slash}{path}")


def _masked_values(text: str) -> str:
    return _PATH_SECRET.sub(rf"\1{MASK}", _QUERY_SECRET.sub(rf"\1{MASK}", text))
