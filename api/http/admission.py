"""Limits the uploads that are received at the same time, by number and by bytes. Refuses before the body is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from config import UploadSettings
from utils.exceptions import Overloaded
from utils.metrics import UPLOAD_BYTES, UPLOADS_IN_FLIGHT, UPLOADS_REFUSED

STEP = 1_048_576  # bytes that a body of unknown length takes at a time


class Admitted:
    """One upload's share of UPLOAD__MAX_BYTES_IN_FLIGHT."""

    def __init__(self, gate: UploadGate) -> None:
        self._gate = gate
        self.held = 0  # bytes

    def cover(self, size: int) -> None:
        """Raises the share to at least `size` bytes, in steps of STEP. Raises Overloaded."""
        if size > self.held:
            self._gate.take(self, max(size - self.held, STEP if self.held else 0))


class UploadGate:
    """Belongs to the event loop."""

    def __init__(self, settings: UploadSettings) -> None:
        self._most = settings.MAX_CONCURRENT
        self._most_bytes = settings.MAX_BYTES_IN_FLIGHT
        self.uploads = 0
        self.bytes = 0

    @contextmanager
    def admit(self, declared: int | None) -> Iterator[Admitted]:
        """Holds a place and the declared bytes until the block ends; None: they are held on arrival. Raises Overloaded."""
        if self.uploads >= self._most:
            UPLOADS_REFUSED.labels(reason="uploads").inc()
            raise Overloaded("UPLOAD__MAX_CONCURRENT uploads are being received already. Try again.")
        share = Admitted(self)
        self.take(share, declared if declared is not None else STEP)
        self.uploads += 1
        UPLOADS_IN_FLIGHT.inc()
        try:
            yield share
        finally:
            self.uploads -= 1
            self.bytes -= share.held
            UPLOADS_IN_FLIGHT.dec()
            UPLOAD_BYTES.set(self.bytes)

    def take(self, share: Admitted, size: int) -> None:
        """Adds `size` bytes to a share. Raises Overloaded, never for the only upload: its size has its own limit."""
        if self.bytes > share.held and self.bytes + size > self._most_bytes:
            UPLOADS_REFUSED.labels(reason="bytes").inc()
            raise Overloaded("UPLOAD__MAX_BYTES_IN_FLIGHT bytes of uploads are in hand already. Try again.", retry_after=2)
        self.bytes += size
        share.held += size
        UPLOAD_BYTES.set(self.bytes)
