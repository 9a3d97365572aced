"""Whose bucket it is, by what its marker and the database say of themselves."""

from __future__ import annotations

from uuid import UUID

import pytest

from models.values import DatabaseIdentity
from services.housekeeping.bucket_marker import Found, Ownership, judge

OURS = DatabaseIdentity(UUID(int=1), "7400000000000000001", 3, 16384)
UNKNOWN = DatabaseIdentity(OURS.log_id, None, None, None)


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (OURS, Ownership.OURS),
        (OURS._replace(timeline=2), Ownership.COPY),  # this one was promoted, or restored to a moment
        (OURS._replace(system="7400000000000000002"), Ownership.COPY),  # restored into another server
        (OURS._replace(database=16385), Ownership.COPY),  # cloned inside the server
        (UNKNOWN, Ownership.OURS),  # of an earlier version
        (OURS._replace(log_id=UUID(int=2)), Ownership.FOREIGN),
        (UNKNOWN._replace(log_id=UUID(int=2)), Ownership.FOREIGN),
        ("unreadable", Ownership.FOREIGN),
    ],
)
def test_a_marker_is_judged_by_all_that_it_says(found: Found, state: Ownership) -> None:
    assert found is not None
    assert judge(found, OURS) is state


def test_a_role_that_may_not_ask_goes_by_the_log_alone() -> None:
    assert judge(OURS, UNKNOWN) is Ownership.OURS
    assert judge(OURS._replace(log_id=UUID(int=2)), UNKNOWN) is Ownership.FOREIGN
