"""What is pure in uploads: the gate's arithmetic, how a file is cut into parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from api.http.admission import Held, UploadGate
from config import UploadSettings
from models.values import StagedPart
from services.access.shares import UNSHARED, Shares
from services.storage_service.staging import session_of, staging_key
from services.upload_sessions.plan import MAX_PARTS, missing_parts, part_size_of, sizes_of, whole_parts
from utils.exceptions import Overloaded, RateLimited
from utils.ids import new_id

MIB = 1_048_576


@contextmanager
def upload(gate: UploadGate, declared: int = 0, shares: Shares = UNSHARED, owner: str = "a") -> Iterator[Held]:
    with shares.hold("upload bytes", owner, 10 * MIB, amount=0) as share, gate.admit(share, declared) as held:
        yield held


def test_bytes_count_when_they_have_come() -> None:
    """Slow clients that announced gigabytes keep nobody out."""
    gate = UploadGate(UploadSettings(MAX_CONCURRENT=5, MAX_BYTES_IN_FLIGHT=10 * MIB))
    with upload(gate, 9 * MIB) as first, upload(gate, 9 * MIB) as second, upload(gate, 9 * MIB):
        assert (gate.uploads, gate.bytes.total) == (3, 0)
        first.cover(6 * MIB)
        second.cover(4 * MIB)
        second.cover(4 * MIB)
        assert gate.bytes.total == 10 * MIB
        with pytest.raises(Overloaded):
            second.cover(4 * MIB + 1)
        assert gate.bytes.total == 10 * MIB
        with pytest.raises(Overloaded), upload(gate, 1):  # that it does not fit is seen before it is read
            pass
        with upload(gate):
            assert gate.uploads == 4
    assert (gate.uploads, gate.bytes.total) == (0, 0)


def test_places_are_counted() -> None:
    gate = UploadGate(UploadSettings(MAX_CONCURRENT=2))
    with upload(gate), upload(gate), pytest.raises(Overloaded), upload(gate):
        pass
    assert gate.uploads == 0


def test_one_alone_is_always_taken() -> None:
    gate = UploadGate(UploadSettings(MAX_BYTES_IN_FLIGHT=MIB))
    with upload(gate, 100 * MIB) as alone:
        alone.cover(100 * MIB)
        with pytest.raises(Overloaded), upload(gate):
            pass
    assert gate.bytes.total == 0


def test_one_caller_holds_its_share_of_the_bytes() -> None:
    gate, shares = UploadGate(UploadSettings(MAX_BYTES_IN_FLIGHT=10 * MIB)), Shares(0.5)
    with upload(gate, 0, shares) as first, upload(gate, 0, shares) as second:
        first.cover(4 * MIB)
        second.cover(MIB)
        with pytest.raises(RateLimited):
            second.cover(MIB + 1)
        with upload(gate, 0, shares, "b") as other:
            other.cover(5 * MIB)
        assert gate.bytes.total == 5 * MIB
    with upload(gate, 0, shares) as alone:
        alone.cover(9 * MIB)


@pytest.mark.parametrize("size", [1, 5 * MIB, 5 * MIB + 1, 10 * MIB, 123_456_789, 5 * 1024 * MIB])
def test_parts_are_the_file(size: int) -> None:
    part_size = part_size_of(size, 5 * MIB)
    sizes = sizes_of(size, part_size)
    assert sum(length for _, length in sizes) == size
    assert [number for number, _ in sizes] == list(range(1, len(sizes) + 1))
    assert len(sizes) <= MAX_PARTS
    assert (part_size is None) == (size <= 5 * MIB)
    assert all(length >= 5 * MIB for _, length in sizes[:-1])


def test_which_parts_are_missing() -> None:
    sizes = [(1, 10), (2, 10), (3, 4)]
    listed = [StagedPart(1, 10, "a"), StagedPart(2, 9, "b"), StagedPart(3, 4, "c"), StagedPart(4, 10, "d")]
    there = whole_parts(sizes, listed)
    assert sorted(there) == [1, 3]
    assert missing_parts(sizes, there, None) == [2]
    assert missing_parts(sizes, there, {1: "a", 2: "b", 3: "x"}) == [2, 3]
    assert missing_parts(sizes, there, {}) == [1, 2, 3]


def test_staging_keys_name_their_session() -> None:
    session_id = new_id()
    assert session_of(staging_key(session_id)) == session_id
    for odd in ("x/object", f"{session_id}/other", f"{session_id}", f"{session_id.hex}/object"):
        assert session_of(f"staging/{odd}") is None
