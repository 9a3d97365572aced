"""What a worker says that it saw: taken as it was told, and not at all where it makes no sense."""

from __future__ import annotations

from typing import Any

import pytest

from services.rtsp_capture.media.seen import MOST, Seen, attach_seen, detach_seen


def test_it_is_taken_as_it_was_told() -> None:
    seen = [Seen(True, ([1, 2.5], b"view")), None, Seen(False, None), Seen(True, ([3], b"other"))]
    answer, data = attach_seen({"rest": 1}, b"picture", seen)
    assert detach_seen(answer, data, 4) == (seen, b"picture")
    assert answer == {"rest": 1}


NONSENSE: list[Any] = [
    {}, {"seen": None}, {"seen": [1]}, {"seen": [[True, [], 4], None]}, {"seen": [[True, [], 8]]},
    {"seen": [[True, [], -1]]}, {"seen": [[True, [], "x"]]}, {"seen": [[True]]}, {"seen": {"a": 1}},
    {"seen": [[True, [], 10**30]]}, ["seen"], None,
]  # fmt: skip


@pytest.mark.parametrize("answer", NONSENSE)
def test_what_makes_no_sense_was_not_seen(answer: Any) -> None:
    assert detach_seen(answer, b"picture", 1) == ([None], b"picture")


def test_a_view_is_bounded() -> None:
    data = b"x" * (MOST + 1)
    assert detach_seen({"seen": [[True, [], MOST + 1]]}, data, 1) == ([None], data)
    assert detach_seen({"seen": [[True, [], MOST]]}, data, 1) == ([Seen(True, ([], data[1:]))], b"x")
    assert detach_seen({"seen": [[True, "numbers", 1]]}, data, 1)[0] == [Seen(True, None)]
