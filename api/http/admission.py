"""Limits the bodies that are in hand at the same time: bytes as they arrive, never as they are announced, and uploads by
number. All of it belongs to the event loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import Gauge

from config import ApiSettings, UploadSettings
from services.access.shares import Holding
from utils.exceptions import Overloaded
from utils.metrics import MEMORY_RESERVED, UPLOAD_BYTES, UPLOADS_IN_FLIGHT, UPLOADS_REFUSED

_Kind = Literal["json", "upload"]


class Held:
    """The bytes of one body that are in hand."""

    def __init__(self, budget: ByteBudget, share: Holding) -> None:
        self._budget, self._share = budget, share
        self.bytes = 0

    def cover(self, size: int) -> None:
        """`size` bytes of the body are here. Raises Overloaded, and RateLimited for a caller that holds its share."""
        more = size - self.bytes
        if more > 0:
            self._share.grow(more)
            self._budget.take(self, more)


class ByteBudget:
    """What all bodies of a kind may hold together."""

    def __init__(self, kind: _Kind, most: int, setting: str, gauge: Gauge | None = None) -> None:
        self._kind, self._most, self._setting, self._gauge = kind, most, setting, gauge
        self.total = 0

    @contextmanager
    def hold(self, share: Holding) -> Iterator[Held]:
        """Nothing at first; what `cover` has taken is given back at the end."""
        held = Held(self, share)
        try:
            yield held
        finally:
            self._add(held, -held.bytes)

    def check(self, size: int) -> None:
        """Refuses a body of `size` bytes, before it is read, that cannot fit beside what is here. Raises Overloaded."""
        if self.total and self.total + size > self._most:
            raise self._full()

    def take(self, held: Held, more: int) -> None:
        """Raises Overloaded, never for the only body: its size has its own limit."""
        if self.total > held.bytes and self.total + more > self._most:
            raise self._full()
        self._add(held, more)

    def _add(self, held: Held, more: int) -> None:
        held.bytes += more
        self.total += more
        if self._gauge is not None:
            self._gauge.set(self.total)

    def _full(self) -> Overloaded:
        if self._kind == "upload":
            UPLOADS_REFUSED.labels(reason="bytes").inc()
        return Overloaded(f"{self._setting} bytes of bodies are in hand already. Try again.", retry_after=2)


def json_budget(api: ApiSettings) -> ByteBudget:
    """The JSON bodies of requests that are being served, in memory."""
    return ByteBudget("json", api.MAX_JSON_IN_FLIGHT, "API__MAX_JSON_IN_FLIGHT")


class UploadMemory:
    """What uploads may hold in memory together; one that finds no room goes to disk."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._gauge = MEMORY_RESERVED.labels(pool="uploads")

    def take(self, size: int) -> bool:
        """Whether there was room."""
        if size > self._left:
            return False
        self._left -= size
        self._gauge.inc(size)
        return True

    def give(self, size: int) -> None:
        self._left += size
        self._gauge.dec(size)


class UploadGate:
    """Places for uploads, and their bytes."""

    def __init__(self, settings: UploadSettings) -> None:
        self._most = settings.MAX_CONCURRENT
        self.bytes = ByteBudget("upload", settings.MAX_BYTES_IN_FLIGHT, "UPLOAD__MAX_BYTES_IN_FLIGHT", UPLOAD_BYTES)
        self.uploads = 0

    @contextmanager
    def admit(self, share: Holding, declared: int = 0) -> Iterator[Held]:
        """A place until the block ends. `declared` bytes must fit beside those that are here. Raises Overloaded."""
        if self.uploads >= self._most:
            UPLOADS_REFUSED.labels(reason="uploads").inc()
            raise Overloaded("UPLOAD__MAX_CONCURRENT uploads are being received already. Try again.")
        self.bytes.check(declared)
        self.uploads += 1
        UPLOADS_IN_FLIGHT.inc()
        try:
            with self.bytes.hold(share) as held:
                yield held
        finally:
            self.uploads -= 1
            UPLOADS_IN_FLIGHT.dec()
