"""How many keys a caller may have kept: counted seldom, exact near the bound."""

from __future__ import annotations

from services.idempotency.quota import FRESH, FULL, KeyQuota


class Table:
    """Keys as the database has them, and processes that count them."""

    def __init__(self, most: int, processes: int = 1) -> None:
        self.now = 0.0
        self.kept = self.counts = 0
        self.quotas = [KeyQuota(most, lambda: self.now) for _ in range(processes)]

    def post(self, process: int = 0, owner: str = "a") -> bool:
        quota = self.quotas[process]
        if not quota.known(owner):
            self.counts += 1
            quota.counted(owner, self.kept, 7.2)
        taken = quota.take(owner)
        self.kept += taken
        return taken


def test_one_process_takes_exactly_the_quota() -> None:
    table = Table(1000)
    assert sum(table.post() for _ in range(1500)) == 1000
    assert table.counts < 80


def test_several_processes_exceed_it_by_the_room_that_they_had_found() -> None:
    table = Table(1000, 8)
    for process in range(8):
        table.post(process)
    for process in range(8):
        while table.post(process):
            pass
    assert 1000 <= table.kept < 1900
    table.now += FRESH
    assert not any(table.post(process) for process in range(8))


def test_a_count_gets_old_and_a_refusal_sooner() -> None:
    table = Table(100)
    assert table.post()
    table.kept = 100  # by other processes
    table.now += FRESH
    assert not table.post()
    counts = table.counts
    assert not any(table.post() for _ in range(50))
    assert table.counts == counts  # a caller that tries again costs no counts
    table.kept, table.now = 99, table.now + FULL
    assert table.post()
    assert not table.post()


def test_a_refusal_says_when() -> None:
    table = Table(1)
    assert table.post()
    assert not table.post()
    error = table.quotas[0].refusal("a")
    assert (error.code, error.retry_after) == ("rate_limited", 8)
    assert "API__IDEMPOTENCY_MAX_KEYS" in error.message
    assert table.post(owner="b") is False  # the table is everybody's here; the quota of each is its own
