"""Series of single cameras, of at most `most` at once (METRICS__MAX_CAMERAS): when the last picture came, the state of the
stream, slots dropped by reason.

A camera has them from its first stream in this process. Beyond `most`, the one whose stream ended the longest ago makes
room; while all have streams, a further camera gets none, and `ingestion_cameras_without_series` counts its streams. Written
on the event loop, read in any thread.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from utils.metrics import (
    CAMERA_FRAME_AGE,
    CAMERA_PICTURE_AGE,
    CAMERA_SLOTS_DROPPED,
    CAMERA_STATE,
    CAMERAS_WITHOUT_SERIES,
    follow,
)

_BEST_FIRST = ("live", "stalled", "connecting", "backing_off")  # of several streams of one camera the best one counts


class _Camera:
    """What is known of one camera. `since`, `heard`, `stored`: seconds of the clock."""

    def __init__(self, now: float) -> None:
        self.streams: dict[int, str] = {}  # states of its streams
        self.state = ""
        self.since = self.heard = now
        self.stored: float | None = None
        self.reasons: set[str] = set()


class CameraSeries:
    """One a process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = 0
        self._clock = clock
        self._cameras: OrderedDict[str, _Camera] = OrderedDict()  # those without a stream in the order of its end
        self._beyond: set[int] = set()  # streams of cameras that have no series
        follow(CAMERAS_WITHOUT_SERIES, lambda: len(self._beyond))

    def entered(self, camera_id: str, stream: object, state: str) -> None:
        """A stream of the camera is in this state from now on; `closed`: it is gone."""
        if state == "closed":
            self._beyond.discard(id(stream))
            if (camera := self._cameras.get(camera_id)) is not None and camera.streams.pop(id(stream), None) is not None:
                self._show(camera_id, camera)
            return
        found = self._cameras.get(camera_id) or self._new(camera_id)
        if found is None:
            self._beyond.add(id(stream))
            return
        self._beyond.discard(id(stream))
        if not found.streams:
            found.heard = self._clock()  # from now on it is wanted: what was before is no silence
            CAMERA_PICTURE_AGE.labels(camera_id=camera_id).set_function(lambda: self._clock() - found.heard)
        found.streams[id(stream)] = state
        self._show(camera_id, found)

    def heard(self, camera_id: str) -> None:
        """Pictures of the camera came."""
        if (camera := self._cameras.get(camera_id)) is not None:
            camera.heard = self._clock()

    def stored(self, camera_id: str) -> None:
        """A frame of the camera was stored."""
        if (camera := self._cameras.get(camera_id) or self._new(camera_id)) is not None:
            if camera.stored is None:
                age = CAMERA_FRAME_AGE.labels(camera_id=camera_id)
                age.set_function(lambda: self._clock() - (camera.stored or 0.0))
            camera.stored = self._clock()

    def dropped(self, camera_id: str, reason: str, count: int = 1) -> None:
        """Slots of the camera got no frame."""
        if count and (camera := self._cameras.get(camera_id) or self._new(camera_id)) is not None:
            camera.reasons.add(reason)
            CAMERA_SLOTS_DROPPED.labels(camera_id=camera_id, reason=reason).inc(count)

    def _new(self, camera_id: str) -> _Camera | None:
        while len(self._cameras) >= self.most:
            gone = next((name for name, camera in self._cameras.items() if not camera.streams), None)
            if gone is None:
                return None
            self._forget(gone)
        self._cameras[camera_id] = camera = _Camera(self._clock())
        return camera

    def _show(self, camera_id: str, camera: _Camera) -> None:
        """Of its streams the best one's state; none when it has no stream."""
        state = min(camera.streams.values(), key=_BEST_FIRST.index, default="")
        if state == camera.state:
            return
        if camera.state:
            CAMERA_STATE.remove(camera_id, camera.state)
        camera.state, camera.since = state, self._clock()
        if state:
            CAMERA_STATE.labels(camera_id=camera_id, state=state).set_function(lambda: self._clock() - camera.since)
        else:
            CAMERA_PICTURE_AGE.remove(camera_id)
            self._cameras.move_to_end(camera_id)

    def _forget(self, camera_id: str) -> None:
        """Of a camera without a stream."""
        camera = self._cameras.pop(camera_id)
        if camera.stored is not None:
            CAMERA_FRAME_AGE.remove(camera_id)
        for reason in camera.reasons:
            CAMERA_SLOTS_DROPPED.remove(camera_id, reason)


camera_series = CameraSeries()
