"""`make demo`: the service and a camera as processes, then its main job through HTTP, as a user would do it.

Leaves the service running until Ctrl-C; `--once` stops everything and exits with 0 or 1.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from config import ApiSettings, get_settings
from demo.camera import Camera, CameraError, free_port
from demo.tour import CAMERA_ID, Result, TourError, leave, take_tour

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "demo-output"
READY_TIMEOUT = 90.0  # seconds; the first start makes a PostgreSQL cluster, an S3 store and a bucket
CAMERA_PORT = 8554
STOPPED_BY_SIGNAL = (0, -signal.SIGTERM, 128 + signal.SIGTERM)


class DemoError(Exception):
    """The demo cannot go on; the text is for the person in front of it."""


def say(text: str = "") -> None:
    print(text, flush=True)


@dataclass
class Service:
    """`python main.py` as a child process in a session of its own: Ctrl-C reaches it through us, in order."""

    api: ApiSettings
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.api.HOST, self.api.HOST)
        return f"http://{host}:{self.api.PORT}"

    def start(self) -> None:
        """Starts it and waits until /health/ready says so."""
        if self.api.PORT == 0:
            self.api.PORT = free_port()
        if taken(self.api.HOST, self.api.PORT):
            raise DemoError(
                f"port {self.api.PORT} on {self.api.HOST} is taken, perhaps by another service or demo.\n"
                f"Stop that one, or take another port: API__PORT={self.api.PORT + 1} make demo"
            )
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "main.py"],
                cwd=ROOT,
                env={**os.environ, "API__PORT": str(self.api.PORT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        began = shown = time.monotonic()
        while not self._ready():
            now = time.monotonic()
            if now - began > READY_TIMEOUT:
                raise DemoError(f"the service is not ready after {READY_TIMEOUT:.0f} s")
            if now - shown > 2:
                shown = now
                say(f"  ... {now - began:.0f} s (a first start makes the database and the object store)")
            time.sleep(0.1)
        say(f"  ready after {time.monotonic() - began:.1f} s: {self.url}")

    def _ready(self) -> bool:
        self.check()
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health/ready", timeout=2, trust_env=False).status_code == 200
        return False

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def check(self) -> None:
        """Raises DemoError when the process has ended."""
        code = self.process.poll() if self.process else None
        if code is not None:
            raise DemoError(f"the service ended with exit code {code}")

    def tail(self, lines: int = 15) -> str:
        if self.process is None or not self.log.is_file():
            return ""
        text = self.log.read_text("utf-8", "replace").splitlines()[-lines:]
        return "\n".join(["", f"The last lines of {self.log.relative_to(ROOT)}:", *(f"  {line[:400]}" for line in text)])

    def stop(self) -> None:
        """SIGTERM, then SIGKILL when it takes longer than its own limit allows."""
        if self.process is None or not self.running:
            return
        self.process.terminate()
        try:
            code = self.process.wait(self.api.SHUTDOWN_TIMEOUT + 15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise DemoError("the service did not stop in time and was killed") from None
        if code not in STOPPED_BY_SIGNAL:
            raise DemoError(f"the service stopped with exit code {code}")


def taken(host: str, port: int) -> bool:
    """Whether something listens there."""
    with contextlib.suppress(OSError), socket.create_connection((host or "127.0.0.1", port), 1):
        return True
    return False


def on_signals(handler: Any) -> None:
    """SIGTERM and a closed terminal act as Ctrl-C does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def print_table(results: list[Result]) -> None:
    rows = [("request", "state", "frames", "size", "URL of one frame")]
    rows += [(item.name, item.state, item.frames, item.size, item.url) for item in results]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    say()
    for row in rows:
        say("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))
    say()
    for item in results:
        say(f"  {item.file.relative_to(ROOT)}  {item.dimensions}, taken {item.taken_at}, SHA-256 as stored")


def print_next_steps(base: str, camera_url: str, results: list[Result]) -> None:
    body = f'{{"camera_id": "{CAMERA_ID}", "rtsp_url": "{camera_url}"}}'
    say(
        f"""
The camera is at {camera_url}, the API at {base} ({base}/docs). By hand:

  curl -s -X POST {base}/api/v1/ingest/rtsp -H 'Content-Type: application/json' -H 'Prefer: wait=20' -d '{body}'
  curl -s -X POST {base}/api/v1/ingest/upload -F camera_id=paddock -F files=@{results[0].file.relative_to(ROOT)}
  curl -s {base}/api/v1/ingest/status/{results[1].request_id}
  curl -s '{base}/api/v1/ingest/requests?camera_id={CAMERA_ID}'
  curl -s '{base}/api/v1/frames?camera_id={CAMERA_ID}&limit=5'
  curl -sL {base}/api/v1/frames/{results[0].frame_id}/content -o demo-output/frame.jpg
  curl -s {base}/health
  curl -s {base}/metrics

Its log: demo-output/service.log. Ctrl-C ends the service and the camera; what is stored stays.

To look at it all, open this page:  {base}/
"""
    )


def start_camera() -> Camera:
    port = CAMERA_PORT
    if taken("127.0.0.1", port):
        port = free_port()
        say(f"  port {CAMERA_PORT} is taken; the camera gets {port}")
    return Camera(name="demo", port=port).start()


def demo(service: Service, once: bool) -> None:
    """The whole of it; stops what it started, whatever happens. Raises KeyboardInterrupt when interrupted."""
    camera: Camera | None = None
    try:
        say("Starting the service ...")
        service.start()
        say("Starting the demo camera ...")
        camera = start_camera()
        say(f"  {camera.url}")
        results = take_tour(service.url, camera.url, OUTPUT, say)
        print_table(results)
        if once:
            return
        print_next_steps(service.url, camera.url, results)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                service.check()
                time.sleep(0.5)
    finally:
        on_signals(signal.SIG_IGN)  # a second Ctrl-C must not leave half of it running; each stop is bounded
        if service.running:
            say("Stopping ...")
            with contextlib.suppress(httpx.HTTPError):
                leave(service.url)
        try:
            service.stop()
        finally:
            if camera is not None:
                camera.stop()


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.run", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop afterwards, with exit code 0 or 1")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        api = get_settings().API
    except ValidationError as error:
        print(f"The settings are not valid:\n{error}", file=sys.stderr)
        return 1
    service = Service(api.model_copy(), OUTPUT / "service.log")
    try:
        on_signals(signal.default_int_handler)
        demo(service, options.once)
    except (DemoError, TourError, CameraError, httpx.HTTPError) as error:
        print(f"\nThe demo failed: {error}{service.tail()}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        say("Stopped.")
        return 130
    say(f"Done in {time.monotonic() - began:.0f} s." if options.once else "Stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
