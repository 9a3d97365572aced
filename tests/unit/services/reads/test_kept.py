"""Answers kept in memory: by version, by age, within their bound; a frame's JSON around its URL."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

from repositories.hot_reads import FrameRow
from services.reads import kept
from services.reads.kept import Kept, KeptFrame
from services.reads.serializers.frames import frame_json
from services.storage_service.presign import Presigned, Presigner
from tests.kits.clock import Clock


class _Entry(NamedTuple):
    version: int
    size: int = 0


def test_an_entry_counts_only_for_its_own_version() -> None:
    cache: Kept[UUID, _Entry] = Kept("frame", lambda entry: entry.size)
    first, second, unknown = uuid4(), uuid4(), uuid4()
    cache.put(first, _Entry(7))
    cache.put(second, _Entry(8))
    assert cache.current([(first, 7), (second, 9, "more"), (unknown, 1)]) == {first: _Entry(7)}
    cache.put(second, _Entry(9))
    assert cache.current([(second, 9)]) == {second: _Entry(9)}
    cache.drop(second)
    assert cache.get(second) is None


def test_an_old_entry_is_none() -> None:
    clock = Clock()
    cache: Kept[UUID, _Entry] = Kept("frame", lambda entry: entry.size, clock)
    key = uuid4()
    cache.put(key, _Entry(1))
    clock.now += kept.MAX_AGE
    assert cache.get(key) == _Entry(1)
    clock.now += 0.001
    assert cache.get(key) is None
    assert cache.current([(key, 1)]) == {}


def test_the_entry_that_nobody_asked_for_goes_first() -> None:
    cache: Kept[UUID, _Entry] = Kept("frame", lambda entry: entry.size)
    keys = [uuid4() for _ in range(4)]
    third = kept.MAX_BYTES // 3 - 1000
    for key in keys[:3]:
        cache.put(key, _Entry(1, third))
    assert cache.get(keys[0]) is not None
    cache.put(keys[3], _Entry(1, third))
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]
    for _ in range(100):  # the same one again takes no more room
        cache.put(keys[3], _Entry(1, third))
    assert cache.get(keys[0]) is not None


def _row(**more: Any) -> FrameRow:
    at = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)
    values: dict[str, Any] = {
        "id": UUID(int=1), "request_id": UUID(int=2), "camera_id": "cam", "source_type": "upload", "sequence": 0,
        "filename": 'o\\u0000url\\u0000 "été".jpg', "storage_path": "frames/a b/1.jpg", "capture_timestamp": at,
        "timestamp_source": "exif", "timestamp_uncertainty_ms": None, "camera_timestamp": None, "width": 4, "height": 3,
        "size_bytes": 10, "format": "jpg", "content_type": "image/jpeg", "sha256": "0" * 64,
        "integrity": "verified", "duplicate_of": None, "quality": None,
        "exif": {"Make": "\\u0000url\\u0000"},
        "meta": {"extra": {"storage_url": "x", "url_expires_at": "\\u0000expires\\u0000"}},
        "stored_at": at, "held_at": None, "hold_reason": None, "version": 5, **more,
    }  # fmt: skip
    return cast(FrameRow, SimpleNamespace(**values))


def test_a_frame_is_told_as_its_serializer_tells_it_whatever_texts_it_has() -> None:
    row, now = _row(), datetime(2026, 5, 4, 14, tzinfo=UTC)
    presigner = Presigner("http://127.0.0.1:9000", "bucket", "us-east-1", "user", "secret", 300)
    entry = KeptFrame.of(row, presigner.prepare)
    (url,), expires_at = presigner.sign([entry.prepared], now)
    told = json.loads(entry.json(url, json.dumps("2026-05-04T14:05:00.000000Z").encode()))
    assert told == frame_json(row, Presigned(url.decode(), expires_at))
    assert entry.version == 5
    assert entry.size() > len(entry.before)
