"""The faults of `make test-faults` once each and briefly: nothing acknowledged is lost, nothing doubled, service goes on.

Faults that need the same service come one after the other under one load. Those that another test shows with the same
claims are named here with that test, and run in `make test-faults` only.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.faults.faults import one_after_the_other
from tests.faults.rolling import NAME
from tests.faults.scenarios import SCENARIOS
from tests.faults.world import World, world

pytestmark = pytest.mark.timeout(240)

STORMS = {
    "database": [
        "PostgreSQL cut in mid-transaction", "PostgreSQL cut before COMMIT", "PostgreSQL cut at COMMIT, answer lost",
        "PostgreSQL cut after record_slots, answer lost", "PostgreSQL restart", "PostgreSQL max_connections used up",
        "PostgreSQL unreachable (partition)", "10,000 requests pending",
    ],
    "store": [
        "S3 hung", "S3 503 SlowDown", "S3 500", "S3 403", "S3 bucket missing", "S3 clock skew", "S3 cut in mid-body",
        "S3 answer lost after the write", "file descriptors used up",
    ],
}  # fmt: skip
ALONE = ["disk full: embedded parts"]
ELSEWHERE = {
    "service SIGKILL": "uploads/test_idempotency.py::test_killed_at_any_moment, "
    "service/test_service_crash.py::test_kill_9_of_the_service_during_a_capture",
    "service SIGTERM": "service/test_service_crash.py::test_sigterm_hands_a_capture_back",
    "one of two SIGKILL": "service/test_two_services.py::test_kill_9_then_a_stop_in_good_order",
    "service SIGSTOP 20 s, another takes over": "uploads/test_idempotency.py::test_stopped_while_another_runs, "
    "service/test_two_services.py::test_a_process_that_was_stopped_finds_itself_fenced",
    "worker SIGKILL": "service/test_two_services.py::test_kill_9_then_a_stop_in_good_order",
    "worker SIGTERM": "service/test_roles.py::test_a_drained_worker_hands_over_and_claims_nothing",
    "worker drained": "service/test_roles.py::test_a_drained_worker_hands_over_and_claims_nothing",
    "PostgreSQL restart with 3 workers": "service/test_service_crash.py::test_kill_9_of_an_embedded_part, "
    "service/test_two_services.py::test_a_process_cut_off_from_postgresql_fences_itself",
    "worker SIGSTOP 20 s": "service/test_two_services.py::test_a_process_that_was_stopped_finds_itself_fenced",
    "api process SIGKILL in an upload": "service/test_processes.py::test_two_processes_behind_one_port",
    "rolling restart": "service/test_roles.py::test_a_drained_worker_hands_over_and_claims_nothing",
    "clock +2 h, -2 h": "captures/test_clock_steps.py::test_a_wall_clock_that_is_set_costs_no_lease_and_no_slot",
    "PostgreSQL SIGKILL": "service/test_service_crash.py::test_kill_9_of_an_embedded_part",
    "PostgreSQL SIGSTOP 20 s": "service/test_two_services.py::test_postgresql_stands_still",
    "S3 SIGKILL": "service/test_service_crash.py::test_kill_9_of_an_embedded_part",
    "S3 SIGSTOP 20 s": "spool/test_capture_spool.py::test_no_frame_is_lost_while_store_or_database_is_away",
    "disk full: temporary files": "uploads/test_upload_pressure.py::test_a_disk_that_fills_while_receiving",
    "disk full: spool": "../unit/services/spool/test_spool.py::test_a_full_disk_is_a_limit_and_leaves_nothing_half",
    "migration by 6 processes, one killed": "storage/test_migrations.py::test_many_start_at_once_and_one_migrates, "
    "storage/test_migrations.py::test_killed_in_mid_migration_leaves_nothing_half_done",
    "client gone in mid-upload": "uploads/test_upload_pressure.py::test_clients_that_go_away_leave_nothing",
    "slow clients, 1 byte a second": "uploads/test_upload_pressure.py::"
    "test_a_slow_client_is_sent_away_an_honest_slow_link_is_not",
    **dict.fromkeys(
        [name for name in SCENARIOS if name.startswith("Celery: ")],
        "service/test_celery.py::test_whatever_becomes_of_redis_captures_are_found",
    ),
    NAME: "storage/test_phases.py::test_an_expand_only_adds, "
    "storage/test_phases.py::test_this_version_starts_on_a_schema_to_which_newer_ones_have_added",
    "same key from 10 clients": "uploads/test_idempotency.py::test_ten_at_once",
}


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.mark.parametrize("name", STORMS)
async def test_nothing_acknowledged_is_lost(hurt: World, name: str) -> None:
    try:
        outcome = await one_after_the_other(hurt, name, STORMS[name])
    finally:
        hurt.heal()
    assert outcome.good, outcome
    assert outcome.tried == len(STORMS[name])
    assert outcome.acknowledged > 0


@pytest.mark.parametrize("name", ALONE, ids=lambda name: name.replace(" ", "_"))
async def test_nothing_acknowledged_is_lost_by_faults_of_their_own(hurt: World, name: str) -> None:
    try:
        outcome = await SCENARIOS[name](hurt, 1)
    except subprocess.CalledProcessError as error:
        if error.cmd[0] != "mount":
            raise
        pytest.skip("mounting a small disk is not allowed here")
    finally:
        hurt.heal()
    assert outcome.good, outcome
    assert outcome.acknowledged > 0


def test_every_fault_is_shown_somewhere() -> None:
    here = [name for names in STORMS.values() for name in names] + ALONE
    assert sorted([*here, *ELSEWHERE]) == sorted(SCENARIOS)
    for each in ", ".join(ELSEWHERE.values()).split(", "):
        file, _, test = each.partition("::")
        assert f"def {test}(" in (ROOT / "tests" / "integration" / file).read_text(), each
