"""Which leases this process may still act under, by its own clock: self-fencing (docs/rules.md, rule 3).

A lease ends by the database's clock, which a process that was stopped, or is cut off, does not see. So each renewal that
succeeded counts from the moment at which it was *asked* for, on this host, for LEASE_TTL less a margin: here it ends
before it can end there. A thread of its own reports it: it needs neither the event loop nor a connection.

Epochs fence every write for certain; this keeps a process that cannot know better from trying.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from models.values import Claim
from utils.logger import get_logger
from utils.metrics import LEASES_FENCED

log = get_logger(__name__)

MARGIN = 1 / 6  # of LEASE_TTL: what clocks may run apart in a TTL, and what a write under way may take
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def host_seconds() -> float:
    """Elapsed seconds, also those that the machine slept; no setting of the wall clock moves it."""
    return time.clock_gettime(_CLOCK)


@dataclass(slots=True)
class _WatchedLease:
    until: float
    on_lapse: Callable[[], None]
    reported: bool = False


class LeaseWatch:
    """Leases of one process. All methods may be called from any thread; `on_lapse` is called in the watch's own."""

    def __init__(self, ttl: float, clock: Callable[[], float] = host_seconds) -> None:
        """`ttl`: RTSP__LEASE_TTL, seconds; `clock`: seconds that only grow."""
        self._span = ttl * (1 - MARGIN)
        self.clock = clock
        self._held: dict[Claim, _WatchedLease] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def hold(self, claim: Claim, asked: float, on_lapse: Callable[[], None]) -> None:
        """A lease was claimed, by a statement sent at `asked` (of `clock`)."""
        with self._changed:
            self._held[claim] = _WatchedLease(asked + self._span, on_lapse)
            self._changed.notify()

    def renewed(self, claim: Claim, asked: float) -> bool:
        """The same of a renewal; True when the lease had been given up here, and nobody had taken it."""
        with self._changed:
            if (held := self._held.get(claim)) is None:
                return False
            held.until = max(held.until, asked + self._span)
            again, held.reported = held.reported and held.until > self.clock(), False
            self._changed.notify()
            return again

    def release(self, claim: Claim) -> None:
        """The lease is no longer watched."""
        with self._changed:
            self._held.pop(claim, None)

    def may_act(self, claim: Claim) -> bool:
        """Whether state may be written under the claim now, whatever the thread has come to say."""
        with self._changed:
            held = self._held.get(claim)
            return held is not None and self.clock() < held.until

    def poll(self) -> float | None:
        """Reports leases that ended; returns the seconds until the next one ends, None without any."""
        ended: list[tuple[Claim, _WatchedLease]] = []
        with self._changed:
            now = self.clock()
            for claim, held in self._held.items():
                if now >= held.until and not held.reported:
                    held.reported = True
                    ended.append((claim, held))
            left = min((held.until - now for held in self._held.values() if not held.reported), default=None)
        for claim, held in ended:
            LEASES_FENCED.inc()
            request, late = str(claim.request_id), round(now - held.until, 3)
            log.warning("lease_fenced", ingestion_id=request, epoch=claim.epoch, late_s=late)
            held.on_lapse()
        return left

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="lease-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            left = self.poll()
            with self._changed:
                if self._stopping:
                    return
                if not self._held:
                    self._changed.wait()  # `hold` and `stop` wake it
                else:  # a lease that came between `poll` and here has at least its margin before it: soon enough
                    self._changed.wait(self._span / 4 if left is None else min(max(left, 0.0), self._span / 4))
