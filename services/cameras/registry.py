"""The camera registry: create, read, change and delete cameras, and try them.

Longer than 250 lines: what a camera is, and what is shown of it, stand in one place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from models.access import CameraGrant, Principal
from models.entities import CameraConfiguration as CameraRow
from models.schemas import (
    MAX_META_BYTES,
    CameraConfiguration,
    CameraCreate,
    CameraPage,
    CameraPatch,
    ProbeRequest,
    ProbeResponse,
    StreamStatus,
)
from models.values import DEFAULT_SITE, CameraFilter, Encoding, Transport
from repositories.database import Database, UnitOfWork
from services.access.cursors import Cursors
from services.cameras.places import CameraPlaces
from services.cameras.stream_refs import StreamRefs
from services.execution.calls import CallAnswer
from services.reads.serializers.cameras import to_camera, to_probe, to_stream_status
from services.rtsp_capture.connection.camera_address import AddressPolicy, parse_rtsp_url
from services.rtsp_capture.streams.keep_open import KeepOpenStreams
from services.rtsp_capture.streams.probe import Prober
from utils.exceptions import (
    CameraExists,
    CameraInUse,
    CameraNotFound,
    Forbidden,
    InvalidRequest,
    RateLimited,
)
from utils.logger import get_logger
from utils.secret_box import SecretBox
from utils.urls import is_masked

log = get_logger(__name__)

PROBE_SECONDS = 90.0  # that another process may take for a probe, its turn included

_DEFAULTS: dict[str, Any] = {
    "transport": Transport.TCP,
    "encoding": Encoding.JPEG,
    "enabled": True,
    "keep_open": False,
    "site": DEFAULT_SITE,
    "meta": {},
}
_OF_ADMIN = ("retention_days", "keep_open", "reader", "site")  # they cost what all share, or delete
_ADMINS = f"Only admin sets {', '.join(_OF_ADMIN)} of a camera."
_MERGED = ("calibration", "meta")


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


class CameraRegistry:
    """Raises CameraNotFound, InvalidRequest, SecretUnreadable, DatabaseUnavailable beside what its methods name."""

    def __init__(
        self, database: Database, secrets: SecretBox, policy: AddressPolicy, keeper: KeepOpenStreams, prober: Prober,
        cursors: Cursors, refs: StreamRefs, most_kept: int, places: CameraPlaces, *, min_retention_days: float,
    ) -> None:  # fmt: skip
        """`most_kept`: cameras that one principal may keep open."""
        self._places = places
        self._refs = refs
        self._most_kept = most_kept
        self._database = database
        self._secrets = secrets
        self._policy = policy
        self._keeper = keeper
        self._prober = prober
        self._cursors = cursors
        self._min_retention_days = min_retention_days

    # -- the registry ------------------------------------------------------------------------------------------

    async def create(self, body: CameraCreate, who: Principal) -> CameraConfiguration:
        """Raises CameraExists, AddressNotAllowed, Forbidden for what is an administrator's, RateLimited."""
        url = self._url(body, who)
        self._check_days(body.retention_days)
        theirs = body.keep_open, body.reader, body.retention_days, body.site
        if not who.admin and theirs != (False, None, None, DEFAULT_SITE):
            raise Forbidden(_ADMINS)
        values = body.model_dump(mode="json", exclude={"rtsp_ref"}) | {"rtsp_url": self._secrets.seal(url)}
        values["kept_by"] = who.row_owner if body.keep_open else None

        async def add(uow: UnitOfWork) -> CameraRow:
            if not who.admin and await uow.cameras.left_frames(body.camera_id):
                raise Forbidden("A camera of this id was removed and has frames left: only admin registers it again.")
            row = await uow.cameras.create(values)
            if row.rtsp_url == values["rtsp_url"]:
                await self._check_kept(uow, row)
                await uow.audit.write(body.camera_id, "camera.create")
            return row

        row = await self._database.retry_until_known(add)
        if row.rtsp_url != values["rtsp_url"]:  # no two sealings are alike: this row is another's
            raise CameraExists
        log.info("camera_created", camera_id=row.camera_id, keep_open=row.keep_open)
        self._keeper.poll_now()
        return self._shown(row)

    async def get(self, camera_id: str, cameras: CameraGrant) -> CameraConfiguration:
        if not cameras.covers(camera_id):
            raise CameraNotFound
        row = await self._row(camera_id)
        return (await self._all_shown([row]))[0]

    async def list(self, limit: int, cursor: str | None, who: Principal) -> CameraPage:
        """Cameras in the order of their registration."""
        wanted = CameraFilter()
        after = self._cursors.decode(cursor, wanted, who, str)
        async with self._database.reading() as uow:
            rows = await uow.cameras.find(who.cameras, after=after, limit=limit + 1)
        more = rows[limit - 1] if len(rows) > limit else None
        return CameraPage(
            items=[*await self._all_shown(rows[:limit])],
            next_cursor=self._cursors.encode(more.created_at, more.camera_id, wanted, who) if more else None,
        )

    async def update(self, camera_id: str, patch: CameraPatch, who: Principal) -> CameraConfiguration:
        """RFC 7396. Raises AddressNotAllowed, Forbidden for a change that is an administrator's, RateLimited."""
        sent = {name: getattr(patch, name) for name in patch.model_fields_set}
        if sent.pop("camera_id", camera_id) != camera_id:
            raise InvalidRequest.of("camera_id", "cannot be changed", code="read_only")

        async def change(uow: UnitOfWork) -> CameraRow:
            row = await uow.cameras.locked(camera_id)
            if row is None:
                raise CameraNotFound
            changes = self._changes(row, sent)
            if not who.admin and any(name in changes and changes[name] != getattr(row, name) for name in _OF_ADMIN):
                raise Forbidden(_ADMINS)
            await uow.audit.write(camera_id, "camera.update", {"fields": sorted(changes)})
            began = changes.get("keep_open", False) and not row.keep_open
            if began or changes.get("keep_open") is False:
                changes["kept_by"] = who.row_owner if began else None
            changed = await uow.cameras.change(camera_id, changes)
            if began:
                await self._check_kept(uow, changed)
            return changed

        row = await self._database.retry_until_known(change)
        log.info("camera_changed", camera_id=camera_id, fields=sorted(sent))
        self._keeper.poll_now()
        return self._shown(row)

    async def delete(self, camera_id: str) -> None:
        """The camera goes, its frames and requests stay. Raises CameraInUse."""
        gone = False

        async def remove(uow: UnitOfWork) -> None:
            nonlocal gone
            if await uow.cameras.locked(camera_id) is None:
                if gone:  # by this very call, whose COMMIT was not known to have succeeded
                    return
                raise CameraNotFound
            if await uow.cameras.in_use(camera_id):
                raise CameraInUse
            await uow.cameras.remove(camera_id)
            await uow.audit.write(camera_id, "camera.delete")
            gone = True

        await self._database.retry_until_known(remove)
        log.info("camera_deleted", camera_id=camera_id)
        self._keeper.poll_now()

    async def _check_kept(self, uow: UnitOfWork, row: CameraRow) -> None:
        """Raises RateLimited when the camera is kept open by one who keeps more than its share."""
        if row.kept_by is not None and await uow.cameras.count_kept_by(row.kept_by, self._most_kept + 1) > self._most_kept:
            raise RateLimited(
                "This caller's share (LIMITS__SHARE) of RTSP__MAX_CONCURRENT_STREAMS is kept open already.", retry_after=60
            )

    def _changes(self, row: CameraRow, sent: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that a patch changes."""
        values: dict[str, Any] = {}
        for name, value in sent.items():
            if name == "rtsp_url":
                if value is None:
                    raise InvalidRequest.of("rtsp_url", "cannot be removed", code="missing")
                if value != self._secrets.masked(row.rtsp_url):
                    self._check_url(value)
                    values[name] = self._secrets.seal(value)
            elif name in _MERGED and value is not None:
                values[name] = self._bounded(name, merge_patch(getattr(row, name), value))
            else:
                if name == "retention_days" and value != row.retention_days:
                    self._check_days(value)
                values[name] = _DEFAULTS.get(name) if value is None else value
        return values

    def _bounded(self, name: str, value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value, ensure_ascii=False).encode()) > MAX_META_BYTES:
            raise InvalidRequest.of(name, f"is larger than {MAX_META_BYTES} bytes", code="object_too_large")
        return value

    def _check_days(self, days: float | None) -> None:
        if days is not None and days < self._min_retention_days:
            raise InvalidRequest.of(
                "retention_days", f"must be at least {self._min_retention_days:g}", code="greater_than_equal"
            )

    def _url(self, body: CameraCreate, who: Principal) -> str:
        """The new camera's. Raises InvalidRequest, AddressNotAllowed."""
        url = self._refs.open(body.rtsp_ref, who) if body.rtsp_ref is not None else body.rtsp_url or ""
        self._check_url(url)
        return url

    def _check_url(self, url: str) -> None:
        address = parse_rtsp_url(url)
        if is_masked(url):
            raise InvalidRequest.of("rtsp_url", "has the mask in place of its password", code="masked")
        self._policy.check_literal(address)

    async def _row(self, camera_id: str) -> CameraRow:
        async with self._database.reading() as uow:
            row = await uow.cameras.get(camera_id)
        if row is None:
            raise CameraNotFound
        return row

    async def _all_shown(self, rows: Sequence[CameraRow]) -> Sequence[CameraConfiguration]:
        """With the streams of this process, and those that others have told of."""
        shown = [self._shown(row) for row in rows]
        found = await self._places.streams([camera.camera_id for camera in shown if camera.stream is None])
        return [
            camera if (told := found.get(camera.camera_id)) is None
            else camera.model_copy(update={"stream": StreamStatus.model_validate(told)})
            for camera in shown
        ]  # fmt: skip

    def _shown(self, row: CameraRow) -> CameraConfiguration:
        found = self._keeper.stream_of(row.camera_id)
        return to_camera(row, self._secrets, to_stream_status(*found) if found is not None else None)

    # -- trying ------------------------------------------------------------------------------------------------

    async def probe_url(self, body: ProbeRequest, who: Principal) -> ProbeResponse:
        """Administrators are told more of what is no camera (`Prober`). Raises AddressNotAllowed for an IP literal outside,
        Overloaded."""
        self._policy.check_literal(parse_rtsp_url(body.rtsp_url))
        asked = ["url", body.rtsp_url, (body.transport or Transport.TCP).value, None, not who.admin]
        return await self._probe(asked, body.site)

    async def probe(self, camera_id: str, who: Principal) -> ProbeResponse:
        """Also of a disabled camera. Raises Overloaded."""
        row = await self._row(camera_id)
        asked = [camera_id, self._secrets.open(row.rtsp_url), row.transport, row.reader, not who.admin]
        return await self._probe(asked, row.site)

    async def _probe(self, asked: Sequence[Any], site: str) -> ProbeResponse:
        """By this process, else by one of the camera's site. Raises NoWorker."""
        if self._places.serves(site):
            return await self._probe_here(*asked)
        answer = await self._places.ask("probe", asked, site=site, seconds=PROBE_SECONDS)
        return ProbeResponse.model_validate(answer.body)

    async def _probe_here(self, name: str, url: str, transport: str, reader: str | None, stranger: bool) -> ProbeResponse:
        return to_probe(await self._prober.probe(name, parse_rtsp_url(url), transport, reader, stranger=stranger))

    async def probe_for_another(self, asked: Any) -> CallAnswer:
        """What another process asks by `probe`. An address that this one may not reach is found when it connects."""
        return CallAnswer((await self._probe_here(*asked)).model_dump(mode="json"))
