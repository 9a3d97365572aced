"""Answers as they are kept for an Idempotency-Key, and as they are given again.

Frames are kept as their ids and rendered from their rows: so a kept answer holds no presigned URL, and nothing of a frame
that was deleted since. They stand in known places of an answer (_each_frame); whatever else is in it, such as a client's own
`meta`, is given again as it was and never taken for a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from utils.exceptions import FrameNotFound
from utils.urls import mask_url

Rendered = Mapping[UUID, dict[str, Any]]
_OF_PAIR = frozenset({"pair_id", "before", "after"})
_OF_FRAME = frozenset({"frame_id", "storage_path", "storage_url"})


def packed(body: Any) -> Any:
    """An answer as it is kept: frames as ids, an upload session's URLs null. `body` itself stays as it is."""
    if isinstance(body, dict) and "upload_url" in body:  # an upload session: its Location has fresh URLs
        parts = body["parts"]
        body = body | {"upload_url": None, "urls_expire_at": None}
        body["parts"] = [part | {"url": None} for part in parts] if parts is not None else None
    return _each_frame(body, lambda frame: str(_id_of(frame)))


def frame_ids(kept: Any) -> list[UUID]:
    """The frames that a kept answer shows."""
    found: list[UUID] = []
    _each_frame(kept, lambda frame: found.append(_id_of(frame)))
    return found


def unpacked(kept: Any, frames: Rendered) -> Any:
    """A kept answer with its frames, as `frames` has them by id. One whose row is gone is left out.

    A source's URL is masked once more: the answer may have been kept by a version that showed more of it. Raises
    FrameNotFound when the answer was that frame.
    """
    body = _each_frame(kept, lambda frame: frames.get(_id_of(frame)))
    if body is None:
        raise FrameNotFound
    if isinstance(body, dict):
        if isinstance(body.get("frames"), list):
            body["frames"] = [frame for frame in body["frames"] if frame is not None]
        if isinstance(source := body.get("source"), dict) and isinstance(source.get("url"), str):
            body["source"] = source | {"url": mask_url(source["url"])}
    return body


def _each_frame(body: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of `body` in which `change` has replaced each frame: the body itself, those in `frames`, `results`, pairs."""
    if isinstance(body, str) or _is_frame(body):  # a snapshot's answer
        return change(body)
    if not isinstance(body, dict):
        return body
    copy = dict(body)
    if body.keys() >= _OF_PAIR:
        copy |= {side: change(body[side]) for side in ("before", "after")}
    if isinstance(items := body.get("items"), list):  # of a match
        copy["items"] = [_each_frame(item, change) if isinstance(item, dict) else item for item in items]
    if isinstance(frames := body.get("frames"), list):
        copy["frames"] = [change(frame) for frame in frames]
    if isinstance(results := body.get("results"), list):  # a burst's
        copy["results"] = [
            result | {"frame": change(result["frame"])} if result.get("frame") is not None else result for result in results
        ]
    return copy


def _is_frame(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= _OF_FRAME


def _id_of(frame: Any) -> UUID:
    """Of a kept frame; versions before this one kept it whole."""
    return UUID(frame if isinstance(frame, str) else frame["frame_id"])
