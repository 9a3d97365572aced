"""The camera's process: its command line, and what it is told while it runs."""

import argparse
import asyncio
import json
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

from demo.server import CameraServer, Presentation, open_live, open_show, serving
from demo.show import Faults, Show


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.camera", description="RTSP cameras for the demo.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8554)
    parser.add_argument("--film", action="append", default=[], metavar="NAME=PATH", help="show a film for ever")
    parser.add_argument("--show", action="append", default=[], metavar="NAME=JSON", help="tracks and faults, as JSON")
    parser.add_argument("--live", action="append", default=[], metavar="NAME", help="show the live scene")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--bitrate", type=int, default=2_000_000)
    parser.add_argument("--join", choices=("key", "now", "burst"), default="key")
    parser.add_argument("--report-every", type=float, default=5.0, help="seconds between RTCP sender reports, 0: none")
    parser.add_argument("--clock-offset", type=float, default=0.0, help="seconds the camera's clock is ahead")
    parser.add_argument("--rtp-start", type=int, default=1_000_000)
    parser.add_argument("--session-timeout", type=int, default=60, help="seconds until a silent client is given up")
    parser.add_argument("--attached", action="store_true", help="take faults from standard input, end when it does")
    return parser.parse_args()


def _shown(options: argparse.Namespace) -> dict[str, Presentation]:
    films = dict(item.split("=", 1) for item in options.film)
    shows = {name: Show([Path(path)]) for name, path in films.items()}
    shows |= {name: Show.from_json(text) for name, text in (item.split("=", 1) for item in options.show)}
    live = options.live or ([] if shows else ["cam1", "cam2", "cam3"])
    width, height = map(int, options.size.split("x"))
    shown = {name: open_show(show, options.join, options.rtp_start) for name, show in shows.items()}
    return shown | open_live(live, (width, height), options.fps, options.bitrate, options.join, options.rtp_start)


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for kind in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(kind, stop.set)
    shown = _shown(options)
    if options.attached:
        threading.Thread(target=_listen, args=(loop, shown), daemon=True).start()
    server = CameraServer(
        shown,
        options.host,
        options.port,
        report_every=options.report_every,
        clock_offset=options.clock_offset,
        session_timeout=options.session_timeout,
    )
    async with serving(server):
        for name in shown:
            print(f"rtsp://{options.host}:{options.port}/{name}", flush=True)
        await stop.wait()


def _listen(loop: asyncio.AbstractEventLoop, shown: Mapping[str, Presentation]) -> None:
    """Takes faults from the parent, a JSON object a line; ends the process when the parent is gone."""
    with os.fdopen(os.dup(0), "rb") as lines:  # not sys.stdin, whose lock would stand in the way of a normal exit
        for line in lines:
            order = json.loads(line)
            loop.call_soon_threadsafe(setattr, shown[order["name"]], "faults", Faults(**order["faults"]))
    os._exit(0)


def run() -> None:
    """Serve until told to stop."""
    asyncio.run(_serve(_arguments()))
