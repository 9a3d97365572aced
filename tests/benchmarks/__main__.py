"""`make bench ARGS="cpu memory every many snapshot staleness safety"`: figures on this machine, ours beside ffmpeg's.

Without ARGS all of them, staleness for two minutes (`--long`: ten). They judge nothing and take a quiet machine. The
cameras begin where they are, in mid-GOP, as media servers do: a client's first picture is the next keyframe.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.cpu import every_frame, one_a_second
from tests.benchmarks.harness import machine, stolen
from tests.benchmarks.many import many
from tests.benchmarks.memory import memory
from tests.benchmarks.safety import BEFORE, safety
from tests.benchmarks.snapshot import snapshots
from tests.benchmarks.staleness import staleness

ALL = ("cpu", "memory", "every", "many", "snapshot", "staleness", "safety")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*ALL, []], default=list(ALL))
    parser.add_argument("--cameras", type=int, default=5, help="of `cpu`: ffmpeg needs a fifth of a core for each")
    parser.add_argument("--seconds", type=float, default=20, help="of `cpu` and `every`, a round")
    parser.add_argument("--long", action="store_true", help="`staleness` for ten minutes")
    parser.add_argument("--before", default=BEFORE, help="of `safety`: the commit to compare with")
    options = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        sys.exit("The benchmarks print ffmpeg's figures beside ours, and no ffmpeg is on the PATH: apt-get install ffmpeg")
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    print(machine(), flush=True)
    began = stolen()
    try:
        if "cpu" in options.what:
            one_a_second(folder, options.cameras, options.seconds)
        if "memory" in options.what:
            memory(folder, 2, 10)
        if "every" in options.what:
            every_frame(folder, options.seconds)
        if "many" in options.what:
            for reader in ("opencv", "native"):
                many(folder, 40, 60, reader)
        if "snapshot" in options.what:
            snapshots(folder, 50)
        if "staleness" in options.what:
            for sampling in ("auto", "exact"):
                staleness(folder, 600 if options.long else 120, sampling)
        if "safety" in options.what:
            safety(folder, options.before, 2, 10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"CPU time that the host gave to others meanwhile: {stolen() - began:.1f} s")


if __name__ == "__main__":
    main()
