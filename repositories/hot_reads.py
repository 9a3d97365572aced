"""Hot reads: one statement each on a plain asyncpg connection, for what clients ask for over and over.

Without ORM, session and transaction, a GET status takes less than half of the CPU time (docs/performance.md). Each statement
is a transaction by itself and sees one snapshot. A principal's cameras are an argument without default, as everywhere.

Longer than 250 lines: they share how a filter becomes a condition, and the grant's place in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from models.access import CameraGrant
from models.entities import CameraConfiguration, Frame, IngestionRequest
from models.entities.requests import LedgerCounts
from models.values import DatabaseIdentity, FrameFilter
from repositories.base import Key
from repositories.meta_filters import meta_condition, meta_filters
from repositories.reader import Reader, Row
from repositories.sql import LAPSED

SORTED_WINDOW = 10_000  # frames; a larger window of `stored_at` is read in the order of capture times


class RequestRow(LedgerCounts, Row):
    """A row of ingestion_requests, with its `version`."""

    __slots__ = ()


class FrameRow(Row):
    """A row of frames, with its `version`."""

    __slots__ = ()


# Which version of a row is current: its id and its `xmin`, which every change of the row sets anew. Plain rows, since a page
# has up to 200 of them.
Version = tuple[UUID, int]
Place = tuple[UUID, int, datetime]  # a frame's version, and where the frame stands in a list by capture time


class RegisteredCamera(NamedTuple):
    """A row of camera_configurations, with its `version`."""

    version: int
    row: CameraConfiguration


def _columns(entity: Any, row: type[Row]) -> str:
    """The columns of a statement, and each as a property of `row`: a tenth of what Row.__getattr__ takes, and a list of 50
    frames reads 1,600 of them."""
    names = [column.name for column in entity.__table__.columns]
    for name in (*names, "version"):
        setattr(row, name, property(itemgetter(name)))
    return ", ".join([*names, "xmin AS version"])


_FRAME, REQUEST_COLUMNS = _columns(Frame, FrameRow), _columns(IngestionRequest, RequestRow)
_REQUEST = f"""
    SELECT {REQUEST_COLUMNS},
           (SELECT l.owner FROM capture_leases l WHERE l.request_id = $1 AND NOT {LAPSED}) AS lease_owner
    FROM ingestion_requests WHERE id = $1
"""
_CAMERA = f"""
    SELECT xmin, {", ".join(CameraConfiguration.__table__.columns.keys())} FROM camera_configurations WHERE camera_id = $1
"""
_PENDING = "SELECT count(*) FROM (SELECT 1 FROM ingestion_requests WHERE status = 'pending' LIMIT $1) AS waiting"
_PENDING_OF = _PENDING.replace("LIMIT", "AND owner = $2 LIMIT")
_UNALIGNED = """
    SELECT EXISTS (SELECT 1 FROM pairs WHERE status = 'pending' AND (leased_until IS NULL OR leased_until < now()))
"""
_IDENTITY = "SELECT log, system, timeline, database FROM database_identity()"
_UNHELD = f"SELECT EXISTS (SELECT 1 FROM capture_leases l WHERE {LAPSED})"
_OF_REQUEST = "SELECT id, xmin FROM frames WHERE request_id = $1 AND state = 'stored' ORDER BY sequence {} LIMIT $2"
_OF_UPLOAD, _OF_CAPTURE = _OF_REQUEST.format("ASC"), _OF_REQUEST.format("DESC")
_GAPS = """
    SELECT from_at, to_at, reason FROM (
        SELECT id, from_at, to_at, reason FROM capture_gaps WHERE request_id = $1 ORDER BY from_at DESC, id DESC LIMIT $2
    ) AS newest ORDER BY from_at, id
"""
_VERSIONS = """
    SELECT r.xmin AS request_version, f.id, f.version
    FROM ingestion_requests r LEFT JOIN LATERAL (
        SELECT id, xmin AS version, sequence FROM frames WHERE request_id = $1 AND state = 'stored'
        ORDER BY sequence {order} LIMIT $2
    ) AS f ON true
    WHERE r.id = $1 ORDER BY f.sequence {order}
"""
_VERSIONS_OF_UPLOAD, _VERSIONS_OF_CAPTURE = _VERSIONS.format(order="ASC"), _VERSIONS.format(order="DESC")
_PLACE = "id, xmin AS version, capture_timestamp"
_BY_IDS = f"SELECT {_FRAME} FROM frames WHERE id = ANY($1::uuid[]) AND state = 'stored'"
_NAMED = f"SELECT {REQUEST_COLUMNS} FROM ingestion_requests WHERE id = ANY($1::uuid[])"
_RUNNING = f"""
    SELECT {REQUEST_COLUMNS} FROM ingestion_requests
    WHERE status = 'in_progress' AND ($1 OR camera_id = ANY($2::text[])) ORDER BY created_at DESC, id DESC LIMIT $3
"""
_GAPS_OF = """
    SELECT newest.* FROM unnest($1::uuid[]) AS wanted (id) CROSS JOIN LATERAL (
        SELECT id, request_id, from_at, to_at, reason FROM capture_gaps WHERE request_id = wanted.id
        ORDER BY from_at DESC, id DESC LIMIT $2
    ) AS newest ORDER BY newest.from_at, newest.id
"""


class _Statement:
    """Conditions and their parameters, numbered as they come."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.values: list[Any] = []

    def bound(self, text: str, *values: Any) -> str:
        """`text` with the number of its parameter for each `{}`."""
        first = len(self.values) + 1
        self.values += values
        return text.format(*(f"${first + n}" for n in range(len(values))))

    def where(self, condition: str, *values: Any) -> None:
        self.conditions.append(self.bound(condition, *values))

    def __str__(self) -> str:
        return " AND ".join(self.conditions)


def _stored_within(statement: _Statement, wanted: FrameFilter) -> None:
    statement.where("state = 'stored'")
    if wanted.stored_from is not None:
        statement.where("stored_at >= {}", wanted.stored_from)
    if wanted.stored_to is not None:
        statement.where("stored_at < {}", wanted.stored_to)


def _matching(wanted: FrameFilter, cameras: CameraGrant) -> _Statement:
    statement = _Statement()
    _stored_within(statement, wanted)
    if cameras.patterns is not None:
        prefix = "EXISTS (SELECT 1 FROM unnest({}::text[]) AS p WHERE starts_with(camera_id, p))"
        statement.where(f"(camera_id = ANY({{}}::text[]) OR {prefix})", cameras.exact, cameras.prefixes)
    if wanted.camera_id is not None:
        statement.where("camera_id = {}", wanted.camera_id)
    if wanted.request_id is not None:
        statement.where("request_id = {}", wanted.request_id)
    if wanted.source_type is not None:
        statement.where("source_type = {}", wanted.source_type.value)
    if wanted.quality is not None:  # in the text: of a parameter the planner does not know that the index has it
        statement.where(f"quality ->> 'verdict' = '{wanted.quality.value}'")
    for key, head, value in meta_filters(wanted):
        statement.where(meta_condition(key, "{}", "{}"), head, value)
    if wanted.from_ is not None:
        statement.where("capture_timestamp >= {}", wanted.from_)
    if wanted.to is not None:
        statement.where("capture_timestamp < {}", wanted.to)
    return statement


class HotReads:
    """All raise DatabaseUnavailable."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def request(
        self, request_id: UUID, cameras: CameraGrant, *, newest: int
    ) -> tuple[RequestRow, Sequence[Row], list[Version]] | None:
        """A request, its newest 100 gaps, and its frames: an upload's all by sequence, a capture's `newest`, newest first.

        None for an unknown request, and for one whose camera is not among `cameras`.
        """

        async def work(connection: asyncpg.Connection) -> tuple[RequestRow, Sequence[Row], list[Version]] | None:
            row: RequestRow | None = await connection.fetchrow(_REQUEST, request_id, record_class=RequestRow)
            if row is None or not cameras.covers(row.camera_id):
                return None
            if row.capture_mode is None:
                return row, [], await connection.fetch(_OF_UPLOAD, request_id, row.expected)
            gaps = await connection.fetch(_GAPS, request_id, 100, record_class=Row)
            frames = await connection.fetch(_OF_CAPTURE, request_id, newest) if row.stored else []
            return row, gaps, frames

        return await self._reader.read(work)

    async def request_versions(
        self, request_id: UUID, *, newest_first: bool, limit: int
    ) -> tuple[int, list[Version]] | None:
        """The request's version and those of its `limit` first or newest frames, in one snapshot; None for no request."""
        query = _VERSIONS_OF_CAPTURE if newest_first else _VERSIONS_OF_UPLOAD
        rows = await self._reader.read(lambda connection: connection.fetch(query, request_id, limit))
        if not rows:
            return None
        return rows[0][0], [row[1:] for row in rows if row[1] is not None]

    async def frames_by_ids(self, frame_ids: Sequence[UUID], cameras: CameraGrant) -> list[FrameRow]:
        """Those of these frames that are stored, of `cameras`, in no order."""

        async def work(connection: asyncpg.Connection) -> list[FrameRow]:
            found = await connection.fetch(_BY_IDS, frame_ids, record_class=FrameRow)
            return [row for row in found if cameras.covers(row.camera_id)]

        return await self._reader.read(work)

    async def progress(
        self, request_ids: Sequence[UUID], of_cameras: Sequence[str] | None, cameras: CameraGrant, *, limit: int
    ) -> list[tuple[RequestRow, Sequence[Row]]]:
        """The requests named, and what runs now of some cameras (None: of all), with the newest 100 gaps of each; those
        of `cameras` only. At most `limit` running ones, newest first."""

        async def work(connection: asyncpg.Connection) -> list[tuple[RequestRow, Sequence[Row]]]:
            named = await connection.fetch(_NAMED, request_ids, record_class=RequestRow) if request_ids else []
            asked = [] if of_cameras is None else list(of_cameras)
            running = []
            if of_cameras is None or of_cameras:
                running = await connection.fetch(_RUNNING, of_cameras is None, asked, limit, record_class=RequestRow)
            rows = {row.id: row for row in (*running, *named) if cameras.covers(row.camera_id)}
            gaps: dict[UUID, list[Row]] = {}
            if rows:
                for gap in await connection.fetch(_GAPS_OF, list(rows), 100, record_class=Row):
                    gaps.setdefault(gap.request_id, []).append(gap)
            return [(row, gaps.get(row.id, [])) for row in rows.values()]

        return await self._reader.read(work)

    async def camera(self, camera_id: str) -> RegisteredCamera | None:
        """A registered camera, of no session."""
        row = await self._reader.read(lambda connection: connection.fetchrow(_CAMERA, camera_id))
        return None if row is None else RegisteredCamera(row[0], CameraConfiguration(**dict(list(row.items())[1:])))

    async def count_pending(self, at_most: int) -> int:
        """How many captures wait, counted no further than `at_most`."""
        return int(await self._reader.read(lambda connection: connection.fetchval(_PENDING, at_most)))

    async def count_pending_of(self, owner: str, at_most: int) -> int:
        """The same of one principal's."""
        return int(await self._reader.read(lambda connection: connection.fetchval(_PENDING_OF, at_most, owner)))

    async def any_unheld(self) -> bool:
        """Whether there is a capture that nobody runs: every claim begins with that."""
        return bool(await self._reader.read(lambda connection: connection.fetchval(_UNHELD)))

    async def identity(self) -> DatabaseIdentity:
        """Which database this is: what its bucket's marker names. Asked every few seconds."""
        return DatabaseIdentity(*await self._reader.read(lambda connection: connection.fetchrow(_IDENTITY)))

    async def any_unaligned(self) -> bool:
        """Whether there is a pair that waits for its alignment and that nobody is at."""
        return bool(await self._reader.read(lambda connection: connection.fetchval(_UNALIGNED)))

    async def frames(self, wanted: FrameFilter, cameras: CameraGrant, *, after: Key | None, limit: int) -> list[Place]:
        """At most `limit` stored frames of `cameras` by capture time, beginning after `after`."""

        async def work(connection: asyncpg.Connection) -> list[Place]:
            statement = _matching(wanted, cameras)
            source, conditions = "frames", list(statement.conditions)
            if (wanted.stored_from or wanted.stored_to) and await _few_stored(connection, wanted):
                # OFFSET 0: read by the window's index and sort. Left to itself the planner takes the index by capture
                # time and passes over every older frame: 448 ms instead of 5 for an hour of 500,000 frames.
                source, conditions = f"(SELECT {_PLACE} FROM frames WHERE {statement} OFFSET 0) AS chosen", []
            if after is not None:
                sign = "<" if wanted.descending else ">"
                # `<=` beside the row comparison lets the index skip to the cursor in one step.
                conditions.append(statement.bound(f"capture_timestamp {sign}= {{}}", after[0]))
                conditions.append(statement.bound(f"(capture_timestamp, id) {sign} ({{}}, {{}})", *after))
            order = "DESC" if wanted.descending else "ASC"
            columns, where = _PLACE if source == "frames" else "*", " AND ".join(conditions) or "true"
            query = (
                f"SELECT {columns} FROM {source} WHERE {where} "
                f"ORDER BY capture_timestamp {order}, id {order} LIMIT {statement.bound('{}', limit)}"
            )
            found: list[Place] = await connection.fetch(query, *statement.values)
            return found

        return await self._reader.read(work)


async def _few_stored(connection: asyncpg.Connection, wanted: FrameFilter) -> bool:
    """Whether the window of `stored_at` has at most SORTED_WINDOW stored frames."""
    statement = _Statement()
    _stored_within(statement, wanted)
    query = f"SELECT count(*) FROM (SELECT 1 FROM frames WHERE {statement} LIMIT {SORTED_WINDOW + 1}) AS few"
    return int(await connection.fetchval(query, *statement.values)) <= SORTED_WINDOW
