"""Every order in which the steps of a slot's life can come: no invariant breaks, and each rule is needed for that."""

from __future__ import annotations

import pytest

from tests.model.slot import RULES, explore


def test_no_order_of_events_breaks_an_invariant() -> None:
    found = explore()
    print(f"{found.states} states")
    assert found.broken is None, found
    assert found.states > 10_000  # a model that cannot move proves nothing


BREAKS = {
    "epoch": "the end was written by an old owner",
    "absorbing": "completed after a committed cancel",
    "cancel wins": "completed after a committed cancel",
    "one frame a slot": "two frames in one slot",
    "drops yield": "more stored and dropped than expected",
    "frames move drops": "more stored and dropped than expected",
    "settled": "a final state with a slot in flight",
    "closed": "more stored and dropped than expected",
    "same commit": "a row without its object",
    "tombstone": "a deleted frame came back",
    "hidden first": "a row without its object",
    "condemned": "a row without its object",
    "live": "a row without its object",
    "refused": "a row without its object",
    "object first": "a row without its object",
    "fresh keys": "a row whose object has other bytes",
}


@pytest.mark.parametrize("rule", RULES)
def test_without_a_rule_an_invariant_breaks(rule: str) -> None:
    found = explore(without=rule)
    print(f"without '{rule}' ({RULES[rule]}): {found.broken}, after: {'; '.join(found.trace)}")
    assert found.broken == BREAKS[rule]
