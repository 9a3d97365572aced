"""The processes of a deployment as the wire shows them."""

from __future__ import annotations

from models.schemas import WorkerInfo
from repositories.heartbeats import Peer


def to_worker(row: Peer) -> WorkerInfo:
    return WorkerInfo(
        worker_id=row.worker_id, role=row.role, site=row.site, host=row.host, version=row.version,
        schema_revision=row.schema_revision, started_at=row.started_at, seen_at=row.seen_at, captures=row.captures,
        streams=row.streams, draining=row.draining,
    )  # fmt: skip
