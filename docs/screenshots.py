"""`make screenshots`: a service, cameras, captures and a pair of its own, and a picture of each view for docs/console.md.

Everything is in a temporary folder and gone afterwards. Writes docs/screenshots/*.jpg. Needs Chromium (`make browser`).

python -m docs.screenshots [--only NAME ...] [--to FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Page, async_playwright

from config import get_settings
from demo.camera import Camera, free_port
from demo.film import make_still
from demo.run import Service

FOLDER = Path(__file__).resolve().parent / "screenshots"
SECRET = secrets.token_urlsafe(32)
RUNNING = 25.0  # seconds that the captures have run when the first picture is taken
LOADED = "[...document.querySelectorAll('main img')].every(img => img.complete && img.naturalWidth)"
SETTLED = 2.5  # seconds from a view's heading to its picture
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@dataclass(frozen=True, slots=True)
class View:
    """`path` may name what `prepare` has made. `dark`, `phone`: how it is looked at."""

    name: str
    path: str
    dark: bool = False
    phone: bool = False


VIEWS = [
    View("login", ""), View("cameras", "cameras"), View("cameras-dark", "cameras", dark=True),
    View("cameras-phone", "cameras", phone=True), View("camera", "cameras/straight-2"), View("camera-new", "cameras/new"),
    View("captures", "captures"), View("capture", "captures/{capture}"),
    View("capture-dark", "captures/{events}", dark=True),
    View("capture-new", "captures/new?camera_id=straight-2"), View("frames", "frames"), View("frame", "frames/{frame}"),
    View("pairs", "pairs"), View("pair", "pairs/{pair}"), View("pair-phone", "pairs/{pair}", phone=True),
    View("upload", "upload"), View("events", "events"), View("keys", "keys"), View("audit", "audit"),
    View("workers", "workers"), View("health", "health"),
]  # fmt: skip


def prepare(client: httpx.Client, cameras: list[Camera]) -> dict[str, str]:
    """What the views show; ids by the names that paths use. Raises httpx.HTTPError."""

    def post(path: str, body: Any = None, **more: Any) -> Any:
        return client.post(f"/api/v1{path}", json=body, **more).raise_for_status().json()

    urls = [camera.url for camera in cameras]
    pit, straight, garage = urls
    wall = [
        ("pit-lane-1", "Pit lane, entry", pit, True), ("straight-2", "Main straight", straight, False),
        ("garage-7", "Garage 7", garage, False), ("turn-4", "Turn 4, tower", "rtsp://127.0.0.1:9/stream", True),
    ]  # fmt: skip
    for camera_id, name, url, keep in wall:
        post(
            "/cameras", {"camera_id": camera_id, "name": name, "rtsp_url": url, "location": name.lower(), "keep_open": keep}
        )
    meta = {"session": "FP1"}
    running = post("/ingest/rtsp", {"camera_id": "straight-2", "capture_mode": "continuous", "fps": 4, "meta": meta})
    events = {"camera_id": "garage-7", "capture_mode": "event_driven", "fps": 4, "meta": meta}
    triggered = post("/ingest/rtsp", {**events, "motion": {"enabled": False}})
    post(
        "/ingest/rtsp",
        {"camera_id": "pit-lane-1", "capture_mode": "continuous", "fps": 2, "capture_duration": 6, "meta": meta},
    )
    time.sleep(RUNNING / 3)
    cameras[1].stop()  # a gap to look at
    time.sleep(3)
    cameras[1].start()
    post(f"/ingest/requests/{triggered['request_id']}/trigger", {"label": "car 27 enters"})
    now = datetime.now(UTC)
    pair_of = [make_still(7, 1600, 900, now - timedelta(minutes=1)), make_still(7, 1600, 900, now, wear=0.8)]
    files = [("files", (name, data, "image/jpeg")) for name, data in zip(("before.jpg", "after.jpg"), pair_of, strict=True)]
    sent = client.post("/api/v1/ingest/upload", data={"camera_id": "handheld", "meta": '{"session": "FP1"}'}, files=files)
    before, after = (frame["frame_id"] for frame in sent.raise_for_status().json()["frames"])
    pair = post(
        "/pairs", {"before": {"frame_id": before}, "after": {"frame_id": after}, "label": "stint 1", "subject": "car-27"}
    )
    post("/api-keys", {"name": "wall in garage 7", "scopes": ["cameras:read", "frames:read"], "cameras": ["garage-*"]})
    time.sleep(RUNNING * 2 / 3)
    return {
        "capture": running["request_id"], "events": triggered["request_id"], "frame": after, "pair": pair["pair_id"],
    }  # fmt: skip


async def _take(page: Page, base: str, view: View, ids: dict[str, str], folder: Path) -> None:
    await page.set_viewport_size(PHONE if view.phone else WIDE)  # type: ignore[arg-type]
    await page.emulate_media(color_scheme="dark" if view.dark else "light", reduced_motion="reduce")
    await page.goto(f"{base}/console/{view.path.format(**ids)}")
    await page.wait_for_selector("main h1", timeout=20_000)
    await asyncio.sleep(SETTLED)
    for _ in range(16):  # at most 8 s: a page that goes on may have new ones all the time
        if await page.evaluate(LOADED):
            break
        await asyncio.sleep(0.5)
    await page.screenshot(path=folder / f"{view.name}.jpg", type="jpeg", quality=80)
    print(f"  {view.name}.jpg", flush=True)


async def take_all(base: str, ids: dict[str, str], views: list[View], folder: Path) -> list[str]:
    """Writes the pictures; what the browser's console called an error."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    errors: list[str] = []
    async with async_playwright() as playwright:
        options = ["--disable-dev-shm-usage"]
        browser = await playwright.chromium.launch(executable_path=program, chromium_sandbox=os.geteuid() != 0, args=options)
        page = await browser.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        for view in [view for view in views if not view.path]:
            await _take(page, base, view, ids, folder)
        await page.goto(f"{base}/")
        await page.fill("input[type=password]", SECRET)
        await page.click("main button[type=submit]")
        await page.wait_for_selector("nav a")
        for view in [view for view in views if view.path]:
            await _take(page, base, view, ids, folder)
        await browser.close()
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots", description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of pictures")
    parser.add_argument("--to", type=Path, default=FOLDER, help="the folder to write to")
    options = parser.parse_args()
    views = [view for view in VIEWS if not options.only or view.name in options.only]
    options.to.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trackshift-screenshots-")))
        os.environ |= {
            "ENVIRONMENT": "development", "DATA_DIR": str(folder / "data"), "AUTH__MODE": "keys",
            "AUTH__BOOTSTRAP_KEY": SECRET,
        }  # fmt: skip
        service = Service(get_settings().API.model_copy(update={"PORT": free_port()}), folder / "service.log")
        stack.callback(service.stop)
        service.start()
        cameras = [stack.enter_context(Camera(name=name, size=(960, 540), fps=12)) for name in ("pit", "straight", "garage")]
        headers = {"Authorization": f"Bearer {SECRET}"}
        with httpx.Client(base_url=service.url, timeout=40, trust_env=False, headers=headers) as client:
            ids = prepare(client, cameras)
        errors = asyncio.run(take_all(service.url, ids, views, options.to))
    print("\n".join(["The browser's console said:", *errors]) if errors else f"{len(views)} pictures in {options.to}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
