"""False alarms and misses of quality's reasons over photographs and the demo's film: the tables of docs/quality.md.

python -m tests.benchmarks.quality_figures faults, ... weather
"""

from __future__ import annotations

import sys
from collections import Counter
from copy import deepcopy
from itertools import islice

from services.quality.judge import Judge
from tests.kits.poor_pictures import AFTER, FAULTS, FRAMES, LEARN, NAMES, camera, demo_film, grey, judged, spoilt, with_fault

SEEDS = (3, 4)
QUIET = 120  # pictures of a camera that nothing is wrong with


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.most_common())


def faults() -> None:
    alarms: Counter[str] = Counter()
    bad = suspect = total = 0
    for name in NAMES:
        for seed in SEEDS:
            for quality in judged(Judge(FRAMES, capture=True), camera(grey(name), seed), QUIET):
                total += 1
                bad += quality.verdict == "bad"
                suspect += quality.verdict == "suspect"
                alarms.update(reason.value for reason in quality.reasons)
    cameras = len(NAMES) * len(SEEDS)
    print(f"Nothing wrong: {total} pictures of {cameras} cameras, {bad} bad, {suspect} suspect: {_counted(alarms)}\n")
    print("| fault | cameras | told | as bad | missed | another reason too |\n|---|---|---|---|---|---|")
    for fault, (reason, _) in FAULTS.items():
        told = as_bad = 0
        others: Counter[str] = Counter()
        missed = []
        for name in NAMES:
            for seed in SEEDS:
                found = with_fault(name, fault, seed)
                hit = [quality for quality in found if reason in quality.reasons]
                told += bool(hit)
                as_bad += any(quality.verdict == "bad" for quality in hit)
                if not hit:
                    missed.append(name)
                others.update({str(one) for quality in found for one in quality.reasons} - {reason})
        count = len(NAMES) * len(SEEDS)
        names = f"{count - told} {', '.join(sorted(set(missed)))}".strip()
        print(f"| {fault} | {count} | {told} | {as_bad} | {names} | {_counted(others)} |", flush=True)


def weather() -> None:
    print("\n| the demo's film | pictures | bad | suspect | reasons |\n|---|---|---|---|---|")
    rows: dict[str, list[str]] = {fault: [] for fault in FAULTS}
    kinds = ("day", "night", "rain", "dirt")
    for kind in kinds:
        reasons: Counter[str] = Counter()
        verdicts: Counter[str] = Counter()
        hits: Counter[str] = Counter()
        for seed in SEEDS:
            film, judge = demo_film(kind, seed), Judge(FRAMES, capture=True)
            found = judged(judge, film, LEARN + QUIET)[LEARN:]
            reasons.update(reason.value for quality in found for reason in quality.reasons)
            verdicts.update(quality.verdict.value for quality in found)
            after = [*islice(film, AFTER)]
            for fault, (reason, _) in FAULTS.items():
                told = judged(deepcopy(judge), spoilt(iter(after), fault), AFTER, LEARN + QUIET)
                hits[fault] += any(reason in quality.reasons for quality in told)
        count = QUIET * len(SEEDS)
        print(f"| {kind} | {count} | {verdicts['bad']} | {verdicts['suspect']} | {_counted(reasons)} |", flush=True)
        for fault, cells in rows.items():
            cells.append(f"{hits[fault]} of {len(SEEDS)}")
    print(f"\n| told of a fault in | {' | '.join(kinds)} |\n|---|---|---|---|---|")
    for fault, cells in rows.items():
        print(f"| {fault} | {' | '.join(cells)} |")


if __name__ == "__main__":
    {"faults": faults, "weather": weather}[sys.argv[1]]()
