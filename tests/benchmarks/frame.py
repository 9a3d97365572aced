"""The one form of every benchmark: ours and the reference in turns, the median of the rounds, beside a goal.

A benchmark is a function `measure(bench)` of a line in `registry.py`. It calls `bench.compare` for each thing it compares;
that prints a line at once, and the run ends with a table and `build/bench/NAME.json`. Nothing is judged but the goal: a busy
machine is no defect, and no test runs these.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tests.benchmarks.harness import machine, stolen

ROUNDS = 3  # at least
FOLDER = Path("build/bench")


@dataclass(frozen=True)
class Goal:
    """What a value is to be: `Goal(">=", 0.9)`. None as a bound: there is no goal."""

    sign: Literal[">=", "<="] = "<="
    bound: float | None = None

    def met(self, value: float) -> bool | None:
        if self.bound is None:
            return None
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def __str__(self) -> str:
        return "" if self.bound is None else f"{self.sign} {self.bound:g}"


@dataclass(frozen=True)
class Comparison:
    """Figures of ours and of the reference, a round each. Without a reference the goal is of our own figure."""

    what: str
    unit: str
    ours: Sequence[float]
    reference: Sequence[float]
    goal: Goal
    more: dict[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The median of the rounds' ratios: shared machines change their speed from one round to the next."""
        if not self.reference:
            return statistics.median(self.ours)
        return statistics.median(mine / other for mine, other in zip(self.ours, self.reference, strict=True))

    def cells(self) -> tuple[str, ...]:
        """What, ours, reference, value, goal, met or not."""
        mine = f"{statistics.median(self.ours):.4g} {self.unit}"
        other = f"{statistics.median(self.reference):.4g} {self.unit}" if self.reference else ""
        verdict = {True: "met", False: "NOT met", None: ""}[self.goal.met(self.value)]
        return self.what, mine, other, f"{self.value:.2f}" if self.reference else "", str(self.goal), verdict

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what, "unit": self.unit, "ours": [*self.ours], "reference": [*self.reference],
            "value": self.value, "goal": str(self.goal), "met": self.goal.met(self.value), **self.more,
        }  # fmt: skip


class Bench:
    """What a benchmark is given: a folder of its own, how many rounds, and where its comparisons go."""

    def __init__(self, name: str, folder: Path, rounds: int = ROUNDS) -> None:
        self.name, self.folder, self.rounds = name, folder, rounds
        self.found: list[Comparison] = []
        self._began, self._stolen = datetime.now(UTC), stolen()

    def turns(self, *sides: Callable[[], float]) -> list[list[float]]:
        """Each side's figure once a round, every second round in the other order; a list for each side."""
        figures: list[list[float]] = [[] for _ in sides]
        for number in range(self.rounds):
            order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
            for each in order:
                figures[each].append(sides[each]())
        return figures

    def compare(
        self, what: str, unit: str, ours: Sequence[float], reference: Sequence[float], goal: Goal, **more: float
    ) -> None:
        """Adds a comparison; `more`: figures beside it, printed and kept."""
        made = Comparison(what, unit, [*ours], [*reference], goal, more)
        self.found.append(made)
        beside = ", ".join(f"{name} {value:.4g}" for name, value in more.items())
        print("  " + "  ".join(cell for cell in made.cells() if cell) + (f"  ({beside})" if beside else ""), flush=True)

    def write(self) -> Path:
        """The comparisons as JSON; its path."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{self.name}.json"
        seconds = (datetime.now(UTC) - self._began).total_seconds()
        report = {
            "name": self.name, "machine": machine(), "at": self._began.isoformat(timespec="seconds"),
            "seconds": round(seconds, 1), "stolen_seconds": round(stolen() - self._stolen, 1), "rounds": self.rounds,
            "comparisons": [each.as_json() for each in self.found],
        }  # fmt: skip
        path.write_text(json.dumps(report, indent=1))
        return path


def table(benches: Sequence[Bench]) -> str:
    """All comparisons as Markdown."""
    head = ("name", "what", "ours", "reference", "ratio", "goal", "")
    rows = [head, *((bench.name, *each.cells()) for bench in benches for each in bench.found)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
