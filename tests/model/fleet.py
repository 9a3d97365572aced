"""A model of many processes: cameras, workers and sites, and what faults cost them in slots.

Discrete events, by seconds of a simulated clock; a run of ten minutes with 1,000 cameras takes some seconds. What it is
driven by are times that were measured of one process (`Times`); what it adds is how they meet: which leases lapse when,
who polls first, how long a stream takes to open where fifty open at once.

What is modelled: leases (renewed every TTL/3 by the database's clock, claimed by polls of whoever has room, at the
camera's site only), wakes by Redis, the opening of streams one after the other in a process, the wait for a keyframe,
pictures on their way into store and database, the spool while the database is away or cut off, its replay, drains. What
is not: cameras that fail, disks that fill, and CPU: a worker is given the cameras that its cores can decode.

A slot is *lost* when no process had a picture of it that was stored in the end. A slot that two owners stored counts
once; the second finds it taken.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, of one process (docs/scale.md says where each was measured)."""

    ttl: float = 6.0  # RTSP__LEASE_TTL
    poll: float = 0.5  # between two polls for captures that nobody runs
    open_each: float = 0.04  # of a stream, one after the other in a process
    open_least: float = 0.1  # connecting, and the server's answers
    gop: float = 1.0  # between two keyframes
    store: float = 0.06  # from a picture to its committed row
    hand_over: float = 0.5  # a drain: pictures in hand are stored, leases given back
    wake: float = 0.01  # of a message, where there is Redis
    start: float = 8.0  # of a process


@dataclass(slots=True)
class Camera:
    """One capture of one frame a second, without an end."""

    number: int
    site: int
    owner: Worker | None = None  # by the lease, as the database has it
    expires: float = 0.0
    readers: dict[Worker, float] = field(default_factory=dict)  # who reads it, and since when its stream gives pictures
    stored: set[int] = field(default_factory=set)
    spooled: dict[Worker, set[int]] = field(default_factory=dict)
    opened: float = -1.0  # when its first picture came


@dataclass(slots=True, eq=False)
class Worker:
    number: int
    site: int
    room: int
    alive: bool = True
    cut_off: bool = False  # from the database; cameras are still reached
    draining: bool = False
    opening_until: float = 0.0  # its streams are opened one after the other
    running: dict[int, Camera] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """`due`, `lost`: slots. `longest`: seconds of the longest row of lost slots of one camera. `takeover`: the longest time
    from a death, or a hand-over, until the next owner has a picture. `start`: p99 from a post to its first picture.
    `writes`: transactions a second that change rows, on average and in the busiest second, without `spooled`: frames that
    waited in spools and are stored beside the new ones. `doubled`: slots that two owners had a picture of."""

    due: int
    lost: int
    longest: float
    takeover: float
    start: float
    writes: float
    peak: float
    spooled: int
    doubled: int

    @property
    def share(self) -> float:
        return self.lost / self.due if self.due else 0.0


class Fleet:
    """`fault` is called once, at `at`, with the fleet. One seed, one run."""

    def __init__(
        self, *, cameras: int = 1000, workers: int = 20, sites: int = 3, spare: float = 1.3, times: Times | None = None,
        seed: int = 1, wakes: bool = True,
    ) -> None:  # fmt: skip
        self.times, self.rng, self.wakes = times or Times(), random.Random(seed), wakes
        self.now = 0.0
        self.database = True
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self.cameras = [Camera(number, number % sites) for number in range(cameras)]
        of_site = [sum(1 for n in range(workers) if n % sites == site) for site in range(sites)]
        room = [round(spare * cameras / sites / count) + 1 for count in of_site]
        self._of_site = [[camera for camera in self.cameras if camera.site == site] for site in range(sites)]
        self.workers = [Worker(number, number % sites, room[number % sites]) for number in range(workers)]
        self.writes: dict[int, int] = {}
        self.doubled = self.spooled = 0
        self.takeovers: list[float] = []
        self._left: dict[int, float] = {}  # when a camera lost its reader
        self._starts: list[float] = []

    # -- the clock ---------------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), what))

    def run(self, seconds: float, fault: Callable[[Fleet], None] | None = None, at: float = 60.0) -> Result:
        for worker in self.workers:
            self._begin(worker)
        for camera in self.cameras:
            self.at(self.rng.random(), lambda c=camera: self._slot(c))  # type: ignore[misc]
        if fault is not None:
            self.at(at, lambda: fault(self))
        while self._queue and self._queue[0][0] <= seconds:
            self.now, _, what = heapq.heappop(self._queue)
            what()
        return self._result(seconds)

    # -- a worker ----------------------------------------------------------------------------------------------

    def _begin(self, worker: Worker) -> None:
        self.at(self.now + self.rng.uniform(0, self.times.poll), lambda: self._poll(worker))
        self.at(self.now + self.rng.uniform(0, self.times.ttl / 3), lambda: self._renew(worker))

    def _reaches(self, worker: Worker) -> bool:
        return worker.alive and self.database and not worker.cut_off

    def _poll(self, worker: Worker) -> None:
        if not worker.alive:
            return
        self._claim(worker)
        self.at(self.now + self.times.poll, lambda: self._poll(worker))

    def _claim(self, worker: Worker) -> None:
        if not self._reaches(worker) or worker.draining:
            return
        taken = 0
        for camera in self._of_site[worker.site]:
            if len(worker.running) >= worker.room:
                break
            if camera.owner is None or camera.expires < self.now:
                self._take(worker, camera)
                taken += 1
        if taken:
            self._wrote(1 + taken)  # the claim, and each capture's start

    def _take(self, worker: Worker, camera: Camera) -> None:
        if camera.owner is not None and camera.owner is not worker:
            camera.owner.running.pop(camera.number, None)
        camera.owner, camera.expires = worker, self.now + self.times.ttl
        worker.running[camera.number] = camera
        if worker in camera.readers:
            return  # it had read on all the time: the lease is regained
        begun = max(self.now, worker.opening_until)
        worker.opening_until = begun + self.times.open_each
        first = worker.opening_until + self.times.open_least + self.rng.uniform(0, self.times.gop)
        camera.readers[worker] = first
        if camera.opened < 0:
            camera.opened = first
            self._starts.append(first)
        if camera.number in self._left:
            self.takeovers.append(first - self._left.pop(camera.number))

    def _renew(self, worker: Worker) -> None:
        if not worker.alive:
            return
        if self._reaches(worker):
            self._wrote(bool(worker.running))
            for camera in list(worker.running.values()):
                if camera.owner is worker:
                    camera.expires = self.now + self.times.ttl
                else:
                    worker.running.pop(camera.number)
            self._replay(worker)
            for camera in self._of_site[worker.site]:  # it is told which it has lost
                if worker in camera.readers and camera.owner is not worker:
                    del camera.readers[worker]
        self.at(self.now + self.times.ttl / 3, lambda: self._renew(worker))

    def _replay(self, worker: Worker) -> None:
        for camera in self._of_site[worker.site]:
            slots = camera.spooled.pop(worker, None)
            if slots:
                self.doubled += len(slots & camera.stored)
                camera.stored |= slots
                self.spooled += len(slots)

    # -- a slot ------------------------------------------------------------------------------------------------

    def _slot(self, camera: Camera) -> None:
        """A picture is due; whoever reads the camera has it."""
        slot = int(self.now)
        if camera.opened >= 0:
            for worker, since in list(camera.readers.items()):
                if worker.alive and since <= self.now:
                    self.at(self.now + self.times.store, lambda w=worker: self._store(w, camera, slot))  # type: ignore[misc]
        self.at(self.now + 1.0, lambda: self._slot(camera))

    def _store(self, worker: Worker, camera: Camera, slot: int) -> None:
        if not worker.alive:
            return  # it was in memory
        if not self._reaches(worker):
            camera.spooled.setdefault(worker, set()).add(slot)
        elif slot in camera.stored:
            self.doubled += 1
        else:
            camera.stored.add(slot)
            self._wrote(1)

    def _wrote(self, count: int) -> None:
        self.writes[int(self.now)] = self.writes.get(int(self.now), 0) + count

    def busiest(self) -> Worker:
        return max(self.workers, key=lambda worker: len(worker.running))

    # -- faults ------------------------------------------------------------------------------------------------

    def kill(self, worker: Worker, back_after: float | None = None) -> None:
        """SIGKILL; its spool is read again when it starts."""
        worker.alive = False
        for camera in self._of_site[worker.site]:
            if camera.readers.pop(worker, None) is not None and not camera.readers:
                self._left.setdefault(camera.number, self.now)
        worker.running.clear()
        if back_after is not None:
            self.at(self.now + back_after, lambda: self._start(worker))

    def _start(self, worker: Worker) -> None:
        worker.alive, worker.draining, worker.opening_until = True, False, self.now
        self._replay(worker)
        self._begin(worker)

    def drain(self, worker: Worker, back_after: float | None = None) -> None:
        """SIGTERM: what it runs is handed over, then it ends."""
        worker.draining = True

        def over() -> None:
            for camera in list(worker.running.values()):
                camera.owner = None
                self._wrote(1)
            self.kill(worker, back_after)
            if self.wakes:
                for other in self.workers:
                    if other.site == worker.site:
                        self.at(self.now + self.times.wake, lambda w=other: self._claim(w))  # type: ignore[misc]

        self.at(self.now + self.times.hand_over, over)

    def cut(self, workers: list[Worker], seconds: float) -> None:
        """No way to the database for some time."""
        for worker in workers:
            worker.cut_off = True

        def heal() -> None:
            for worker in workers:
                worker.cut_off = False

        self.at(self.now + seconds, heal)

    def fail_over(self, seconds: float) -> None:
        """The primary is away for some time; what was committed stays."""
        self.database = False

        def back() -> None:
            self.database = True

        self.at(self.now + seconds, back)

    def wipe_redis(self, seconds: float) -> None:
        """No messages for some time."""
        self.wakes = False

        def back() -> None:
            self.wakes = True

        self.at(self.now + seconds, back)

    # -- the account -------------------------------------------------------------------------------------------

    def _result(self, seconds: float) -> Result:
        due = lost = 0
        longest = 0
        end = int(seconds) - 2  # pictures of the last seconds are on their way
        for camera in self.cameras:
            kept = camera.stored.union(*(slots for worker, slots in camera.spooled.items() if worker.alive))
            row = 0
            for slot in range(int(camera.opened) + 2, end):
                due += 1
                row = 0 if slot in kept else row + 1
                lost += row > 0
                longest = max(longest, row)
        busy = [count for second, count in self.writes.items() if second >= 10]
        starts = sorted(self._starts)
        p99 = starts[int(len(starts) * 0.99) - 1] if starts else 0.0
        return Result(
            due, lost, float(longest), max(self.takeovers, default=0.0), p99, sum(busy) / max(1.0, seconds - 10),
            float(max(busy, default=0)), self.spooled, self.doubled,
        )  # fmt: skip


def rolling(fleet: Fleet) -> None:
    """A restart of every worker, one after the other."""
    for number, worker in enumerate(fleet.workers):
        fleet.at(fleet.now + 12 * number, lambda w=worker: fleet.drain(w, fleet.times.start))  # type: ignore[misc]


def many_kills(fleet: Fleet) -> None:
    """A worker at random every 30 s, each back after its start."""
    for number in range(15):
        fleet.at(fleet.now + 30 * number, lambda: fleet.kill(fleet.rng.choice(fleet.workers), fleet.times.start))


SCENARIOS: dict[str, tuple[str, Callable[[Fleet], None] | None]] = {
    "nothing": ("nothing happens", None),
    "kill": ("one worker is killed and stays away", lambda fleet: fleet.kill(fleet.busiest())),
    "kills": ("a worker at random is killed every 30 s, and started again", many_kills),
    "drain": ("one worker is drained", lambda fleet: fleet.drain(fleet.busiest())),
    "rolling": ("every worker is restarted, one after the other", rolling),
    "cut one": ("one worker is cut off from the database for 60 s", lambda fleet: fleet.cut([fleet.busiest()], 60)),
    "cut site": (
        "a site is cut off from the database for 60 s",
        lambda fleet: fleet.cut([worker for worker in fleet.workers if worker.site == 0], 60),
    ),
    "redis": ("Redis is wiped, and away for 60 s", lambda fleet: fleet.wipe_redis(60)),
    "fail over": ("the primary fails over in 30 s", lambda fleet: fleet.fail_over(30)),
}  # fmt: skip


def main() -> None:
    print("| what happens | slots lost | longest gap | takeover | writes a second, busiest | frames by the spool |")
    print("|---|---|---|---|---|---|")
    for text, fault in SCENARIOS.values():
        found = Fleet().run(600, fault)
        print(
            f"| {text} | {found.lost:,} of {found.due:,} ({found.share:.3%}) | {found.longest:.0f} s"
            f" | {found.takeover:.1f} s | {found.writes:,.0f}, {found.peak:,.0f} | {found.spooled:,} |"
        )


if __name__ == "__main__":
    main()
