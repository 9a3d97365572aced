"""`make test-faults`: every fault, several times, and a table. ARGS: names (substrings), `--rounds N` or `--seconds N`."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import rolling
from tests.faults.scenarios import ROUNDS, SCENARIOS
from tests.faults.world import Outcome, World, world

_COLUMNS = (
    "fault", "tried", "failed", "acknowledged", "lost", "doubled", "longest gap s", "recovery s", "takeover s: p50, max",
    "picture s: p50, max", "all ended s: p50, max",
)  # fmt: skip
AT_A_TIME = 2  # rounds of one set of processes, with --seconds


def _times(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}, {max(values):.1f}" if values else ""


def row(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.fault, str(outcome.tried), str(outcome.failed), str(outcome.acknowledged), str(outcome.lost),
        str(outcome.doubled),
        f"{outcome.longest_gap:.1f}", f"{outcome.recover:.1f}",
        _times(outcome.takeovers), _times(outcome.pictures), _times(outcome.ends),
    )  # fmt: skip


def table(outcomes: list[Outcome]) -> str:
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *(row(each) for each in outcomes)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tried(made: World, name: str, rounds: int, seconds: float) -> Outcome:
    """The fault's outcome after so many rounds; with `seconds`, of as many as are begun in that time."""
    began, outcome = time.monotonic(), asyncio.run(SCENARIOS[name](made, AT_A_TIME if seconds else rounds))
    while time.monotonic() - began < seconds:
        print(f"  {name}: {'; '.join(row(outcome)[1:])}", flush=True)
        try:
            outcome.add(asyncio.run(SCENARIOS[name](made, AT_A_TIME)))
        except Exception as error:  # what was found before counts
            made.heal()
            outcome.add(Outcome(name, 1, 1, notes=[f"FAILED {type(error).__name__}: {str(error)[:2000]}"]))
    return outcome


def _try_all(
    made: World, names: list[str], wanted: argparse.Namespace, outcomes: list[Outcome], failed: list[str]
) -> None:  # fmt: skip
    for name in names:
        began = time.monotonic()
        try:
            outcome = tried(made, name, wanted.rounds or ROUNDS.get(name, 3), wanted.seconds)
        except Exception as error:  # the others are tried all the same, and the table printed
            made.heal()
            failed.append(f"{name}: {type(error).__name__}: {str(error)[:2000]}")
            print(f"FAILED {failed[-1]}", flush=True)
            continue
        outcomes.append(outcome)
        print(f"{name}: {time.monotonic() - began:.0f} s; {'; '.join(row(outcome)[1:])}", flush=True)
        for note in outcome.notes[:20]:
            print(f"    {note}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="substrings of faults' names; none: all")
    parser.add_argument("--rounds", type=int, help="how often each is tried, instead of its own number")
    parser.add_argument("--seconds", type=float, default=0, help="for how long each is tried, instead of its own number")
    wanted = parser.parse_args()
    names = [name for name in SCENARIOS if not wanted.names or any(part in name for part in wanted.names)]
    outcomes: list[Outcome] = []
    failed: list[str] = []
    # An older commit does not know the schema that others have made: the upgrade has a world of its own.
    for group in ([name for name in names if name != rolling.NAME], [name for name in names if name == rolling.NAME]):
        if group:
            with tempfile.TemporaryDirectory(prefix="faults-") as folder, world(Path(folder)) as made:
                _try_all(made, group, wanted, outcomes, failed)
    print("\n" + table(outcomes))
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed or not all(each.good for each in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
