"""URLs without their secrets: what may be logged or answered.

Of a URL is shown: scheme, host, port, path. User name, password and query go whole. Of a path, `name=value` shows its value
only under a harmless name, and what looks like a random token is masked. A word that somebody uses as a token cannot be told
from a name: such a path is shown (docs/cameras.md).
"""

from __future__ import annotations

import re
from itertools import pairwise

MASK = "***"
_RUN = re.compile(r"\S+")
_CLOSING = "\"'<>()[]{},.:|"  # may follow a URL in a sentence, and hold nothing of it
# Recorders take logins from the path: /user=admin_password=secret_channel=1_stream=0.sdp. A value ends before the next name.
_NAMED = re.compile(r"(?i)(?<=[/_;&,])([a-z][a-z0-9.-]*)=((?:(?!_[a-z]+=)[^/;&,?#\s\"'<>])*)")
_HARMLESS = frozenset(
    ("channel", "channelid", "chn", "ch", "stream", "streamtype", "subtype", "track", "trackid", "profile", "codec", "fps",
     "resolution", "unicast", "proto", "camera", "inst", "id", "line")
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9]{16,}")
_HEX = re.compile(r"[0-9a-f]{32,}|[0-9A-F]{32,}")
_TURNS = 5  # at least so often 99 % of random texts of 16 letters and digits change between upper, lower and digit
_QUERY_SECRET = re.compile(
    r"(?i)([?&;](?:password|passwd|pwd|psw|pass|pw|loginpas|loginpass|token|secret|auth|key|api_key|access_token"
    r"|signature|x-amz-signature|x-amz-credential|x-amz-security-token)=)[^&#\s\"'<>]*"
)
_PATH_SECRET = re.compile(r"(?i)([/_](?:password|passwd|pwd|psw|pass|pw)=)(?:(?!_[a-z]+=)[^/?&#\s\"'<>])*")
_HEADER_SECRET = re.compile(
    r"(?i)\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)(?:basic|bearer)\s+[^\s\"']+"
    r"|\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)digest\s[^\r\n]+"  # its value has quotes of its own
)
_SENT_BACK = re.compile(rf"://[^/]*:{re.escape(MASK)}@|={re.escape(MASK)}(?:[_&,;/?#]|\Z)")


def mask_text(text: str) -> str:
    """`text` with every URL in it as `mask_url` shows it, and secret parameters and Authorization values masked."""
    if "://" in text:
        text = _RUN.sub(_masked_run, text)
    if "=" in text:  # of a target without its host
        text = _PATH_SECRET.sub(rf"\1{MASK}", _QUERY_SECRET.sub(rf"\1{MASK}", text))
    if "uthorization" in text or "UTHORIZATION" in text:
        text = _HEADER_SECRET.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)
    return text


def is_masked(url: str) -> bool:
    """Whether a secret in this URL is the mask itself: a URL as it was shown, now or by earlier versions, sent back."""
    return _SENT_BACK.search(url) is not None


def mask_url(url: str) -> str:
    """A URL as it may be shown: `rtsp://host:port/path`. The same for what it gives: masking twice changes nothing.

    Split as parse_rtsp_url does, not by urlsplit: for that a raw ? or # in a password begins the query.
    """
    scheme, sep, rest = url.partition("://")
    if not sep:
        return mask_text(url)
    authority, slash, path = rest.partition("/")
    if "@" in path and ":" in rest.rpartition("@")[0]:  # a raw / in user name or password: what is which cannot be told
        authority, slash, path = rest.rpartition("@")[2].partition("/")
    return f"{scheme}://{_host(authority)}{slash}{_masked_path(path)}"


def _host(authority: str) -> str:
    return re.split(r"[?#]", authority.rpartition("@")[2], maxsplit=1)[0]


def _masked_run(found: re.Match[str]) -> str:
    """A piece of text without spaces: from its first :// to its end one URL, whatever raw @ ? # or quote its password has.

    Rather too much is masked than too little: people, and FFmpeg, write passwords as they are.
    """
    run = found[0]
    before, sep, rest = run.partition("://")
    if not sep:
        return run
    rest = rest.rpartition("@")[2]
    if query := re.search(r"[?#]", rest):
        tail = rest[query.start() :]
        rest = rest[: query.start()] + tail[len(tail.rstrip(_CLOSING)) :]
    host, slash, path = rest.partition("/")
    return f"{before}{sep}{host}{slash}{_masked_path(path)}"


def _masked_path(path: str) -> str:
    """A path without its query. `path` has no leading slash."""
    path = re.split(r"[?#]", path, maxsplit=1)[0]
    if "=" in path:
        path = _NAMED.sub(_masked_value, f"/{path}")[1:]
    return _WORD.sub(lambda found: MASK if _looks_random(found[0]) else found[0], path)


def _masked_value(found: re.Match[str]) -> str:
    return found[0] if found[1].lower() in _HARMLESS else f"{found[1]}={MASK}"


def _looks_random(word: str) -> bool:
    """Whether 16 or more letters and digits are a token rather than a name: 128 bits in hex, or all three kinds in turns."""
    if _HEX.fullmatch(word):
        return True
    kinds = ["d" if char.isdigit() else "u" if char.isupper() else "l" for char in word]
    turns = sum(a != b for a, b in pairwise(kinds))
    return len(set(kinds)) == 3 and turns >= _TURNS
