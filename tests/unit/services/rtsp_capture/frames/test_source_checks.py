"""Which source pictures wait for their check, and how many at most."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from models.values import Integrity
from services.rtsp_capture.frames import source_checks
from services.rtsp_capture.frames.source_checks import SourceChecks, chosen
from services.rtsp_capture.media.packets import PictureFile
from utils.ids import new_id


def file(size: int = 10, integrity: Integrity = Integrity.UNDECODED) -> PictureFile:
    return PictureFile(bytes(size), 320, 180, "", integrity, "h264")


def checks(share: float = 1.0) -> SourceChecks:
    return SourceChecks(share, cast("Any", None), 1, cast("Any", None))


def record() -> Any:
    return SimpleNamespace(frame_id=new_id(), camera_id="cam")


def test_a_share_of_frames_is_chosen_and_always_the_same() -> None:
    ids = [new_id() for _ in range(4000)]
    assert 300 < sum(chosen(one, 0.1) for one in ids) < 500
    assert all(chosen(one, 1.0) for one in ids)
    assert not any(chosen(one, 0.0) for one in ids)
    assert [chosen(one, 0.3) for one in ids] == [chosen(one, 0.3) for one in ids]


async def test_what_was_decoded_and_what_is_not_of_the_share_does_not_wait() -> None:
    one = checks()
    one.offer(record(), file(integrity=Integrity.VERIFIED))
    none = checks(0.0)
    none.offer(record(), file())
    assert len(one._waiting) == len(none._waiting) == 0


async def test_what_waits_is_bounded_by_number_and_bytes_and_the_newest_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_checks, "MAX_WAITING", 3)
    monkeypatch.setattr(source_checks, "MAX_BYTES", 100)
    one, records = checks(), [record() for _ in range(5)]
    for each in records:
        one.offer(each, file(20))
    assert [each for each, _ in one._waiting] == records[2:]
    one.offer(last := record(), file(90))
    assert ([each for each, _ in one._waiting], one._bytes) == ([last], 90)
