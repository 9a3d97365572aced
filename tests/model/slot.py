"""A model of one slot's life, small enough to look at every order in which things can happen.

Two owners of one capture (epochs 1 and 2) may both have a picture of the slot, with different bytes. PUTs land when they
like, also twice, also after a delete; a transaction's COMMIT may land after its sender gave up on the answer; the sweeper,
a client's delete, a cancel, a takeover and the ends of both owners come at any moment. A crash needs no step of its own: it
is everything that an owner does not do any more, and a spool's replay is an operation that comes later.

`RULES` are those of docs/rules.md that this covers; `explore(without=rule)` is the service with that one taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

RULES = {
    "epoch": "state needs the newest epoch (1)",
    "absorbing": "a final state never changes (1)",
    "cancel wins": "a committed cancel wins over completed (1)",
    "one frame a slot": "UNIQUE (request, sequence): who comes second changes nothing (1)",
    "drops yield": "a drop is not booked over a frame (2)",
    "frames move drops": "a frame of a dropped slot takes it out of the dropped ones (2)",
    "settled": "an end books what is neither stored nor dropped (2)",
    "closed": "after the end only dropped slots take a frame (2)",
    "same commit": "an unknown COMMIT is run again, never looked up and undone (4)",
    "tombstone": "a deleted frame's row stays (6)",
    "hidden first": "a delete hides the row before it removes the object (6)",
    "condemned": "the sweeper commits `condemned` before it deletes (7)",
    "live": "what a row names cannot be condemned (7)",
    "refused": "a frame under a condemned key is refused (7)",
    "object first": "the row is written after its object is stored (8)",
    "fresh keys": "every PUT has a key of its own (storage)",
}
OWNER = (1, 1, 2)  # the epoch whose process makes each operation; its bytes are called by that number as well
PUT, LANDED = 1, 2  # of an operation's object
SENT, DONE = 1, 2  # of its transaction: DONE: its answer may have been lost, so that it is sent again


class Operation(NamedTuple):
    put: int = 0
    again: bool = False  # a copy of the PUT is still on its way
    commit: int = 0


class Row(NamedTuple):
    key: int
    sha: int  # whose bytes
    state: str  # stored, deleting, deleted


class State(NamedTuple):
    epoch: int = 1
    status: str = "running"
    cancelled: bool = False
    due: bool = False  # the slot's time has come
    late: bool = False  # it had come when the second owner took over: that one does not capture it
    expected: int = 0
    stored: int = 0
    dropped: int = 0
    rows: tuple[Row, ...] = ()
    attempts: tuple[Operation, ...] = (Operation(),) * 3
    bucket: tuple[int, ...] = (0, 0, 0)  # by key: whose bytes, 0 for no object
    keys: tuple[str, ...] = ("", "", "")  # by key: live, condemned
    sweeping: int | None = None  # the key whose object the sweeper is about to delete
    purged: bool = False  # ghost: the slot's frame was deleted
    wrong: str = ""  # ghost: a step that must not be


def _at(values: tuple, index: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:index], value, *values[index + 1 :])


@dataclass(frozen=True)
class Model:
    """The steps; `without`: the rule that is taken out."""

    without: str | None = None

    def has(self, rule: str) -> bool:
        return rule != self.without

    def key(self, operation: int) -> int:
        return operation if self.has("fresh keys") else 0

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        running = s.status == "running"
        if not s.due:
            yield "the slot comes due", s._replace(due=True)
        if s.due and running and not s.expected:
            yield "it is booked as due", s._replace(expected=1)
        if (running or not self.has("absorbing")) and not s.cancelled:
            yield "cancel", s._replace(cancelled=True)
        if s.epoch == 1 and running:
            yield "takeover", self._settled(s._replace(epoch=2, late=s.due))
        yield from self._owners(s)
        for number in range(3):
            yield from self._attempt(s, number)
        yield from self._delete(s)
        yield from self._sweep(s)

    # -- state -------------------------------------------------------------------------------------------------

    def _settled(self, s: State) -> State:
        if not s.due or s.stored or s.dropped:
            return s
        return s._replace(expected=1, dropped=1)

    def _owners(self, s: State) -> Iterator[tuple[str, State]]:
        for epoch in range(1, s.epoch + 1):
            if s.due and s.status == "running" and not s.dropped and (not s.stored or not self.has("drops yield")):
                yield f"owner {epoch} drops the slot", s._replace(expected=1, dropped=1)
            if (epoch != s.epoch and self.has("epoch")) or (s.status != "running" and self.has("absorbing")):
                continue
            wanted = "cancelled" if s.cancelled and self.has("cancel wins") else "completed"
            if s.status not in ("running", wanted):
                s = s._replace(wrong="a final state changed")
            ended = self._settled(s) if self.has("settled") else s
            wrong = s.wrong or ("the end was written by an old owner" if epoch != s.epoch else "")
            yield f"owner {epoch} ends it", ended._replace(status=wanted, wrong=wrong)

    # -- evidence ----------------------------------------------------------------------------------------------

    def _attempt(self, s: State, number: int) -> Iterator[tuple[str, State]]:
        one, key, sha = s.attempts[number], self.key(number), OWNER[number]

        def with_(state: State, changed: Operation) -> State:
            return state._replace(attempts=_at(state.attempts, number, changed))

        if not one.put:
            has_picture = s.due and s.epoch >= sha and not (sha == 2 and s.late)
            if has_picture and (number != 1 or s.attempts[0].put):  # the first owner's second: a retry, or its spool's
                yield f"PUT {number}", with_(s, Operation(PUT, again=number != 1))
            return
        if one.put == PUT or one.again:
            left = one._replace(again=False) if one.put == LANDED else one._replace(put=LANDED)
            yield f"PUT {number} lands", with_(s._replace(bucket=_at(s.bucket, key, sha)), left)
        if (one.put == LANDED or not self.has("object first")) and one.commit != SENT:
            yield f"COMMIT {number} is sent", with_(s, one._replace(commit=SENT))
        if one.commit == SENT:
            yield f"COMMIT {number} lands", self._record(with_(s, one._replace(commit=DONE)), key, sha)
            if not self.has("same commit") and not any(row.key == key for row in s.rows) and s.bucket[key]:
                yield f"{number} is undone", s._replace(bucket=_at(s.bucket, key, 0))

    def _record(self, s: State, key: int, sha: int) -> State:
        """What `record_slots` does with one frame."""
        if s.rows and self.has("one frame a slot"):
            return s
        if any(row.key == key for row in s.rows):
            return s
        if s.status != "running" and not s.dropped and self.has("closed"):
            return s
        if s.keys[key] == "condemned" and self.has("refused"):
            return s
        wrong = s.wrong or ("a deleted frame came back" if s.purged else "")
        return s._replace(
            rows=(*s.rows, Row(key, sha, "stored")), keys=_at(s.keys, key, "live"), stored=s.stored + 1,
            expected=1 if s.status == "running" else s.expected,
            dropped=0 if self.has("frames move drops") else s.dropped, wrong=wrong,
        )  # fmt: skip

    # -- what removes ------------------------------------------------------------------------------------------

    def _delete(self, s: State) -> Iterator[tuple[str, State]]:
        for number, row in enumerate(s.rows):

            def became(state: str, number: int = number, row: Row = row) -> tuple[Row, ...]:
                return _at(s.rows, number, row._replace(state=state))

            if row.state == "stored":
                if self.has("hidden first"):
                    yield "a delete hides it", s._replace(rows=became("deleting"))
                elif s.bucket[row.key]:
                    yield "a delete removes the object", s._replace(bucket=_at(s.bucket, row.key, 0))
            elif row.state == "deleting":
                emptied = s._replace(bucket=_at(s.bucket, row.key, 0), purged=True)
                if self.has("tombstone"):
                    yield "the object is removed", emptied._replace(rows=became("deleted"))
                else:
                    yield "the object is removed", emptied._replace(rows=(*s.rows[:number], *s.rows[number + 1 :]))

    def _sweep(self, s: State) -> Iterator[tuple[str, State]]:
        if s.sweeping is not None:
            yield "the sweeper deletes", s._replace(bucket=_at(s.bucket, s.sweeping, 0), sweeping=None)
            return
        for key in range(3):
            named = any(row.key == key and row.state != "deleted" for row in s.rows)
            if not s.bucket[key] or (named and self.has("live")):
                continue
            if self.has("condemned"):
                yield f"the sweeper condemns {key}", s._replace(keys=_at(s.keys, key, "condemned"), sweeping=key)
            else:
                yield f"the sweeper finds {key}", s._replace(sweeping=key)


def broken(s: State) -> str | None:
    """The invariant that does not hold, by name."""
    if s.wrong:
        return s.wrong
    if len(s.rows) > 1:
        return "two frames in one slot"
    for row in s.rows:
        if row.state == "stored" and not s.bucket[row.key]:
            return "a row without its object"
        if row.state == "stored" and s.bucket[row.key] != row.sha:
            return "a row whose object has other bytes"
    in_flight = s.expected - s.stored - s.dropped
    if in_flight < 0:
        return "more stored and dropped than expected"
    if s.status != "running" and in_flight:
        return "a final state with a slot in flight"
    if s.status == "completed" and s.cancelled:
        return "completed after a committed cancel"
    return None


@dataclass(frozen=True)
class Explored:
    """How many states there are; the first invariant found broken, and the shortest way there."""

    states: int
    broken: str | None
    trace: tuple[str, ...] = ()


def explore(without: str | None = None) -> Explored:
    """Breadth first, from the beginning to every state, or to the first that breaks an invariant."""
    model = Model(without)
    start = State()
    came: dict[State, tuple[State, str] | None] = {start: None}
    frontier = [start]
    while frontier:
        coming: list[State] = []
        for state in frontier:
            for step, reached in model.steps(state):
                if reached in came:
                    continue
                came[reached] = (state, step)
                if (what := broken(reached)) is not None:
                    return Explored(len(came), what, _way(came, reached))
                coming.append(reached)
        frontier = coming
    return Explored(len(came), None)


def _way(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    steps: list[str] = []
    while (before := came[state]) is not None:
        state, step = before
        steps.append(step)
    return tuple(reversed(steps))
