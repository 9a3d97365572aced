"""`make bench` runs the table's benchmarks, `make bench NAME ...` those named. They take a quiet machine."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.benchmarks.frame import ROUNDS, Bench, table
from tests.benchmarks.harness import machine, stolen
from tests.benchmarks.registry import BENCHMARKS


def _run(name: str, rounds: int) -> Bench | None:
    """None for a benchmark that failed: the others are run all the same."""
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
    bench, began = Bench(name, folder, rounds), time.monotonic()
    print(f"{name}: {BENCHMARKS[name].about}", flush=True)
    try:
        BENCHMARKS[name].measure(bench)
    except Exception:
        traceback.print_exc()
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"  {time.monotonic() - began:.0f} s, {bench.write()}", flush=True)
    return bench


def main() -> int:
    names = "\n".join(f"  {name:14}{each.about}{'' if each.alone else ' *'}" for name, each in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="make bench", description=f"{__doc__}\n\n{names}\n\n* runs only when it is named",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    wanted = options.names or [name for name, each in BENCHMARKS.items() if each.alone]
    if unknown := [name for name in wanted if name not in BENCHMARKS]:
        parser.error(f"{', '.join(unknown)}: known are {', '.join(BENCHMARKS)}")
    if shutil.which("ffmpeg") is None:
        sys.exit("The benchmarks print ffmpeg's figures beside ours, and no ffmpeg is on the PATH: make ffmpeg")
    print(machine(), flush=True)
    lost = stolen()
    done = [_run(name, options.rounds) for name in wanted]
    print(f"\n{table([bench for bench in done if bench])}")
    print(f"CPU time that the host gave to others meanwhile: {stolen() - lost:.1f} s")
    return 1 if None in done else 0


if __name__ == "__main__":
    sys.exit(main())
