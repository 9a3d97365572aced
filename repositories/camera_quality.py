"""What cameras' pictures are judged by, and which cameras are bad."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from models.entities import CameraQuality
from models.values import SourceType
from repositories.base import Repository
from repositories.sql import sql

_SAVE = sql("""
    INSERT INTO camera_quality AS q (camera_id, source_type, baseline, scene)
    VALUES (:camera_id, :source_type, CAST(:baseline AS jsonb), :scene)
    ON CONFLICT (camera_id, source_type) DO UPDATE SET
        baseline = excluded.baseline, scene = excluded.scene, updated_at = now()
    RETURNING verdict
""")
_CHANGE = sql("""
    UPDATE camera_quality SET verdict = :verdict, reasons = CAST(:reasons AS jsonb), streak = :streak, since = :since
    WHERE camera_id = :camera_id AND source_type = 'rtsp' AND verdict <> :verdict RETURNING 1
""")
_FORGET = sql("""
    DELETE FROM camera_quality WHERE (camera_id, source_type) IN (
        SELECT camera_id, source_type FROM camera_quality
        WHERE updated_at < now() - make_interval(days => :days) ORDER BY updated_at LIMIT 1000)
""")


class CameraQualityRepository(Repository[CameraQuality]):
    entity = CameraQuality

    async def of(self, camera_id: str, source_type: SourceType) -> CameraQuality | None:
        return await self.get((camera_id, source_type.value))

    async def save(self, camera_id: str, source_type: SourceType, baseline: dict[str, Any], scene: bytes | None) -> str:
        """Keeps a baseline, over whatever another process has kept. Returns the camera's verdict as the row has it."""
        values = {"camera_id": camera_id, "source_type": source_type.value, "baseline": json.dumps(baseline), "scene": scene}
        return str(await self.session.scalar(_SAVE, values))

    async def change(
        self, camera_id: str, verdict: str, reasons: Sequence[str], *, streak: int, since: datetime
    ) -> bool:  # fmt: skip
        """Sets the verdict of the camera's captures, which leads to an event. False: another process has done so."""
        told = json.dumps(list(reasons))
        values = {"camera_id": camera_id, "verdict": verdict, "reasons": told, "streak": streak, "since": since}
        return await self.session.scalar(_CHANGE, values) is not None

    async def forget(self, days: int) -> None:
        """Deletes baselines that nobody has written for so long, at most 1,000."""
        await self.session.execute(_FORGET, {"days": days})
