"""`make test-faults`: every fault, several times, and a table. ARGS: names (substrings), `--rounds N`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.scenarios import ROUNDS, SCENARIOS
from tests.faults.world import Outcome, world

_COLUMNS = ("fault", "tried", "acknowledged", "lost", "doubled", "longest gap s", "recovery s", "takeover s", "picture s")


def row(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.fault, str(outcome.tried), str(outcome.acknowledged), str(outcome.lost), str(outcome.doubled),
        f"{outcome.longest_gap:.1f}", f"{outcome.recover:.1f}",
        f"{outcome.takeover:.1f}" if outcome.takeover else "", f"{outcome.picture:.1f}" if outcome.picture else "",
    )  # fmt: skip


def table(outcomes: list[Outcome]) -> str:
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *(row(each) for each in outcomes)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="substrings of faults' names; none: all")
    parser.add_argument("--rounds", type=int, help="how often each is tried, instead of its own number")
    wanted = parser.parse_args()
    names = [name for name in SCENARIOS if not wanted.names or any(part in name for part in wanted.names)]
    outcomes, failed = [], []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, world(Path(folder)) as made:
        for name in names:
            began = time.monotonic()
            try:
                outcome = asyncio.run(SCENARIOS[name](made, wanted.rounds or ROUNDS.get(name, 3)))
            except Exception as error:  # the others are tried all the same, and the table printed
                made.heal()
                failed.append(f"{name}: {type(error).__name__}: {str(error)[:2000]}")
                print(f"FAILED {failed[-1]}", flush=True)
                continue
            outcomes.append(outcome)
            print(f"{name}: {time.monotonic() - began:.0f} s; {'; '.join(row(outcome)[1:])}", flush=True)
            for note in outcome.notes[:20]:
                print(f"    {note}", flush=True)
    print("\n" + table(outcomes))
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed or not all(each.good for each in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
