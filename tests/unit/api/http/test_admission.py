"""What is pure in uploads: the gate's arithmetic, how slowly a body may come, how a file is cut into parts."""

from __future__ import annotations

import pytest

from api.http.admission import STEP, UploadGate
from api.http.body import BodyDeadline
from config import UploadSettings
from models.values import StagedPart
from services.storage_service.staging import session_of, staging_key
from services.upload_sessions.plan import MAX_PARTS, missing_parts, part_size_of, sizes_of, whole_parts
from utils.exceptions import Overloaded
from utils.ids import new_id

MIB = 1_048_576


def test_the_gate_counts_uploads_and_bytes() -> None:
    gate = UploadGate(UploadSettings(MAX_CONCURRENT=3, MAX_BYTES_IN_FLIGHT=10 * MIB))
    with gate.admit(6 * MIB), gate.admit(None) as grows:
        assert (gate.uploads, gate.bytes) == (2, 7 * MIB)
        with pytest.raises(Overloaded), gate.admit(4 * MIB):
            pass
        grows.cover(STEP)
        grows.cover(STEP + 1)
        assert gate.bytes == 8 * MIB
        grows.cover(4 * MIB)
        with pytest.raises(Overloaded):
            grows.cover(4 * MIB + 1)
        with pytest.raises(Overloaded), gate.admit(1):
            pass
    assert (gate.uploads, gate.bytes) == (0, 0)
    with gate.admit(0), gate.admit(0), gate.admit(0), pytest.raises(Overloaded), gate.admit(0):
        pass
    assert gate.uploads == 0


def test_one_alone_is_always_taken() -> None:
    gate = UploadGate(UploadSettings(MAX_BYTES_IN_FLIGHT=MIB))
    with gate.admit(100 * MIB):
        assert gate.bytes == 100 * MIB
    with gate.admit(None) as grows:
        grows.cover(50 * MIB)
        with pytest.raises(Overloaded), gate.admit(0):
            pass
    assert gate.bytes == 0


def test_the_deadline_of_a_body() -> None:
    pace = BodyDeadline(silence=30, rate=1000)
    assert pace.seconds_left(0, 0) == 30
    assert pace.seconds_left(0, 29) == 1
    assert pace.seconds_left(30, 30) == pytest.approx(0.03)  # a byte a second: over after 30 s
    assert pace.seconds_left(5_000_000, 4900) == 30  # faster than the rate: only a pause ends it
    assert pace.seconds_left(5_000_000, 5029) == 1
    assert pace.seconds_left(5_000_000, 6000) < 0
    assert BodyDeadline(silence=30, rate=0).seconds_left(1, 1e6) == 30


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
