"""Compares what clients were told with rows, objects and ledger, when everything is quiet again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

import boto3

from tests.faults.workload import Captures, Uploaders, digests
from tests.faults.world import Outcome, World
from tests.kits.service_support import sha256

# Slots without a frame because nobody looked at the camera at that time: no frame existed that could have been lost.
UNSEEN = frozenset({"lease_lost", "camera_down", "no_picture", "cancelled"})


async def audit(
    world: World,
    outcome: Outcome,
    uploads: Uploaders | None,
    captures: Captures | None,
    may_drop: frozenset[str] = frozenset(),
    struck: Sequence[float] = (),
) -> Outcome:
    """Adds to the outcome what was acknowledged, lost and doubled; whatever contradicts itself is a note and a loss.

    `may_drop`: reasons for which captures may give up pictures that they had. `struck`: when those that run captures were
    hurt, seconds since the epoch.
    """
    connection = await world.connect()
    try:
        if uploads is not None:
            await _uploads(world, connection, outcome, uploads)
        if captures is not None:
            await _captures(world, connection, outcome, captures, may_drop, struck)
    finally:
        await connection.close()
    return outcome


async def _uploads(world: World, connection: Any, outcome: Outcome, uploads: Uploaders) -> None:
    rows = await connection.fetch(
        "SELECT id, request_id, sha256, storage_path, size_bytes FROM frames WHERE camera_id = $1 AND state = 'stored'",
        uploads.camera_id,
    )
    by_digest = Counter(row["sha256"] for row in rows)
    by_id = {row["id"]: row for row in rows}
    for upload in uploads.done:
        outcome.doubled += sum(by_digest[digest] > 1 for digest in digests(upload))
    for upload in uploads.acknowledged:
        assert upload.answer is not None
        outcome.acknowledged += len(upload.answer["frames"])
        # Some files of a batch may be refused while the store is away: told so, in `rejected`, they are not lost.
        sent, told = digests(upload), [frame["sha256"] for frame in upload.answer["frames"]]
        refused = [sent[item["index"]] for item in upload.answer["rejected"] if item["retryable"]]
        if sorted(told + refused) != sorted(sent):
            outcome.lost += len(sent)
            outcome.notes.append(f"{upload.key}: the answer names other pictures than were sent")
        for frame in upload.answer["frames"]:
            row = by_id.get(UUID(frame["frame_id"]))
            if row is None or row["sha256"] != frame["sha256"]:
                outcome.lost += 1
                outcome.notes.append(f"{frame['frame_id']} was acknowledged and has no row")
    outcome.lost += await _unreadable(world, rows, outcome)
    await _requests(connection, outcome, [row["request_id"] for row in rows])
    outcome.notes += uploads.problems
    outcome.lost += len(uploads.problems)
    outcome.longest_gap = max(outcome.longest_gap, uploads.longest_gap())


async def _captures(
    world: World, connection: Any, outcome: Outcome, captures: Captures, may_drop: frozenset[str], struck: Sequence[float]
) -> None:  # fmt: skip
    latest: dict[float, float] = {}  # by fault: how long the last capture waited for its next picture
    for watched in captures.all:
        request_id = UUID(watched.request_id)
        rows = await connection.fetch(
            "SELECT id, sequence, sha256, storage_path, size_bytes, capture_timestamp FROM frames"
            " WHERE request_id = $1 AND state = 'stored' ORDER BY sequence",
            request_id,
        )
        ids = {str(row["id"]) for row in rows}
        outcome.acknowledged += len(watched.seen)
        missing = [frame for frame in watched.seen if frame not in ids]
        outcome.lost += len(missing)
        outcome.notes += [f"{frame} was shown and is gone" for frame in missing]
        outcome.doubled += len(rows) - len({row["sequence"] for row in rows})
        outcome.doubled += len(rows) - len({row["sha256"] for row in rows})
        times = [row["capture_timestamp"] for row in rows]
        if times != sorted(times):
            outcome.notes.append(f"{request_id}: times go back")
            outcome.lost += 1
        for a, b in pairwise(times):
            outcome.longest_gap = max(outcome.longest_gap, (b - a).total_seconds())
        for moment, following in pairwise(
            [*struck, float("inf")]
        ):  # one whose owner is hurt twice counts from the second time
            at = min((at.timestamp() for at in times if at.timestamp() > moment), default=moment)
            if at < following:
                latest[moment] = max(latest.get(moment, 0.0), at - moment)
        outcome.lost += await _unreadable(world, rows, outcome)
        await _requests(connection, outcome, [request_id])
        dropped = {
            reason: count for reason, count in watched.last.get("progress", {}).get("dropped", {}).items()
            if reason not in UNSEEN
        }  # fmt: skip
        if dropped:  # pictures that were there, and given up
            outcome.lost += sum(count for reason, count in dropped.items() if reason not in may_drop)
            outcome.notes.append(f"{request_id}: dropped {dropped}")
        outcome.notes += watched.problems
        outcome.lost += len(watched.problems)
    outcome.pictures += latest.values()


async def _requests(connection: Any, outcome: Outcome, request_ids: list[UUID]) -> None:
    """The ledger in the rows: the sum of it, its frames, and nothing in flight in a final state."""
    rows = await connection.fetch(
        "SELECT r.id, r.status, r.stored, r.in_flight, count(f.id) AS frames FROM ingestion_requests r"
        " LEFT JOIN frames f ON f.request_id = r.id WHERE r.id = ANY($1) GROUP BY r.id",
        request_ids,
    )
    for row in rows:
        if row["stored"] != row["frames"]:
            outcome.lost += 1
            outcome.notes.append(f"{row['id']}: stored {row['stored']}, rows {row['frames']}")
        if row["status"] in ("completed", "failed", "cancelled") and row["in_flight"]:
            outcome.lost += 1
            outcome.notes.append(f"{row['id']}: final with {row['in_flight']} in flight")


async def _unreadable(world: World, rows: list[Any], outcome: Outcome) -> int:
    """How many rows have no object with their bytes: invariant 1."""
    store = world.parts.object_store
    assert store is not None

    def read() -> list[str]:
        client = boto3.client(
            "s3", endpoint_url=store.endpoint, aws_access_key_id=store.access_key, aws_secret_access_key=store.secret_key,
            region_name="us-east-1",
        )  # fmt: skip
        bad = []
        for row in rows:
            try:
                data = client.get_object(Bucket=store.bucket, Key=row["storage_path"])["Body"].read()
            except client.exceptions.NoSuchKey:
                data = b""
            if sha256(data) != row["sha256"] or len(data) != row["size_bytes"]:
                bad.append(row["storage_path"])
        client.close()
        return bad

    bad = await asyncio.to_thread(read)
    outcome.notes += [f"no such object: {key}" for key in bad]
    return len(bad)
