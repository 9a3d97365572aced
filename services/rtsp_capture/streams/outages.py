"""How long cameras have been without a stream: the source of `ingestion_stream_down_seconds`.

An outage lasts from the end of a stream to the next first packet, whatever states the stream passes through in
between: retries do not restart it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from utils.metrics import STREAM_DOWN


class Outages:
    """The outages of this process: at most one series a camera, and none for a camera that is well.

    `begin` and `end` are called on the event loop; the metric is read in any thread. An `owner` (a stream; a kept camera
    that has none) has at most one outage; of several outages of one camera the longest counts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, dict[object, float]] = {}  # camera_id, owner

    def begin(self, camera_id: str, owner: object) -> None:
        """The camera is down from now on; nothing changes when it already was."""
        owners = self._since.get(camera_id)
        if owners is None:
            owners = self._since[camera_id] = {}
            STREAM_DOWN.labels(camera_id=camera_id).set_function(lambda: self._longest(owners))
        owners.setdefault(owner, self._clock())

    def end(self, camera_id: str, owner: object) -> None:
        """The camera is up, or nobody wants it any more."""
        owners = self._since.get(camera_id)
        if owners is not None and owners.pop(owner, None) is not None and not owners:
            del self._since[camera_id]
            STREAM_DOWN.remove(camera_id)

    def _longest(self, owners: dict[object, float]) -> float:
        return self._clock() - min(list(owners.values()), default=self._clock())


outages = Outages()
