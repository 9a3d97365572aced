"""What pairs take for a change, over real photographs: the table of docs/pairs.md.

python -m tests.benchmarks.pairs_roc
"""

from __future__ import annotations

import time

from services.pairs.pair_jobs import align
from tests.kits.changed import FILES, HARMLESS, jpeg, patched, photograph

PATCHES = 1  # places of the sticker a photograph and change
THRESHOLDS = (0.001, 0.002, 0.003, 0.005, 0.0075)


def _share(before: bytes, after: bytes) -> float | None:
    answer, _ = align([len(before), len(after)], 10_000_000, before + after)
    share = answer.get("changed_share")
    return None if share is None else float(share)


def main() -> None:
    quiet: list[float] = []
    seen: list[float] = []
    failed = 0
    rows, began, pairs = [], time.process_time(), 0
    for change, apply in HARMLESS.items():
        of_change: tuple[list[float], list[float]] = [], []
        for number, name in enumerate(FILES):
            picture = photograph(name)
            before = jpeg(picture)
            pictures = [(0, picture)] + [(1, patched(picture, seed=10 * number + n)[0]) for n in range(PATCHES)]
            for kind, changed in pictures:
                share = _share(before, jpeg(apply(changed)))
                pairs += 1
                if share is None:
                    failed += 1
                else:
                    of_change[kind].append(share)
        quiet += of_change[0]
        seen += of_change[1]
        rows.append(f"| {change} | {100 * max(of_change[0]):.2f} | {100 * min(of_change[1]):.2f} | "
                    f"{100 * sorted(of_change[1])[len(of_change[1]) // 2]:.2f} |")  # fmt: skip
        print(rows[-1], flush=True)
    print(f"\n{pairs} pairs, {failed} not aligned, {(time.process_time() - began) / pairs:.2f} s of CPU a pair\n")
    print("| threshold of `changed_share`, % | false alarms | seen |\n|---|---|---|")
    for threshold in THRESHOLDS:
        alarms, hits = sum(share >= threshold for share in quiet), sum(share >= threshold for share in seen)
        print(f"| {100 * threshold:g} | {alarms} of {len(quiet)} ({100 * alarms / len(quiet):.1f} %) | "
              f"{hits} of {len(seen)} ({100 * hits / len(seen):.1f} %) |")  # fmt: skip


if __name__ == "__main__":
    main()
