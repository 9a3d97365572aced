"""The ledger of one capture: what became of each slot of its grid, and how much of that its row knows.

A slot comes due at its time on the grid. It is idle when no capture event wants it, dropped for a reason, pending
while its picture is in memory, spooled while its frame is on disk, or stored. The capture, the pipeline and the spool
report here; the ledger writer copies the ledger into the row. On the event loop; no I/O.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from models.values import DropReason, Sampling
from services.rtsp_capture.grid.event_slots import WantedSlots
from services.rtsp_capture.grid.sampler import Choice, SlotSampler
from services.rtsp_capture.media.gop_buffer import Picture
from utils.camera_series import camera_series
from utils.metrics import FRAMES, FRAMES_DROPPED

DUE_LAG_SECONDS = 1.0  # by which `expected` in the row may lag behind when no frame is committed
IDLE_LAG_SECONDS = 5.0  # the same while only idle slots come due, which clients do not see


@dataclass(frozen=True, slots=True)
class GridPlan:
    """The grid that a capture asked for."""

    fps: float  # slots a second
    sampling: Sampling
    slots: int | None  # None: no end
    max_frames: int | None = None
    wanted: WantedSlots | None = None  # the slots of capture events; None: every slot is wanted
    choice: Choice | None = None  # None: the nearest picture

    def may_begin_with(self, picture: Picture) -> bool:
        """Whether the grid's origin may be this picture."""
        return self.sampling is Sampling.EXACT or picture.packet.key


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What the row does not know yet, as one commit takes it."""

    due: int
    drops: dict[DropReason, set[int]]
    opened: frozenset[int]  # slots that an event has come to want, and which may be booked as idle
    idle: list[int]


class SlotLedger:
    """The slots of one capture. `changed` is set when the row should be brought up to date."""

    def __init__(self, plan: GridPlan, now: Callable[[], float], camera_id: str) -> None:
        """`now`: seconds since the epoch on the capture's clock."""
        self._camera_id = camera_id
        self.plan = plan
        self._now = now
        self.sampler: SlotSampler | None = None  # None: the grid has no origin yet
        self.saved = False  # the row has the grid's origin: frames, which are numbered by it, may be committed
        self.stored = 0
        self.spooled: set[int] = set()  # an earlier owner's too
        self._pending: set[int] = set()
        self._drops: dict[DropReason, set[int]] = {}  # those that the row does not know of
        self._opened: set[int] = set()  # the same
        self.booked_due = 0  # the row knows what became of every slot below
        self._booked_at = 0.0  # monotonic seconds
        self.changed = asyncio.Event()

    # -- the grid ----------------------------------------------------------------------------------------------

    @property
    def grid(self) -> SlotSampler:
        """The sampler of a grid that has begun."""
        assert self.sampler is not None
        return self.sampler

    def begin_grid(self, origin: float) -> None:
        """Slot 0 is due at `origin`, seconds since the epoch."""
        self.sampler = SlotSampler(origin, self.plan.fps, self.plan.sampling, 0, self.plan.slots, self.plan.choice)

    def grid_saved(self, origin: float) -> None:
        """The row has this origin, which an earlier owner may have set."""
        self.grid.grid_start = origin
        self.saved = True
        self.changed.set()

    @property
    def done(self) -> bool:
        """Whether every slot of the grid is decided."""
        return self.sampler is not None and self.sampler.done

    def due(self) -> int:
        """How many slots have come due."""
        if self.sampler is None:
            return 0
        return self.sampler.next_slot if self.room == 0 else self.sampler.due(self._now())

    @property
    def room(self) -> int | None:
        """How many more frames max_frames lets in, pending and spooled ones counted; None without a limit."""
        if self.plan.max_frames is None:
            return None
        return max(0, self.plan.max_frames - self.stored - len(self._pending | self.spooled))

    @property
    def full(self) -> bool:
        """Whether max_frames are stored, or in the spool."""
        return self.plan.max_frames is not None and self.stored + len(self.spooled) >= self.plan.max_frames

    # -- capture events ----------------------------------------------------------------------------------------

    def wants(self, slot: int) -> bool:
        return self.plan.wanted is None or slot in self.plan.wanted

    def open(self, slots: Iterable[int]) -> None:
        """A capture event has come to want these slots, some of which came due before and may be booked as idle."""
        self._opened.update(slots)
        self.changed.set()

    def unbooked_idle(self, due: int) -> list[int]:
        """The idle slots below `due` that the row does not know of yet."""
        return self.plan.wanted.idle(self.booked_due, due) if self.plan.wanted is not None else []

    # -- what becomes of a slot --------------------------------------------------------------------------------

    def pend(self, slot: int) -> None:
        """Its picture is in memory."""
        self._pending.add(slot)

    def release(self, slot: int) -> None:
        """Its picture is gone, and the slot may get another one."""
        self._pending.discard(slot)

    def store(self, slot: int) -> None:
        """Its frame is stored."""
        self._pending.discard(slot)
        self.spooled.discard(slot)
        self.stored += 1

    def spool(self, slot: int) -> None:
        """Its frame is on disk."""
        self._pending.discard(slot)
        self.spooled.add(slot)

    def drop(self, slot: int, reason: DropReason) -> None:
        """It has no frame and gets none."""
        self._pending.discard(slot)
        self.spooled.discard(slot)
        self._drops.setdefault(reason, set()).add(slot)
        self.changed.set()
        FRAMES_DROPPED.labels(reason=reason.value).inc()
        camera_series.dropped(self._camera_id, reason.value)
        FRAMES.labels(source="rtsp", outcome="dropped").inc()

    # -- what the row knows ------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Called regularly: slots that came due are booked with the next frame, or soon when none comes."""
        due, waited = self.due(), time.monotonic() - self._booked_at
        if due <= self.booked_due or waited <= DUE_LAG_SECONDS:
            return
        if waited > IDLE_LAG_SECONDS or len(self.unbooked_idle(due)) < due - self.booked_due:
            self.changed.set()

    @property
    def opened(self) -> frozenset[int]:
        """Slots given to `open` that the row does not know of yet."""
        return frozenset(self._opened)

    @property
    def drops(self) -> dict[DropReason, set[int]]:
        """Slots given to `drop` that the row does not know of yet."""
        return {reason: set(slots) for reason, slots in self._drops.items()}

    def final_drops(self) -> dict[DropReason, set[int]]:
        """The drops of the capture's last transaction: spooled slots are among them, and may get their frames later."""
        return self.drops | {DropReason.SPOOLED: set(self.spooled)} if self.spooled else self.drops

    def entry(self) -> LedgerEntry:
        """What the row does not know yet, frames apart."""
        due = self.due()
        return LedgerEntry(due, self.drops, self.opened, self.unbooked_idle(due))

    def is_news(self, entry: LedgerEntry) -> bool:
        """Whether the entry is worth a commit of its own."""
        return bool(entry.drops or entry.opened) or entry.due > self.booked_due

    def booked(self, entry: LedgerEntry) -> None:
        """The row has taken the entry."""
        self.booked_below(entry.due)
        self._booked_at = time.monotonic()
        self._opened -= entry.opened
        for reason, slots in entry.drops.items():
            self._drops[reason] -= slots
            if not self._drops[reason]:
                del self._drops[reason]

    def booked_below(self, slot: int) -> None:
        """The row knows what became of every slot below."""
        self.booked_due = max(slot, self.booked_due)
