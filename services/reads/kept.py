"""Answers of hot reads that are kept in memory: frames, and requests in a final state, as JSON, each by its row's version.

A row's version is its `xmin`: PostgreSQL gives every changed row the number of the transaction that changed it. A read asks
for the versions first, and for the whole rows only where nothing is kept or the version is another one, so nobody reads what
a commit has changed. Presigned URLs are made for each answer; only what surrounds them is kept.

A round trip to Redis takes as long as one to PostgreSQL, so sharing them among processes would save nothing.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from pydantic_core import to_json

from repositories.hot_reads import FrameRow
from services.reads.serializers.frames import frame_json, served
from services.storage_service.presign import Prepared
from utils.metrics import KEPT_ANSWERS

MAX_BYTES = 16 * 2**20  # of frames, and of requests
MAX_AGE = 600.0  # seconds: transaction numbers begin anew after 4 billion, and in a database that was restored
_OVERHEAD = 600  # bytes of an entry besides its JSON, about
_URL, _EXPIRES = "\x00url\x00", "\x00expires\x00"  # NUL is in no text of PostgreSQL


class KeptFrame(NamedTuple):
    """A frame's JSON around its presigned URL and that URL's expiry."""

    version: int
    before: bytes
    between: bytes
    after: bytes
    prepared: Prepared

    @classmethod
    def of(cls, row: FrameRow, prepare: Callable[..., Prepared]) -> KeptFrame:
        shown = {**frame_json(row, None), "storage_url": _URL, "url_expires_at": _EXPIRES}
        before, _, rest = to_json(shown).partition(to_json(_URL))
        between, _, after = rest.partition(to_json(_EXPIRES))
        return cls(row.version, before, between, after, prepare(served(row)))

    def size(self) -> int:
        """Bytes kept, about."""
        return len(self.before) + len(self.between) + len(self.after) + len(self.prepared.path) + len(self.prepared.query)

    def json(self, url: bytes, expires: bytes) -> bytes:
        """`expires`: the URL's, as JSON."""
        return b'%b"%b"%b%b%b' % (self.before, url, self.between, expires, self.after)


class KeptRequest(NamedTuple):
    """A final request's JSON up to its frames."""

    version: int
    camera_id: str
    newest_first: bool
    limit: int  # of the frames shown
    head: bytes


class _Versioned(Protocol):
    @property
    def version(self) -> int: ...


Key = TypeVar("Key", bound=Hashable)
K = TypeVar("K", bound=_Versioned)


class Kept(Generic[Key, K]):
    """Entries by id, at most MAX_BYTES of JSON; the least recently asked-for goes first. On the event loop.

    By hand: cachetools' TTLCache takes 5.8 µs for each entry of a page, this 0.7, and a page of 50 takes 900 in all.
    """

    def __init__(self, kind: str, size: Callable[[K], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: OrderedDict[Key, tuple[K, int, float]] = OrderedDict()
        self._bytes = 0
        self._size, self._clock = size, clock
        self._hits = KEPT_ANSWERS.labels(kind=kind, found="yes")
        self._misses = KEPT_ANSWERS.labels(kind=kind, found="no")

    def get(self, key: Key) -> K | None:
        """The entry, of whatever version."""
        return self._entry(key, self._clock())

    def current(self, wanted: Sequence[tuple[Any, ...]]) -> dict[Key, K]:
        """The entries of these (id, version, ...) that are of that version."""
        now, found = self._clock(), {}
        for key, version, *_ in wanted:
            entry = self._entry(key, now)
            if entry is not None and entry.version == version:
                found[key] = entry
        self.count(len(found), len(wanted) - len(found))
        return found

    def _entry(self, key: Key, now: float) -> K | None:
        found = self._entries.get(key)
        if found is None or found[2] < now:
            return None
        self._entries.move_to_end(key)
        return found[0]

    def put(self, key: Key, entry: K) -> None:
        self.drop(key)
        size = self._size(entry) + _OVERHEAD
        self._entries[key] = (entry, size, self._clock() + MAX_AGE)
        self._bytes += size
        while self._bytes > MAX_BYTES:
            self._bytes -= self._entries.popitem(last=False)[1][1]

    def drop(self, key: Key) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._bytes -= found[1]

    def count(self, hits: int, misses: int) -> None:
        """Of one answer."""
        if hits:
            self._hits.inc(hits)
        if misses:
            self._misses.inc(misses)
