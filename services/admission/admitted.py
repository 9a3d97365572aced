"""A capture without a key as it is stored: by one statement where its camera is known here, or not registered.

Cameras are kept with the versions of their rows, and the statement looks whether a version still is the row's: nobody gets
what a registration was. Nothing is refused by what is kept: then the row is read first.
"""

from __future__ import annotations

from typing import NamedTuple

from models.access import Principal
from models.schemas import RTSPIngestionRequest
from models.values import DEFAULT_SITE, NewCapture
from repositories.database import Database
from repositories.hot_reads import RegisteredCamera, RequestRow
from services.admission.captures import new_capture, with_known_url
from services.idempotency.operation import Operation
from services.reads.kept import Kept
from utils.exceptions import CameraNotFound, IngestionException
from utils.secret_box import SecretBox

SUBMIT = "capture.submit"  # in the audit
_TRIES = 4
_CAMERA_BYTES = 2000  # of a kept camera, about


class Admitted(NamedTuple):
    """A capture as it was committed, and the site whose workers capture it."""

    row: RequestRow
    site: str


class NewCaptures:
    """Of one event loop. `default_fps`: where neither request nor camera says how many."""

    def __init__(self, database: Database, secrets: SecretBox, default_fps: float) -> None:
        self._database, self._secrets, self._default_fps = database, secrets, default_fps
        self._cameras: Kept[str, RegisteredCamera] = Kept("camera", lambda _: _CAMERA_BYTES)

    def row_of(
        self, body: RTSPIngestionRequest, who: Principal, operation: Operation, camera: RegisteredCamera | None,
        max_staleness: float,
    ) -> NewCapture:  # fmt: skip
        """Raises CameraDisabled, InvalidRequest, SecretUnreadable; Forbidden for another URL of a registered camera from a
        caller who may not change cameras."""
        known = None if camera is None else camera.row
        row = new_capture(
            with_known_url(body, known, self._secrets, who), known, self._secrets,
            default_fps=self._default_fps, max_staleness=max_staleness,
        )  # fmt: skip
        row.id, row.owner = operation.request_id, who.row_owner
        return row

    async def camera(self, camera_id: str) -> RegisteredCamera | None:
        """The registration as it is now."""
        found = await self._database.hot.camera(camera_id)
        if found is None:
            self._cameras.drop(camera_id)
        else:
            self._cameras.put(camera_id, found)
        return found

    async def add(
        self, body: RTSPIngestionRequest, who: Principal, operation: Operation, max_staleness: float
    ) -> Admitted:  # fmt: skip
        """Stores it, pending. Raises as `row_of`; CameraNotFound when the camera is changed all the time, or gone;
        DatabaseUnavailable."""
        camera = self._cameras.get(body.camera_id)
        read = camera is None and body.rtsp_url is None  # else a camera that is not known here is taken for none
        self._cameras.count(int(camera is not None), int(read))
        for _ in range(_TRIES):
            if read:
                camera = await self.camera(body.camera_id)
            try:
                row = self.row_of(body, who, operation, camera, max_staleness)
            except IngestionException:
                if read:
                    raise
            else:
                version = None if camera is None else camera.version
                stored = await self._database.admit_capture(row, SUBMIT, camera=version)
                if stored is not None:
                    return Admitted(stored, DEFAULT_SITE if camera is None else camera.row.site)
            read = True
        raise CameraNotFound
