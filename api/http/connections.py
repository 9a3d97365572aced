"""All connections of a process: how many there may be, and what becomes of those that do not read their answers.

Knows no sockets and no clock. Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
from typing import Literal, Protocol

from api.http.pace import BodyProgress, Pace

SPARE = 64  # connections beyond the bound that are answered 503; further ones are dropped
KEPT_FILES = 256  # descriptors that are not for connections: the database's, the store's, cameras, uploads, the log
CHECK_INTERVAL = 1.0  # seconds between two looks at what waits to be read


class HttpConnection(Protocol):
    """What is asked of one connection."""

    resting_since: float | None  # of the event loop's clock; None while a request of it is served or received

    def written(self) -> int:
        """Bytes of answers so far."""

    def unread(self) -> int:
        """Those of them that wait in this process."""

    def end(self, reason: str) -> None:
        """Closes it; what waits is thrown away."""


def most_connections(wanted: int, files: int) -> int:
    """`wanted`, or what `files` open files allow."""
    return max(8, min(wanted, files - KEPT_FILES - SPARE))


class _Answer:
    """An answer that is being read, or not."""

    def __init__(self, pace: Pace, now: float, gone: int) -> None:
        self.began = self._at = now
        self._gone = gone
        self._progress = BodyProgress(pace)

    def late(self, now: float, gone: int) -> bool:
        """Whether the client has fallen behind. `gone`: bytes that have left this process."""
        self._progress.waited(now - self._at)
        self._progress.moved(gone - self._gone)
        self._at, self._gone = now, gone
        return self._progress.seconds_left <= 0


class Connections:
    """`most` connections, and `most_unread` bytes of answers that wait for their clients, at the client's `pace`."""

    def __init__(self, most: int, most_unread: int, pace: Pace) -> None:
        self._most, self._most_unread, self._pace = most, most_unread, pace
        self._open: dict[HttpConnection, _Answer | None] = {}
        self.some = asyncio.Event()  # set while there are any

    def admit(self, new: HttpConnection) -> Literal["served", "refused", "dropped"]:
        """Takes a connection in. At the bound the one that has rested longest is closed for it; while none rests it is
        refused (answered 503), or dropped, and then it is not taken in."""
        if len(self._open) >= self._most:
            resting = [item for item in self._open if item.resting_since is not None]
            if resting:
                oldest = min(resting, key=lambda item: item.resting_since or 0.0)
                oldest.end("made_room")
                self._open.pop(oldest, None)
        if len(self._open) >= self._most + SPARE:
            return "dropped"
        self._open[new] = None
        self.some.set()
        return "served" if len(self._open) <= self._most else "refused"

    def lost(self, connection: HttpConnection) -> None:
        """It is closed."""
        self._open.pop(connection, None)
        if not self._open:
            self.some.clear()

    def check(self, now: float) -> None:
        """Once in CHECK_INTERVAL: closes connections whose clients read too slowly, the oldest while too much waits."""
        waiting: list[tuple[float, int, HttpConnection]] = []
        for connection, answer in list(self._open.items()):
            unread = connection.unread()
            if not unread:
                self._open[connection] = None
                continue
            gone = connection.written() - unread
            if answer is None:
                self._open[connection] = answer = _Answer(self._pace, now, gone)
            if answer.late(now, gone):
                self.lost(connection)
                connection.end("not_read")
            else:
                waiting.append((answer.began, unread, connection))
        total = sum(unread for _, unread, _ in waiting)
        for _, unread, connection in sorted(waiting, key=lambda item: item[0]):
            if total <= self._most_unread:
                break
            total -= unread
            self.lost(connection)
            connection.end("too_much_unread")
