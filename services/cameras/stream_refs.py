"""An `rtsp_ref`: a stream's whole URL, login included, sealed for the caller to whom a discovery gave it.

Every process with the same SECRETS__KEYS opens it; nothing is stored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from models.access import Principal
from utils.exceptions import InvalidRequest, SecretUnreadable
from utils.secret_box import PREFIX as SEALED
from utils.secret_box import SecretBox

SECONDS = 3600
PREFIX = "ref1."


class StreamRefs:
    def __init__(self, secrets: SecretBox, now: Callable[[], float] = time.time) -> None:
        """`now`: seconds since the epoch."""
        self._secrets, self._now = secrets, now

    def seal(self, url: str, who: Principal) -> str:
        sealed = {"ref": url, "owner": who.owner, "until": self._now() + SECONDS}
        return PREFIX + self._secrets.seal(json.dumps(sealed))

    def open(self, ref: str, who: Principal) -> str:
        """The URL. Raises InvalidRequest for a ref that is forged, another caller's or older than SECONDS."""
        try:
            text = self._secrets.open(ref.removeprefix(PREFIX))
            # Only what was sealed: SecretBox passes on texts from before encryption.
            sealed = json.loads(text) if ref.startswith(PREFIX + SEALED) else {}
            url, owner, until = sealed["ref"], sealed["owner"], sealed["until"]
        except (SecretUnreadable, ValueError, KeyError, TypeError):
            raise InvalidRequest.of("rtsp_ref", "is not one of a discovery", code="rtsp_ref") from None
        if owner != who.owner or until < self._now():
            raise InvalidRequest.of("rtsp_ref", "is another caller's, or older than an hour", code="rtsp_ref")
        return str(url)
