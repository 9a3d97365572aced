"""What a subscription wants of the event log, asked of each event in memory."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from models.values import LogFilter
from services.reads.serializers.event_log import LogEvent

Key = tuple[str, str]
EVERYWHERE: Key = ("", "")


class Interest:
    """A LogFilter, its lists as sets. The same answers as the database gives for it (repositories.event_log)."""

    def __init__(self, wanted: LogFilter) -> None:
        self.wanted = wanted
        self._types = None if wanted.types is None else frozenset(item.value for item in wanted.types)
        self.camera_ids = None if wanted.camera_ids is None else frozenset(wanted.camera_ids)
        self.request_ids = None if wanted.request_ids is None else frozenset(wanted.request_ids)
        self._requests = None if self.request_ids is None else frozenset(str(item) for item in self.request_ids)

    def takes_event(self, event: LogEvent) -> bool:
        if self._types is not None and event.type not in self._types:
            return False
        grant = self.wanted.cameras
        if event.other_camera is not None and grant.patterns is not None and not grant.covers(event.other_camera):
            return False
        return self._takes(event.camera_id, event.request_id)

    def takes_request(self, camera_id: str, request_id: UUID) -> bool:
        return self._takes(camera_id, str(request_id))

    def _takes(self, camera_id: str | None, request_id: str | None) -> bool:
        if self.camera_ids is not None and camera_id not in self.camera_ids:
            return False
        if self._requests is not None and request_id not in self._requests:
            return False
        grant = self.wanted.cameras
        return grant.patterns is None or (camera_id is not None and grant.covers(camera_id))

    def index_keys(self) -> list[Key]:
        """Under which an index finds it: an event that it takes has one of them (`keys_of`)."""
        if self.camera_ids is not None:
            return [("camera", camera_id) for camera_id in self.camera_ids]
        if self._requests is not None:
            return [("request", request_id) for request_id in self._requests]
        grant = self.wanted.cameras
        if grant.patterns is not None and not grant.prefixes:
            return [("camera", camera_id) for camera_id in grant.exact]
        return [EVERYWHERE]


def keys_of(event: LogEvent) -> Iterator[Key]:
    """Under which keys those are found who may want the event; no two of them find the same one."""
    yield EVERYWHERE
    if event.camera_id is not None:
        yield ("camera", event.camera_id)
    if event.request_id is not None:
        yield ("request", event.request_id)
