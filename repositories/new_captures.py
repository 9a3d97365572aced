"""A new capture in one statement, on a plain connection: a session and its transaction take six times its CPU time.

What it takes from its camera's registration was read before, perhaps minutes ago: the statement looks whether that still
holds."""

from __future__ import annotations

import json

import asyncpg

from models.access import audit_entry
from models.values import NewCapture
from repositories.hot_reads import REQUEST_COLUMNS, RequestRow
from repositories.reader import Reader

# `held`: a registered camera cannot be deleted before its capture is there to be seen. What was inserted is not seen by the
# same statement's reads, so the last SELECT finds only a request that an earlier run has committed.
_ADMIT = f"""
    WITH held AS (SELECT xmin AS version FROM camera_configurations WHERE camera_id = $2 FOR KEY SHARE),
    made AS (
        INSERT INTO ingestion_requests (id, camera_id, source_type, capture_mode, status, rtsp_url, params, meta, owner)
        SELECT $1, $2, $3, $4, $5, $6, $7::jsonb, $8::jsonb, $9
        WHERE (SELECT version FROM held) IS NOT DISTINCT FROM $10::xid
        ON CONFLICT DO NOTHING RETURNING {REQUEST_COLUMNS}
    ),
    leased AS (
        INSERT INTO capture_leases (request_id, camera_id, principal) SELECT id, camera_id, owner FROM made
        ON CONFLICT DO NOTHING
    ),
    audited AS (
        INSERT INTO audit (entry, subject, kind, address, action, target, status, trace_id, keep_until)
        SELECT (a ->> 'entry')::uuid, a ->> 'subject', a ->> 'kind', a ->> 'address', a ->> 'action', made.id::text,
               (a ->> 'status')::int, a ->> 'trace_id', now() + make_interval(secs => (a ->> 'keep')::float8)
        FROM made, (SELECT $11::jsonb AS a) AS given WHERE a IS NOT NULL ON CONFLICT (entry) DO NOTHING
    )
    SELECT * FROM made UNION ALL SELECT {REQUEST_COLUMNS} FROM ingestion_requests WHERE id = $1
"""


async def admit(reader: Reader, row: NewCapture, audited: str, *, camera: int | None) -> RequestRow | None:
    """Stores a pending capture, its claimable lease and an audit row of that name; the request as stored.

    `camera`: the version of its camera's registration by which the row was made; None: it has none. None, and nothing is
    stored, where that is not so any more. Idempotent (docs/rules.md, rule 4). Raises DatabaseUnavailable, after which the
    outcome is unknown.
    """
    entry = audit_entry(audited, str(row.id))
    values = (
        row.id, row.camera_id, row.source_type, row.capture_mode, row.status, row.rtsp_url, json.dumps(row.params),
        json.dumps(row.meta), row.owner, camera, None if entry is None else json.dumps(entry),
    )  # fmt: skip

    async def work(connection: asyncpg.Connection) -> RequestRow | None:
        found: RequestRow | None = await connection.fetchrow(_ADMIT, *values, record_class=RequestRow)
        return found

    return await reader.write(work)
