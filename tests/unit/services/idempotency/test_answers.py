"""Answers as they are kept: frames as ids, at known places and nowhere else."""

from __future__ import annotations

import copy
import json
from typing import Any
from uuid import UUID

import pytest

from services.idempotency.answers import frame_ids, packed, unpacked
from utils.exceptions import FrameNotFound
from utils.ids import new_id

ONE, TWO = new_id(), new_id()
META = {"extra": {"frame_id": str(TWO), "storage_path": ".trackshift/log", "storage_url": None, "url_expires_at": None}}


def frame(frame_id: UUID, **changes: Any) -> dict[str, Any]:
    made = {
        "frame_id": str(frame_id), "filename": "jane.jpg", "storage_path": "frames/x", "storage_url": "http://s?X-Amz-Signature=1",
        "url_expires_at": "t", "meta": META,
    }  # fmt: skip
    return made | changes


def answers() -> list[dict[str, Any]]:
    """A capture's or upload's, a burst's, a snapshot's."""
    return [
        {"request_id": "r", "frames": [frame(ONE), frame(TWO)], "frames_total": 2, "meta": META},
        {"results": [{"frame": frame(ONE), "n": 1}, {"frame": None, "n": 2}], "meta": META},
        frame(ONE),
    ]


@pytest.mark.parametrize("body", answers())
def test_frames_are_kept_as_ids(body: dict[str, Any]) -> None:
    before = copy.deepcopy(body)
    kept = json.loads(json.dumps(packed(body)))
    assert body == before
    assert "X-Amz" not in json.dumps(kept)
    assert "jane" not in json.dumps(kept)
    shown = {each: frame(each, storage_url="fresh") for each in (ONE, TWO)}
    assert set(frame_ids(kept)) <= shown.keys()
    again = unpacked(kept, shown)
    assert json.dumps(again).replace("fresh", "http://s?X-Amz-Signature=1") == json.dumps(body)  # the order of names too


def test_a_clients_own_words_are_no_frame() -> None:
    """Whoever writes into `meta` what a frame looks like gets it back, and no URL of a frame or of another object."""
    body = {"frames": [], "frames_total": 0, "meta": META, "rejected": [META, str(ONE)], "source": None}
    kept = packed(body)
    assert kept == body
    assert frame_ids(kept) == []
    assert unpacked(kept, {ONE: frame(ONE), TWO: frame(TWO)}) == body
    problem = {"code": "invalid_image", "rejected": [{"filename": str(ONE)}], "frames": "x", "results": 5}
    assert unpacked(packed(problem), {}) == problem


def test_a_row_that_is_gone() -> None:
    capture, burst, snapshot = (packed(body) for body in answers())
    assert unpacked(capture, {TWO: frame(TWO)})["frames"] == [frame(TWO)]
    assert unpacked(burst, {})["results"] == [{"frame": None, "n": 1}, {"frame": None, "n": 2}]
    with pytest.raises(FrameNotFound):
        unpacked(snapshot, {})


@pytest.mark.parametrize("body", answers())
def test_what_was_kept_by_an_earlier_version(body: dict[str, Any]) -> None:
    """Whole frames without URLs; a source with its user name."""
    assert set(frame_ids(body)) <= {ONE, TWO}
    shown = {each: frame(each, filename=None) for each in (ONE, TWO)}
    assert "jane" not in json.dumps(unpacked(body, shown))
    old = {"frames": [], "source": {"url": "rtsp://user:***@h/x?t=1", "codec": "h264"}}
    assert unpacked(old, {})["source"] == {"url": "rtsp://h/x", "codec": "h264"}


def test_an_upload_sessions_urls_are_not_kept() -> None:
    body = {"session_id": "s", "upload_url": "u", "urls_expire_at": "t", "parts": [{"number": 1, "url": "u"}]}
    parts = [{"number": 1, "url": None}]
    assert packed(body) == {"session_id": "s", "upload_url": None, "urls_expire_at": None, "parts": parts}
    assert packed({**body, "parts": None})["parts"] is None
    assert body["upload_url"] == "u"
