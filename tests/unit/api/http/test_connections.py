"""How many connections there may be, and which are closed because nobody reads: by a clock that the test moves."""

from __future__ import annotations

from api.http.connections import KEPT_FILES, SPARE, Connections, most_connections
from api.http.pace import Pace

KIB = 1024


class Peer:
    def __init__(self, resting_since: float | None = None) -> None:
        self.resting_since = resting_since
        self.sent = self.waits = 0
        self.ended: list[str] = []

    def written(self) -> int:
        return self.sent

    def unread(self) -> int:
        return self.waits

    def end(self, reason: str) -> None:
        self.ended.append(reason)

    def answer(self, size: int) -> None:
        """`size` bytes are written, and wait."""
        self.sent += size
        self.waits += size


def connections(most: int = 8, unread: int = 1024 * KIB) -> Connections:
    return Connections(most, unread, Pace(silence=30, rate=KIB))


def test_the_one_that_rested_longest_makes_room() -> None:
    found, peers = connections(3), [Peer(5.0), Peer(), Peer(2.0)]
    assert [found.admit(peer) for peer in peers] == ["served"] * 3
    assert found.admit(Peer(9.0)) == "served"
    assert [peer.ended for peer in peers] == [[], [], ["made_room"]]


def test_while_all_are_busy_a_few_are_told_and_the_rest_dropped() -> None:
    found = connections(3)
    assert [found.admit(Peer()) for _ in range(3)] == ["served"] * 3
    assert [found.admit(Peer()) for _ in range(SPARE)] == ["refused"] * SPARE
    assert found.admit(Peer()) == "dropped"


def test_a_closed_connection_frees_its_place() -> None:
    found, first = connections(1), Peer()
    found.admit(first)
    found.lost(first)
    assert found.admit(Peer()) == "served"


def test_an_answer_that_nobody_reads_is_closed_after_the_silence() -> None:
    found, peer = connections(), Peer()
    found.admit(peer)
    peer.answer(100 * KIB)
    for now in range(1, 31):
        found.check(float(now))
        assert peer.ended == []
    found.check(31.0)
    assert peer.ended == ["not_read"]


def test_a_client_that_sips_is_closed_a_slow_one_is_not() -> None:
    found, sips, slow = connections(), Peer(), Peer()
    for peer in (sips, slow):
        found.admit(peer)
        peer.answer(500 * KIB)
    for now in range(1, 200):
        sips.waits -= 100
        slow.waits -= 2 * KIB
        found.check(float(now))
    assert (sips.ended, slow.ended) == (["not_read"], [])


def test_an_answer_that_was_read_counts_for_nothing_later() -> None:
    found, peer = connections(), Peer()
    found.admit(peer)
    for start in (0, 100, 200):
        peer.answer(10 * KIB)
        for now in range(start, start + 29):
            found.check(float(now))
        peer.waits = 0
        found.check(start + 29.0)
    assert peer.ended == []


def test_a_stream_that_is_read_as_it_is_written_goes_on() -> None:
    """What waits is the same at every look, and other bytes each time."""
    found, peer = connections(), Peer()
    found.admit(peer)
    peer.answer(64 * KIB)
    for now in range(200):
        found.check(float(now))
        peer.sent += 10 * KIB
    assert peer.ended == []


def test_all_answers_together_are_bounded_the_oldest_go_first() -> None:
    found, peers = connections(unread=250 * KIB), [Peer() for _ in range(4)]
    for now, peer in enumerate(peers):
        found.admit(peer)
        peer.answer(100 * KIB)
        found.check(float(now))
    assert [peer.ended for peer in peers] == [["too_much_unread"], ["too_much_unread"], [], []]


def test_the_bound_is_what_the_open_files_allow() -> None:
    assert most_connections(1200, 20_000) == 1200
    assert most_connections(1200, 1024) == 1024 - KEPT_FILES - SPARE
    assert most_connections(1200, 100) == 8
