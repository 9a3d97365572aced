"""What the demo does with a running service, through HTTP only: a camera, three requests, a frame of each, a pair."""

import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from demo.film import make_still

CAMERA_ID = "demo-cam"
FINAL = ("completed", "failed", "cancelled")
CAPTURE_SECONDS = 5
CAPTURE_FPS = 2
Say = Callable[[str], None]


class TourError(Exception):
    """The service did not do what it should have."""


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the demo's table. `frame_id` and what follows are those of the downloaded frame."""

    name: str
    request_id: str
    state: str
    frames: str  # stored, and dropped by reason
    size: str  # of the downloaded frame
    url: str
    frame_id: str
    dimensions: str
    taken_at: str
    file: Path


def take_tour(base: str, camera_url: str, output: Path, say: Say) -> list[Result]:
    """Runs the three requests against the service at `base`; writes the downloaded frames under `output`.

    Raises TourError, or httpx.HTTPError when the service cannot be talked to.
    """
    output.mkdir(exist_ok=True)
    with httpx.Client(base_url=base, timeout=httpx.Timeout(10, read=40), trust_env=False) as client:
        register(client, camera_url)
        say("1. single_frame: one picture, now (Prefer: wait)")
        single = capture(client, {"camera_id": CAMERA_ID, "rtsp_url": camera_url, "capture_mode": "single_frame"}, 30, say)
        say(f"2. continuous: {CAPTURE_SECONDS} s at {CAPTURE_FPS} frames a second")
        continuous = capture(
            client,
            {
                "camera_id": CAMERA_ID, "rtsp_url": camera_url, "capture_mode": "continuous",
                "capture_duration": CAPTURE_SECONDS, "fps": CAPTURE_FPS,
                "meta": {"session": "FP1", "location": "pit straight"},
            },
            0, say,
        )  # fmt: skip
        say("3. upload: two JPEGs, the car before and after the session")
        uploaded = upload(client)
        say("4. pair: what has changed from the first to the second")
        compare(client, uploaded["frames"], output, say)
        return [
            download(client, name, answer, output)
            for name, answer in (("single_frame", single), ("continuous", continuous), ("upload", uploaded))
        ]


def register(client: httpx.Client, camera_url: str) -> None:
    """The demo camera with its stream kept open, so that the console shows it live; of an earlier demo: its address now."""
    wanted = {"rtsp_url": camera_url, "name": "Pit straight (demo)", "location": "pit straight", "keep_open": True}
    answer = client.post("/api/v1/cameras", json={"camera_id": CAMERA_ID, **wanted})
    checked(client.patch(f"/api/v1/cameras/{CAMERA_ID}", json=wanted) if answer.status_code == 409 else answer)


def leave(base: str) -> None:
    """The camera goes with the demo: a later service shall not look for it. Raises httpx.HTTPError."""
    httpx.patch(f"{base}/api/v1/cameras/{CAMERA_ID}", json={"keep_open": False}, timeout=3, trust_env=False)


def capture(client: httpx.Client, body: dict[str, Any], wait: int, say: Say) -> dict[str, Any]:
    """Posts a capture and follows it to its end: in the answer itself with `wait`, else by asking for its status."""
    answer = checked(client.post("/api/v1/ingest/rtsp", json=body, headers={"Prefer": f"wait={wait}"} if wait else {}))
    deadline = time.monotonic() + 40
    shown = -1
    while answer["status"] not in FINAL:
        if time.monotonic() > deadline:
            raise TourError(f"request {answer['request_id']} is still {answer['status']} after 40 s")
        time.sleep(0.25)
        answer = checked(client.get(f"/api/v1/ingest/status/{answer['request_id']}"))
        if (stored := answer["progress"]["stored"]) != shown:
            shown = stored
            say(f"   {answer['status']}, {stored} stored")
    if answer["status"] != "completed":
        error = answer["error"] or {}
        raise TourError(f"{body['capture_mode']} {answer['status']}: {error.get('code')}: {error.get('message')}")
    return answer


def upload(client: httpx.Client) -> dict[str, Any]:
    """Uploads two generated photographs of one car, with EXIF, taken a minute apart."""
    now = datetime.now(UTC)
    files = [
        ("files", ("before.jpg", make_still(7, 1600, 900, now - timedelta(minutes=1)), "image/jpeg")),
        ("files", ("after.jpg", make_still(7, 1600, 900, now, wear=0.8), "image/jpeg")),
    ]
    form = {"camera_id": "demo-handheld", "meta": json.dumps({"session": "FP1", "location": "garage 7"})}
    answer = checked(client.post("/api/v1/ingest/upload", data=form, files=files))
    if len(answer["frames"]) != len(files):
        raise TourError(f"{len(files)} images sent, {len(answer['frames'])} stored: {answer['rejected']}")
    return answer


def compare(client: httpx.Client, frames: list[dict[str, Any]], output: Path, say: Say) -> None:
    """Pairs the car before with the car after, says how much has changed and where, writes difference.jpg."""
    body = {"before": {"frame_id": frames[0]["frame_id"]}, "after": {"frame_id": frames[1]["frame_id"]}, "label": "demo"}
    pair = checked(client.post("/api/v1/pairs", json=body))
    deadline = time.monotonic() + 60
    while pair["alignment"]["status"] == "pending":
        if time.monotonic() > deadline:
            raise TourError(f"the alignment of pair {pair['pair_id']} is still pending after 60 s")
        time.sleep(0.5)
        pair = checked(client.get(f"/api/v1/pairs/{pair['pair_id']}"))
    found = pair["alignment"]
    if found["changed_share"] is None:
        raise TourError(f"the pair could not be aligned: {found['reason']}")
    view = client.get(f"/api/v1/pairs/{pair['pair_id']}/view", params={"kind": "difference", "width": 960})
    if view.status_code != 200:
        raise TourError(f"GET of the pair's difference: {view.status_code} {view.text[:300]}")
    file = output / "difference.jpg"
    Image.open(io.BytesIO(view.content)).convert("RGB").save(file, "JPEG", quality=90)
    say(f"   {found['status']}: {100 * found['changed_share']:.1f} % changed, in {len(found['regions'])} places; {file}")


def download(client: httpx.Client, name: str, answer: dict[str, Any], output: Path) -> Result:
    """Fetches the first listed frame through its presigned URL and compares its bytes with its SHA-256."""
    progress = answer["progress"]
    if progress["expected"] != progress["stored"] + progress["in_flight"] + sum(progress["dropped"].values()):
        raise TourError(f"the ledger of {answer['request_id']} does not add up: {progress}")
    frame = answer["frames"][0]
    response = client.get(frame["storage_url"])
    if response.status_code != 200:
        raise TourError(f"GET of {frame['storage_path']} through its presigned URL: {response.status_code}")
    data = response.content
    if len(data) != frame["size_bytes"] or hashlib.sha256(data).hexdigest() != frame["sha256"]:
        raise TourError(f"the bytes of {frame['storage_path']} are not those that its row describes")
    file = output / f"{name}.{frame['format']}"
    file.write_bytes(data)
    dropped = "".join(f", {count} {reason}" for reason, count in progress["dropped"].items() if count)
    return Result(
        name=name,
        request_id=answer["request_id"],
        state=answer["status"],
        frames=f"{progress['stored']} of {progress['expected']}{dropped}",
        size=f"{len(data) / 1000:.0f} kB",
        url=frame["storage_url"],
        frame_id=frame["frame_id"],
        dimensions=f"{frame['width']}x{frame['height']}",
        taken_at=f"{frame['timestamp']} ({frame['timestamp_source']})",
        file=file,
    )


def checked(response: httpx.Response) -> dict[str, Any]:
    """The JSON of a 2xx answer; raises TourError with the problem's code and detail for any other."""
    if response.is_success:
        answer: dict[str, Any] = response.json()
        return answer
    try:
        problem = response.json()
        text = f"{problem['code']}: {problem['detail']} (trace_id {problem['trace_id']})"
    except (ValueError, KeyError, TypeError):
        text = response.text[:300]
    raise TourError(f"{response.request.method} {response.request.url.path}: {response.status_code} {text}")
