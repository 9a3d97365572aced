"""Demo cameras: an RTSP server on loopback in a process of its own.

`python -m utils.demo.camera --port 8554` serves live scenes whose burnt-in clock is UTC.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_ROOT = Path(__file__).resolve().parents[2]


class CameraError(RuntimeError):
    """The camera's process did not come up."""


class Camera:
    """A camera that can be stopped, killed, frozen and brought back on the same port.

    `films` is one film, or films by name; without any it shows the live scene. The other arguments:
    - `join`, what a new client gets first: "key" waits for the next key picture (a live scene makes one at once),
      "now" starts in the middle of a group, "burst" repeats the current group at once;
    - `report_every`, the interval of RTCP sender reports in seconds (0: none);
    - `clock_offset`, seconds by which the camera's own clock is ahead of the truth;
    - `rtp_start`, the RTP timestamp at the start (never 0, which FFmpeg misreads; near 2**32 to see it wrap).
    """

    def __init__(
        self,
        films: Path | Mapping[str, Path] | None = None,
        *,
        name: str = "cam1",
        port: int = 0,
        size: tuple[int, int] = (1280, 720),
        fps: int = 25,
        bitrate: int = 2_000_000,
        join: str = "key",
        report_every: float = 5.0,
        clock_offset: float = 0.0,
        rtp_start: int = 1_000_000,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = port or free_port()
        named = {name: films} if isinstance(films, Path) else dict(films or {})
        self.names = list(named) or [name]
        self._arguments = [f"--film={key}={path.resolve()}" for key, path in named.items()] or [f"--live={name}"]
        self._arguments += [
            f"--size={size[0]}x{size[1]}",
            f"--fps={fps}",
            f"--bitrate={bitrate}",
            f"--join={join}",
        ]
        self._arguments += [
            f"--report-every={report_every}",
            f"--clock-offset={clock_offset}",
            f"--rtp-start={rtp_start}",
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """The first stream's address."""
        return self.url_of(self.names[0])

    @property
    def pid(self) -> int | None:
        """The camera's process, while it runs."""
        return self._process.pid if self._process is not None else None

    def url_of(self, name: str) -> str:
        """The address of the stream `name`."""
        return f"rtsp://{self.host}:{self.port}/{name}"

    def start(self, timeout: float = 15.0) -> Self:
        """Start the camera and wait until its port accepts connections."""
        if self._process is not None:
            return self
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        command = [
            sys.executable,
            "-m",
            "utils.demo.camera",
            f"--host={self.host}",
            f"--port={self.port}",
            "--attached",
        ]
        self._process = subprocess.Popen(
            command + self._arguments,
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        deadline = time.monotonic() + timeout
        while not _accepts(self.host, self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._errors.seek(0)
                message = self._errors.read().decode(errors="replace")[-2000:]
                self.kill()
                raise CameraError(f"no camera on port {self.port}: {message}")
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """End the camera in good order: clients see a BYE and the connection close."""
        if self._process is not None:
            self.thaw()
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self.kill()

    def kill(self) -> None:
        """End the camera at once (SIGKILL)."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def freeze(self) -> None:
        """Stop the process where it is: connections stay open and nothing comes (SIGSTOP)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def free_port() -> int:
    """A free port outside the range of clients' ports, so that it stays free for a restart."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m utils.demo.camera", description="RTSP cameras for the demo.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8554)
    parser.add_argument("--film", action="append", default=[], metavar="NAME=PATH", help="show a film for ever")
    parser.add_argument("--live", action="append", default=[], metavar="NAME", help="show the live scene")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--bitrate", type=int, default=2_000_000)
    parser.add_argument("--join", choices=("key", "now", "burst"), default="key")
    parser.add_argument("--report-every", type=float, default=5.0, help="seconds between RTCP sender reports, 0: none")
    parser.add_argument("--clock-offset", type=float, default=0.0, help="seconds the camera's clock is ahead")
    parser.add_argument("--rtp-start", type=int, default=1_000_000)
    parser.add_argument("--attached", action="store_true", help="end when standard input does")
    return parser.parse_args()


async def _serve(options: argparse.Namespace) -> None:
    from utils.demo.server import open_sources, serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for kind in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(kind, stop.set)
    live = options.live or ([] if options.film else ["cam1", "cam2", "cam3"])
    films = dict(item.split("=", 1) for item in options.film)
    width, height = map(int, options.size.split("x"))
    sources = open_sources(
        {name: Path(path) for name, path in films.items()},
        live,
        (width, height),
        options.fps,
        options.bitrate,
        options.join,
        options.rtp_start,
    )
    async with serve(sources, options.host, options.port, options.report_every, options.clock_offset):
        for name in sources:
            print(f"rtsp://{options.host}:{options.port}/{name}", flush=True)
        await stop.wait()


def _end_with_parent() -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock would stand in the way of a normal exit
        pass
    os._exit(0)


def main() -> None:
    """Serve until told to stop."""
    options = _arguments()
    if options.attached:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
