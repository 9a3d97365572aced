"""The packets that a stream keeps, with their capture times, in groups of pictures that begin with a keyframe (GOPs)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.values import TimestampSource
from services.rtsp_capture.media.damage import Damage
from services.rtsp_capture.media.parameter_sets import SeenSets

if TYPE_CHECKING:  # its metrics are half of what a worker process that decodes would import
    from services.rtsp_capture.media.ring_budget import RingBudget


@dataclass(slots=True)
class Packet:
    """One access unit, never changed (frozen, one would cost five times as much to make: 5 µs, for each picture).
    `segment` counts the stream's connections: stream times are comparable within one only."""

    data: bytes
    pts: float  # seconds, stream time of this connection
    key: bool
    received: float  # seconds since the epoch
    timestamp: float  # capture time, seconds since the epoch
    uncertainty: float  # seconds
    segment: int
    timed: bool = True  # False: `pts` is only a label; when the picture was taken is not known
    corrupt: bool = False  # parts of it never came
    lost: bool = False  # packets before it never came (`damage.LossWatch`)
    recovery: int = 0  # of a keyframe: pictures after it until one is whole (intra refresh without IDR)
    second_field: bool = False  # no picture of its own: the other half of the one before
    source: TimestampSource = TimestampSource.RECEIPT  # whose clock `timestamp` is by
    camera_time: float | None = None  # by the camera's own clock, seconds since the epoch; None: not known
    clock_offset: float | None = None  # seconds that the camera's clock is ahead of ours (`timestamp_source`)
    steps: float = 0.0  # seconds by which this host's clock had been set (`host_clock`) when `timestamp` was made


@dataclass(slots=True)
class Gop:
    """A keyframe and what follows it, in decoding order; only ever appended to, so references to it stay true."""

    packets: list[Packet]
    previous: list[Packet] = field(default_factory=list)  # the GOP before, for pictures shown before the keyframe
    before: Packet | None = None  # the one right before the keyframe
    following: list[Packet] = field(default_factory=list)  # the GOP after: it pushes the last pictures out
    damage: Damage = field(default_factory=Damage)
    previous_damage: Damage = field(default_factory=Damage)
    following_damage: Damage = field(default_factory=Damage)
    sets: SeenSets = field(default_factory=SeenSets)  # looked for only where pictures are decoded
    previous_sets: SeenSets = field(default_factory=SeenSets)

    @classmethod
    def begin(cls, packet: Packet, before: Gop | None) -> Gop:
        """Of a keyframe, after the GOP `before` of the same connection."""
        gop = cls([packet])
        if before is not None:
            gop.previous, gop.previous_damage, gop.before = before.packets, before.damage, before.packets[-1]
            gop.previous_sets = before.sets
            before.following, before.following_damage = gop.packets, gop.damage
            if packet.lost:
                before.damage.lost(len(before.packets))
        if packet.corrupt:
            gop.damage.lost(0)
        return gop

    def append(self, packet: Packet) -> None:
        """After a loss the pictures are spoilt until the next keyframe."""
        if len(self.packets) == 1 and packet.pts > self.packets[0].pts and not self.packets[0].recovery:
            # Pictures shown before the keyframe come right after it: there are none, so the GOP before is not needed.
            self.previous, self.previous_damage = [], Damage()
        if packet.corrupt or packet.lost:
            self.damage.lost(len(self.packets))
        self.packets.append(packet)

    @property
    def size(self) -> int:
        return sum(len(packet.data) for packet in self.packets)


@dataclass(slots=True)
class Picture:
    """A picture that can be decoded, never changed: its packet, and its index in its GOP."""

    packet: Packet
    gop: Gop
    index: int
    shift: float = 0.0  # seconds by which the reader's clock (a capture's) is ahead of the packet's

    @property
    def timestamp(self) -> float:
        """Capture time, seconds since the epoch."""
        return self.packet.timestamp + self.shift

    @property
    def leading(self) -> bool:
        """Whether it is shown before its GOP's keyframe (open GOP)."""
        return not self.packet.key and self.packet.pts < self.gop.packets[0].pts

    @property
    def needs_previous(self) -> bool:
        """Whether it refers to the GOP before: shown before its keyframe, or that one is not whole by itself yet."""
        return self.leading or self.index < self.gop.packets[0].recovery

    def to_decode(self) -> list[Packet]:
        """The packets to feed, in order, the picture's own last; the GOP before first, where it is needed."""
        upto = self.gop.packets[: self.index + 1]
        return [*self.gop.previous, *upto] if self.needs_previous else upto

    def following(self) -> list[Packet]:
        """The packets that have come after it, to the end of the next GOP."""
        return [*self.gop.packets[self.index + 1 :], *self.gop.following]

    @property
    def decodable(self) -> bool:
        """False where what it refers to was never received: the first GOP after a join."""
        previous = self.gop.previous
        return not self.needs_previous or (bool(previous) and previous[0].recovery <= len(previous) + self.index)

    @property
    def damaged(self) -> bool:
        """Whether it, or something it may refer to, is known to be damaged or lost."""
        damage, before = self.gop.damage, self.gop.previous_damage
        return damage.spoils(self.index, leading=self.leading) or (before.any and self.needs_previous)

    @property
    def usable(self) -> bool:
        """Whether it can be decoded, and its capture time is known. Asked of every packet: most need no long look."""
        packet = self.packet
        if not packet.timed or packet.second_field:
            return False
        first, damage = self.gop.packets[0], self.gop.damage
        if self.index >= first.recovery and packet.pts >= first.pts:  # nothing before its keyframe matters
            return self.index < damage.lost_at and self.index < damage.failed_at
        return self.decodable and not self.damaged


class Ring:
    """The last seconds of a stream in whole GOPs, bounded by seconds, by bytes, and by the process's budget.

    The newest GOP stays whatever its length, unless it alone is larger than the bound: then the ring waits for the
    next keyframe.
    """

    def __init__(self, seconds: float, max_bytes: int, budget: RingBudget | None = None) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._budget = budget
        self._gops: deque[Gop] = deque()
        self._latest = 0.0  # capture time of the packet taken in last
        self.bytes = 0

    def append(self, packet: Packet) -> Picture | None:
        """Takes the packet in; None while no keyframe of this connection has come."""
        newest = self._gops[-1] if self._gops else None
        if newest is not None and newest.packets[0].segment != packet.segment:
            self.clear()
            newest = None
        if packet.key:
            newest = Gop.begin(packet, newest)
            self._gops.append(newest)
        elif newest is None:
            return None
        else:
            newest.append(packet)
        self._latest = packet.timestamp
        self._count(len(packet.data))
        while len(self._gops) > 1 and (
            self.bytes > self._max_bytes or self._gops[1].packets[0].timestamp < packet.timestamp - self._seconds
        ):
            self.evict()
        if self.bytes > self._max_bytes:
            self.clear()
            return None
        picture = Picture(packet, newest, len(newest.packets) - 1)
        if self._budget is not None:
            self._budget.grew(began_gop=packet.key)
        return picture

    @property
    def seconds(self) -> float:
        """How far back it reaches; 0 when only the newest GOP is left."""
        if len(self._gops) < 2:
            return 0.0
        return max(1e-6, self._latest - self._gops[0].packets[0].timestamp)

    def evict(self) -> None:
        """Removes the oldest GOP, unless it is the only one."""
        if len(self._gops) > 1:
            self._count(-self._gops.popleft().size)

    def _count(self, change: int) -> None:
        before, self.bytes = self.bytes, self.bytes + change
        if self._budget is not None:
            self._budget.count(self, before, self.bytes)

    def newest(self) -> Picture | None:
        """The picture taken last (of the newest GOP), if there is one."""
        if not self._gops:
            return None
        gop = self._gops[-1]
        index = max(range(len(gop.packets)), key=lambda i: (not gop.packets[i].second_field, gop.packets[i].pts))
        return Picture(gop.packets[index], gop, index)

    def last_key(self) -> Picture | None:
        """The newest keyframe."""
        return Picture(self._gops[-1].packets[0], self._gops[-1], 0) if self._gops else None

    def pictures(self) -> Iterator[Picture]:
        """All that is kept, in decoding order."""
        return (Picture(packet, gop, index) for gop in self._gops for index, packet in enumerate(gop.packets))

    @property
    def span(self) -> tuple[float, float] | None:
        """Capture times of the oldest keyframe and of the newest picture, seconds since the epoch."""
        newest = self.newest()
        return (self._gops[0].packets[0].timestamp, newest.packet.timestamp) if newest is not None else None

    def clear(self) -> None:
        self._gops.clear()
        self._count(-self.bytes)

    def __iter__(self) -> Iterator[Gop]:
        return iter(self._gops)
