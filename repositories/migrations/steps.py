"""The steps of the schema as this version knows them: their order, and whether code of before may still run beside them.

An `expand` step only adds: code that does not know it goes on. A `contract` step takes away or narrows; it names in
SAFE_FROM the first release whose code no longer uses what goes. Read from the migrations' text: importing them takes 0.4 s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = "schema_steps"  # in the database: the steps that were made, so that code which does not know one can judge it
RECORDED_FROM = "0029"  # the step that makes the table

_HEAD = re.compile(
    r'^revision = "(\w+)"\ndown_revision = (?:"(\w+)"|None)\n(?:.*\n)*?^PHASE = "(expand|contract)"(?:\nSAFE_FROM = "([\d.]+)")?$',
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Step:
    revision: str
    phase: str
    safe_from: str | None  # of a contract: a release


@cache
def steps() -> tuple[Step, ...]:
    """In the order in which they are made."""
    # By what each says that it follows: numbers are given out before it is known which is finished first. A test compares
    # this with Alembic's own list.
    after: dict[str | None, Step] = {}
    for path in (Path(__file__).parent / "versions").glob("[0-9]*_*.py"):
        found = _HEAD.search(path.read_text("utf-8"))
        assert found is not None, f"{path.name} has no PHASE"
        assert (found[3] == "contract") == (found[4] is not None), f"{path.name}: a contract, and only it, has SAFE_FROM"
        after[found[2]] = Step(found[1], found[3], found[4])
    chain = [after[None]]
    while (following := after.get(chain[-1].revision)) is not None:
        chain.append(following)
    return tuple(chain)


def revisions() -> list[str]:
    """The schema's revisions that this version knows, the newest first."""
    return [step.revision for step in steps()][::-1]


def needed() -> str:
    """The step without which this version's code cannot run: its last one that adds. What is only taken away may wait."""
    return next(step.revision for step in reversed(steps()) if step.phase == "expand")


def release(text: str) -> tuple[int, ...]:
    """A release as a number that can be compared: 0.10.0 is newer than 0.9.2."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
