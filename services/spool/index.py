"""What a spool holds, in memory: small entries, which is the next to be replayed, which is the oldest. Pure."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

BLOCK = 4096  # bytes: what even the smallest record takes on disk


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """A record on disk."""

    name: str
    request_id: UUID
    slot: int
    size: int  # bytes of the file
    spooled_at: float  # seconds since the epoch

    @property
    def cost(self) -> int:
        """Bytes that it takes on disk; this bounds the number of entries too."""
        return -(-self.size // BLOCK) * BLOCK


class SpoolIndex:
    """Entries by age and by request.

    `take` gives out each entry once, a request's lowest slot first and requests in round robin, until `back` or `postpone`
    returns it or `remove` ends it.
    """

    def __init__(self) -> None:
        self._by_age: OrderedDict[str, SpoolEntry] = OrderedDict()  # as they came in, which is oldest first
        self._waiting: OrderedDict[UUID, list[tuple[int, str]]] = OrderedDict()  # heaps; the next request first
        self._postponed: list[tuple[float, str]] = []  # heap of (when, name)
        self._slots: dict[UUID, dict[str, int]] = {}  # by request: its entries' slots, taken ones too
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._by_age)

    def __contains__(self, name: str) -> bool:
        return name in self._by_age

    def add(self, entry: SpoolEntry) -> None:
        self._by_age[entry.name] = entry
        self._slots.setdefault(entry.request_id, {})[entry.name] = entry.slot
        self.bytes += entry.cost
        self.back(entry)

    def remove(self, entry: SpoolEntry) -> bool:
        """False when it is gone already."""
        if self._by_age.pop(entry.name, None) is None:
            return False
        self.bytes -= entry.cost
        slots = self._slots[entry.request_id]
        del slots[entry.name]
        if not slots:
            del self._slots[entry.request_id]
        return True

    def take(self, now: float) -> SpoolEntry | None:
        """The next to be replayed; `now` in the time of `postpone`."""
        while self._postponed and self._postponed[0][0] <= now:
            _, name = heapq.heappop(self._postponed)
            if (entry := self._by_age.get(name)) is not None:
                self.back(entry)
        while self._waiting:
            request_id, heap = next(iter(self._waiting.items()))
            _, name = heapq.heappop(heap)
            if heap:
                self._waiting.move_to_end(request_id)
            else:
                del self._waiting[request_id]
            if (entry := self._by_age.get(name)) is not None:
                return entry
        return None

    def back(self, entry: SpoolEntry) -> None:
        """It waits again, in its place among its request's."""
        if entry.name in self._by_age:
            heapq.heappush(self._waiting.setdefault(entry.request_id, []), (entry.slot, entry.name))

    def postpone(self, entry: SpoolEntry, until: float) -> None:
        """It waits again, from `until` on: others of its request go first."""
        heapq.heappush(self._postponed, (until, entry.name))

    @property
    def oldest(self) -> SpoolEntry | None:
        return next(iter(self._by_age.values()), None)

    def slots_of(self, request_id: UUID) -> set[int]:
        return set(self._slots.get(request_id, {}).values())

    def holds(self, request_id: UUID) -> bool:
        return request_id in self._slots

    @property
    def requests(self) -> list[UUID]:
        return list(self._slots)
