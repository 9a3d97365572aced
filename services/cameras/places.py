"""Which process asks a camera: the one that has its stream, else one that captures at its site.

The process that a client asked checks what the client may do; what only the process with the stream can do, it asks of that
one (services.execution.calls). On the event loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from models.access import CameraGrant, Principal, Scope
from models.entities import CameraConfiguration
from services.execution.calls import CallAnswer, Calls
from services.execution.membership import Membership
from services.rtsp_capture.streams.stream import StreamKey
from services.rtsp_capture.streams.stream_hub import StreamHub


class CameraPlaces:
    """One a process. Raises DatabaseUnavailable."""

    def __init__(self, membership: Membership, calls: Calls, hub: StreamHub) -> None:
        self._membership, self._calls, self._hub = membership, calls, hub

    def serves(self, site: str) -> bool:
        """Whether this process asks cameras of the site itself."""
        return self._membership.serves(site)

    @property
    def alone(self) -> bool:
        return self._membership.alone

    async def elsewhere(self, cameras: Sequence[CameraConfiguration]) -> set[str]:
        """Those of the cameras that another process is to be asked about: it has the stream, or this one is no place."""
        here = {key.camera_id for key in self._hub.keys()}  # noqa: SIM118 - no mapping
        open_ = [camera for camera in cameras if camera.camera_id not in here]
        found = {camera.camera_id for camera in open_ if not self.serves(camera.site)}
        asked = [camera.camera_id for camera in open_ if camera.camera_id not in found]
        if self._membership.peers > 1 and asked:
            found |= (await self._calls.streams(asked)).keys()
        return found

    async def ask(
        self, kind: str, request: Any, *, site: str = "", camera_id: str = "", to: UUID | None = None, seconds: float
    ) -> CallAnswer:
        """Raises NoWorker, AnsweredElsewhere."""
        return await self._calls.call(kind, request, site=site, camera_id=camera_id, to=to, seconds=seconds)

    async def groups(self, cameras: Sequence[CameraConfiguration]) -> list[list[CameraConfiguration]]:
        """The cameras by the process that is to be asked: together are those of one stream holder, or of one site."""
        holders = await self._calls.holders([camera.camera_id for camera in cameras])
        found: dict[object, list[CameraConfiguration]] = defaultdict(list)
        for camera in cameras:
            found[holders.get(camera.camera_id, camera.site)].append(camera)
        return list(found.values())

    async def streams(self, camera_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The status of these cameras' streams in other processes."""
        return await self._calls.streams(camera_ids)


def key_json(key: StreamKey) -> list[str | None]:
    """A stream's key as a call carries it, encrypted with the rest."""
    return [key.camera_id, key.url, key.transport, key.reader]


def packed(who: Principal) -> dict[str, Any]:
    """Of a principal, what another process needs that answers for it."""
    scopes = [scope.value for scope in who.scopes]
    return {"subject": who.subject, "kind": who.kind, "owner": who.owner, "scopes": scopes, "cameras": who.cameras.patterns}


def principal_of(packed: dict[str, Any]) -> Principal:
    return Principal(
        packed["subject"], packed["kind"], packed["owner"], frozenset(Scope(scope) for scope in packed["scopes"]),
        CameraGrant.of(packed["cameras"]),
    )  # fmt: skip
