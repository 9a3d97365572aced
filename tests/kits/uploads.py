"""A finished upload for the repositories."""

from __future__ import annotations

from collections.abc import Sequence

from models.entities import IngestionRequest
from models.values import FrameRecord, Rejected
from repositories.uploads import Upload


def upload_of(row: IngestionRequest, frames: Sequence[FrameRecord], rejected: Sequence[int] = ()) -> Upload:
    """`row`: its id, camera and meta; `rejected`: numbers of files."""
    refused = [Rejected(index, "x", "invalid_image", "d", False) for index in rejected]
    return Upload(row.id, row.camera_id, row.meta or {}, frames, refused)
