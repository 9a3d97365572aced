"""Demo cameras: an RTSP server on loopback in a process of its own.

`python -m demo.camera --port 8554` serves live scenes whose burnt-in clock is UTC.
"""

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from demo.show import Faults, Show

_ROOT = Path(__file__).resolve().parents[1]


class CameraError(RuntimeError):
    """The camera's process did not come up."""


class Camera:
    """A camera that can be stopped, killed, frozen and brought back on the same port.

    `films` is one film or show, or several by name; without any it shows the live scene. The other arguments:
    - `join`, what a new client gets first: "key" waits for the next key picture (a live scene makes one at once),
      "now" starts in the middle of a group, "burst" repeats the current group at once;
    - `report_every`, the interval of RTCP sender reports in seconds (0: none);
    - `clock_offset`, seconds by which the camera's own clock is ahead of the truth;
    - `rtp_start`, the RTP timestamp at the start (never 0, which FFmpeg misreads; near 2**32 to see it wrap);
    - `session_timeout`, seconds after which a client that gives no sign of life loses its session.
    """

    def __init__(
        self,
        films: Path | Show | Mapping[str, Path | Show] | None = None,
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
        session_timeout: int = 60,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = port or free_port()
        named = {name: films} if isinstance(films, Path | Show) else dict(films or {})
        shows = {key: Show([shown]) if isinstance(shown, Path) else shown for key, shown in named.items()}
        self.names = list(named) or [name]
        self._arguments = [f"--show={key}={show.to_json()}" for key, show in shows.items()] or [f"--live={name}"]
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
            f"--session-timeout={session_timeout}",
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

    def fault(self, faults: Faults, name: str | None = None) -> None:
        """From now on the stream `name` (the first) has these faults, and no others. They end with the process."""
        if self._process is None or self._process.stdin is None:
            raise CameraError("the camera does not run")
        line = json.dumps({"name": name or self.names[0], "faults": asdict(faults)})
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def start(self, timeout: float = 40.0) -> Self:
        """Start the camera and wait until its port accepts connections."""
        if self._process is not None:
            return self
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        command = [
            sys.executable,
            "-m",
            "demo.camera",
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


def main() -> None:
    """Serve until told to stop."""
    from demo.command import run  # here, so that those who start cameras load no server

    run()


if __name__ == "__main__":
    main()
