"""One round of every fault of `make test-faults`: nothing acknowledged is lost, nothing is doubled, service goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.faults.scenarios import SCENARIOS
from tests.faults.world import World, world

pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.mark.parametrize("name", list(SCENARIOS), ids=lambda name: name.replace(" ", "_"))
async def test_nothing_acknowledged_is_lost(hurt: World, name: str) -> None:
    try:
        outcome = await SCENARIOS[name](hurt, 1)
    except subprocess.CalledProcessError as error:
        if error.cmd[0] != "mount":
            raise
        pytest.skip("mounting a small disk is not allowed here")
    finally:
        hurt.heal()
    assert outcome.good, outcome
    assert outcome.acknowledged > 0 or name.startswith("migration")
