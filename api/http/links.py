"""OpenAPI `links`: from the answers that hold an id to the operations that take it."""

from __future__ import annotations

from typing import Any, NamedTuple


class IdSource(NamedTuple):
    """Where an id stands: an operation's answer and a JSON pointer into its body."""

    operation: str
    status: str
    pointer: str


class Target(NamedTuple):
    """What takes the id: an operation and its parameter, as `path.name` or `query.name`."""

    operation: str
    parameter: str


# By kind of id: every answer that surely holds one (a list may be empty), every operation that takes one.
LINKS: dict[str, tuple[list[IdSource], list[Target]]] = {
    "request": (
        [
            IdSource("submit_capture", "202", "/request_id"), IdSource("submit_capture", "200", "/request_id"),
            IdSource("upload_images", "201", "/request_id"), IdSource("complete_upload_session", "201", "/request_id"),
            IdSource("take_burst", "201", "/results/0/request_id"), IdSource("take_snapshot", "201", "/request_id"),
        ],
        [
            Target("get_request", "path.request_id"), Target("cancel_request", "path.request_id"),
            Target("trigger_event", "path.request_id"), Target("list_events", "path.request_id"),
            Target("list_frames", "query.request_id"),
        ],
    ),
    "frame": (
        [
            IdSource("upload_images", "201", "/frames/0/frame_id"), IdSource("take_snapshot", "201", "/frame_id"),
            IdSource("complete_upload_session", "201", "/frames/0/frame_id"),
            IdSource("nearest_frame", "200", "/frame_id"),
        ],
        [
            Target("get_frame", "path.frame_id"), Target("get_frame_content", "path.frame_id"),
            Target("get_thumbnail", "path.frame_id"), Target("verify_frame", "path.frame_id"),
            Target("hold_frame", "path.frame_id"), Target("release_frame", "path.frame_id"),
            Target("delete_frame", "path.frame_id"),
        ],
    ),
    "pair": (
        [IdSource("create_pair", "201", "/pair_id")],
        [Target("get_pair", "path.pair_id"), Target("view_pair", "path.pair_id"), Target("delete_pair", "path.pair_id")],
    ),
    "camera": (
        [IdSource("create_camera", "201", "/camera_id")],
        [
            Target("get_camera", "path.camera_id"), Target("update_camera", "path.camera_id"),
            Target("probe_camera", "path.camera_id"), Target("take_snapshot", "path.camera_id"),
            Target("delete_camera", "path.camera_id"), Target("latest_picture", "path.camera_id"),
            Target("list_gaps", "path.camera_id"), Target("camera_losses", "path.camera_id"),
        ],
    ),
    "frames of the camera": (
        [IdSource("upload_images", "201", "/camera_id"), IdSource("take_snapshot", "201", "/camera_id")],
        [
            Target("list_frames", "query.camera_id"), Target("nearest_frame", "query.camera_id"),
            Target("frames_histogram", "query.camera_id"),
        ],
    ),
    "session": (
        [IdSource("open_upload_session", "201", "/session_id")],
        [
            Target("get_upload_session", "path.session_id"), Target("complete_upload_session", "path.session_id"),
            Target("abort_upload_session", "path.session_id"),
        ],
    ),
    "key": (
        [IdSource("create_api_key", "201", "/key_id"), IdSource("rotate_api_key", "201", "/key_id")],
        [
            Target("get_api_key", "path.key_id"), Target("rotate_api_key", "path.key_id"),
            Target("revoke_api_key", "path.key_id"),
        ],
    ),
    "group": (
        [IdSource("take_burst", "201", "/group_id")],
        [Target("get_burst", "path.group_id"), Target("list_requests", "query.group_id")],
    ),
    "worker": ([IdSource("list_workers", "200", "/items/0/worker_id")], [Target("drain_worker", "path.worker_id")]),
    "cursor": ([IdSource("read_events", "200", "/next_cursor")], [Target("read_events", "query.after")]),
}  # fmt: skip


def add_links(schema: dict[str, Any]) -> None:
    """Puts LINKS into an OpenAPI document. Raises KeyError for an operation or a status that it does not have."""
    operations = {operation["operationId"]: operation for item in schema["paths"].values() for operation in item.values()}
    for sources, targets in LINKS.values():
        for source in sources:
            links = operations[source.operation]["responses"][source.status].setdefault("links", {})
            for target in targets:
                links[target.operation] = {
                    "operationId": operations[target.operation]["operationId"],
                    "parameters": {target.parameter: f"$response.body#{source.pointer}"},
                }
