"""The tables of docs/sizing.md, computed from figures of other pages and from the defaults of config.py.

python -m docs.sizing [--check]     --check: fails where the page differs, or a figure no longer stands on its page
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from config import Settings

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "sizing.md"
CAMERAS = (10, 60, 300, 1000)
FPS = 1.0  # frames a second that are kept of each camera, all day
DAY = 86_400


@dataclass(frozen=True)
class Figure:
    """A number that was measured, and the words of the page where it stands."""

    value: float
    what: str
    page: str
    words: str


JPEG_MS = Figure(47.1, "CPU of a camera and second, JPEG: ms", "performance-captures.md", "**47.1 beside 53.6, 0.88**")
SOURCE_MS = Figure(
    13.2,
    "the same, source pictures: ms",
    "performance-captures.md",
    "**13.2 beside 51.6, 0.25**",
)
SOURCE_SHARE = Figure(
    0.46, "bytes of a source picture, of JPEG's", "performance-captures.md", "Bytes: 0.46 of JPEG's at quality 90"
)
JPEG_KB = Figure(178, "bytes of a JPEG of 1920 x 1080: KB", "performance.md", "pictures of 178 KB (1920 x 1080)")
BITRATE = Figure(
    6, "of a camera, 1080p25: Mbit/s", "performance-captures.md", "H.264 1080p25 with a keyframe a second, 6 Mbit/s"
)
STORE_MS = Figure(
    6.4, "CPU of the store for a PUT: ms", "performance.md", "| object store (SeaweedFS, synced) | 8.5 | 6.4 | 5.2 |"
)
DB_MS = Figure(
    3.1,
    "CPU of PostgreSQL for a frame and its events: ms",
    "performance.md",
    "| PostgreSQL, with the relay's events | 5.9 | 3.1 | |",
)
WRITES = Figure(
    1008, "writes a second of 1,000 cameras", "scale.md", "| nothing happens | 0 of 594,447 | 0 s | | 1,008, 1,011 | 0 |"
)
ROOM = Figure(
    30, "percent of room in each worker, for those of one that dies", "scale.md", "Every worker had room for 30 % more"
)
STATUS = Figure(1373, "statuses a second of one process", "performance.md", "| status, now | 1,373/s,")
CONNECTIONS = Figure(
    30, "connections of a process for writing", "hosts.md", "`DB__POOL_SIZE + DB__MAX_OVERFLOW` (30 by default)"
)
FIGURES = (JPEG_MS, SOURCE_MS, SOURCE_SHARE, JPEG_KB, BITRATE, STORE_MS, DB_MS, WRITES, ROOM, STATUS, CONNECTIONS)

PER_WORKER = 50  # cameras: with room, 65
IDLE_MB = 160  # of a process without cameras; see the page


def stale() -> list[str]:
    """Figures that no longer stand where they are said to stand."""
    found = []
    for figure in FIGURES:
        text = re.sub(r"\s+", " ", (DOCS / figure.page).read_text("utf-8"))
        if figure.words not in text:
            found.append(f"{figure.page} no longer says: {figure.words}")
    return found


@dataclass(frozen=True)
class Size:
    """What a number of cameras needs, at FPS, JPEG (`source=False`) or source pictures."""

    cameras: int
    source: bool

    @property
    def room(self) -> float:
        return 1 + ROOM.value / 100

    @property
    def workers(self) -> int:
        """Ten cameras are one process that answers too; from there on two at least, so that one may die."""
        return 1 if self.cameras <= 10 else max(2, math.ceil(self.cameras / PER_WORKER))

    @property
    def apis(self) -> int:
        return 0 if self.cameras <= 10 else 2

    @property
    def worker_cores(self) -> float:
        return self.cameras * FPS * (SOURCE_MS if self.source else JPEG_MS).value / 1000 * self.room

    @property
    def streams(self) -> int:
        """RTSP__MAX_CONCURRENT_STREAMS of each worker: what it has when another one is gone, or a third more."""
        others = max(1, self.workers - 1)
        return max(math.ceil(self.cameras / others), math.ceil(self.cameras / self.workers * self.room))

    @property
    def worker_gb(self) -> float:
        """One worker at the most that its settings allow: idle, rings, pictures, first pictures' processes."""
        rtsp = Settings(_env_file=None).RTSP
        rings = min(rtsp.RING_BUDGET, self.streams * rtsp.RING_SECONDS * BITRATE.value * 1e6 / 8)
        return (IDLE_MB * 1e6 + rings + rtsp.PICTURE_BUDGET + rtsp.TRIAL_MEMORY) / 1e9

    @property
    def connections(self) -> int:
        """Of each process: writing, reading, leases, changed keys, and one while it migrates."""
        db = Settings(_env_file=None).DB
        each = db.POOL_SIZE + db.MAX_OVERFLOW + db.POOL_SIZE + 3
        return (self.workers + self.apis) * each

    @property
    def frame_kb(self) -> float:
        return JPEG_KB.value * (SOURCE_SHARE.value if self.source else 1)

    @property
    def day_gb(self) -> float:
        return self.cameras * FPS * DAY * self.frame_kb / 1e6

    @property
    def writes(self) -> float:
        return self.cameras * FPS * WRITES.value / 1000

    @property
    def in_mbit(self) -> float:
        return self.cameras * BITRATE.value

    @property
    def out_mbit(self) -> float:
        return self.cameras * FPS * self.frame_kb * 8 / 1000


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


ROWS: dict[str, Callable[[Size], str]] = {
    "processes: workers, API processes": lambda s: f"{s.workers}, {s.apis or 'the same'}",
    "`RTSP__MAX_CONCURRENT_STREAMS` of a worker": lambda s: str(s.streams),
    "cores: all workers": lambda s: number(s.worker_cores),
    "cores: store": lambda s: number(s.cameras * FPS * STORE_MS.value / 1000),
    "cores: PostgreSQL": lambda s: number(s.cameras * FPS * DB_MS.value / 1000),
    "memory of a worker, at most: GB": lambda s: f"{s.worker_gb:.1f}",
    "memory of all workers, at most: GB": lambda s: number(s.worker_gb * s.workers),
    "PostgreSQL: connections, at most": lambda s: number(s.connections),
    "PostgreSQL: writes a second": lambda s: number(s.writes),
    "frames a day, million": lambda s: f"{s.cameras * FPS * DAY / 1e6:.1f}",
    "store: GB a day": lambda s: number(s.day_gb),
    "store: TB in 7 days, in 30": lambda s: f"{number(s.day_gb * 7 / 1000)}, {number(s.day_gb * 30 / 1000)}",
    "network from cameras: Mbit/s": lambda s: number(s.in_mbit),
    "network to the store: Mbit/s": lambda s: number(s.out_mbit),
}


def table() -> str:
    lines = [
        f"| cameras | {' | '.join(f'{n:,} JPEG | {n:,} source' for n in CAMERAS)} |",
        "|---" * (1 + 2 * len(CAMERAS)) + "|",
    ]
    sizes = [Size(cameras, source) for cameras in CAMERAS for source in (False, True)]
    lines += [f"| {name} | {' | '.join(row(size) for size in sizes)} |" for name, row in ROWS.items()]
    return "\n".join(lines)


def sources() -> str:
    lines = ["| figure | value | from |", "|---|---|---|"]
    lines += [f"| {each.what} | {each.value:g} | [{each.page}]({each.page}) |" for each in FIGURES]
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its tables computed anew."""
    for name, made in (("sizes", table()), ("figures", sources())):
        head, begin, rest = text.partition(f"<!-- {name}: python -m docs.sizing -->\n")
        end = f"<!-- end of {name} -->"
        text = f"{head}{begin}{made}\n{end}{rest.partition(end)[2]}"
    return text


def main(arguments: list[str]) -> int:
    before = PAGE.read_text("utf-8")
    after = page(before)
    wrong = stale()
    if "--check" in arguments:
        wrong += ["docs/sizing.md differs: python -m docs.sizing"] if after != before else []
    else:
        PAGE.write_text(after, "utf-8")
    for line in wrong:
        print(line)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
