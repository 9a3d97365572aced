"""The model of many processes behaves as the rules say, and each thing that it says is needed changes its figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.model.fleet import SCENARIOS, Fleet, Result, Times


def run(name: str, *, times: Times | None = None, wakes: bool = True, seconds: float = 150) -> Result:
    """120 cameras on 9 workers at 3 sites."""
    fleet = Fleet(cameras=120, workers=9, sites=3, spare=1.6, times=times, wakes=wakes, seed=3)
    return fleet.run(seconds, SCENARIOS[name][1])


def test_nothing_is_lost_while_nothing_happens_or_while_a_process_is_only_cut_off() -> None:
    assert run("nothing").lost == 0
    assert run("redis").lost == 0
    cut = run("cut one")
    assert cut.lost == 0
    assert cut.spooled > 100  # its frames, and another owner's of the same slots
    assert cut.doubled > 0


def test_a_kill_costs_a_lease_and_an_opening_and_not_more() -> None:
    times = Times()
    found = run("kill")
    longest = times.ttl + times.poll + 20 * times.open_each + times.open_least + times.gop
    assert 0 < found.takeover <= longest < 10  # the bound of docs/scale.md
    assert found.longest <= longest + 1
    assert found.takeover > times.ttl * 2 / 3  # renewed a third of a TTL ago at most


def test_a_drain_costs_less_than_a_kill_and_is_quicker_with_messages() -> None:
    drained, killed, without = run("drain"), run("kill"), run("drain", wakes=False)
    assert drained.lost < killed.lost / 2
    assert drained.takeover <= without.takeover


def test_a_database_that_is_away_costs_slots_only_where_captures_change_hands() -> None:
    found = run("fail over")
    assert found.spooled > 120 * 25  # of 30 s
    assert found.share < 0.01
    assert found.longest <= 4


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("kill", replace(Times(), ttl=20.0)),  # a longer lease
        ("drain", replace(Times(), open_each=1.0)),  # streams that open slowly
        ("drain", replace(Times(), gop=8.0)),  # keyframes that are rare
    ],
)
def test_what_the_model_is_driven_by_moves_its_figures(name: str, times: Times) -> None:
    assert run(name, times=times).lost > 1.5 * run(name).lost
