"""deploy/alerts.yml on the metrics of a real service while cameras, PostgreSQL, the store and the service itself fail.

Time is scaled: the service is scraped every 15 s / SCALE, and the rules see those scrapes 15 s apart; ages, which are
seconds themselves, are multiplied. `ALERTS_SCALE=1 pytest -s` on this file takes 20 minutes and prints the true
seconds of docs/runbook.md. Only /metrics is asked meanwhile. Where promtool is installed it judges the same scrapes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from config import DbSettings, StorageSettings
from demo.camera import Camera
from demo.film import make_film
from tests.conftest import ROOT, Backends, Service, unique
from tests.kits.service_support import capture, service_on, status, until
from tests.promql import Recording, firing
from utils.embedded.supervisor import EmbeddedParts

SCALE = float(os.environ.get("ALERTS_SCALE", "30"))
EVERY = 15.0  # seconds between scrapes and evaluations, as in deploy/prometheus.yml
AGES = re.compile(r"^(ingestion_stream_down_seconds\S*|ingestion_spool_oldest_seconds) (\S+)$", re.MULTILINE)
RULES: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())
TARGET = {"job": "trackshift-ingestion", "instance": "127.0.0.1:8000"}


class Watch:
    """Scrapes the service and says what the rules make of it. Seconds are scaled ones, since the first scrape."""

    def __init__(self) -> None:
        self.url = ""
        self.recording = Recording(TARGET)
        self.scrapes: list[tuple[float, str | None]] = []
        self._began = time.monotonic()

    @property
    def now(self) -> float:
        return (time.monotonic() - self._began) * SCALE

    async def scrape(self) -> None:
        if not self.scrapes:
            self._began = time.monotonic()
        async with httpx.AsyncClient() as client:
            try:
                text: str | None = (await client.get(f"{self.url}/metrics", timeout=5)).text
            except httpx.TransportError:
                text = None
        if text is not None:
            text = AGES.sub(lambda found: f"{found[1]} {float(found[2]) * SCALE}", text)
        self.scrapes.append((self.now, text))
        self.recording.add(*self.scrapes[-1])
        await asyncio.sleep(EVERY / SCALE)

    def fired(self, alert: str, since: float = 0.0) -> dict[str, float]:
        """By the label that tells one from another: when the alert first fired, judged from `since` on."""
        groups = [{"rules": [rule for rule in group["rules"] if rule["alert"] == alert]} for group in RULES["groups"]]
        found = firing({"groups": groups}, self.recording, since, self.now, EVERY)[alert]
        return {next(iter({value for name, value in labels if name not in TARGET}), ""): at for labels, at in found.items()}

    async def record(self, seconds: float) -> None:
        end = self.now + seconds
        while not self.scrapes or self.now < end:
            await self.scrape()

    async def until(self, alert: str, *names: str, since: float, at_most: float) -> dict[str, float]:
        """Scrapes until the alert fires for all `names`; seconds by name since the fault began."""
        while not set(names) <= set(found := self.fired(alert, since)):
            assert self.now - since < at_most, f"{alert} fires for {set(found)} only"
            await self.scrape()
        took = {name: found[name] - since for name in names}
        for name, seconds in took.items():
            print(f"{alert} {name or '-'}: {seconds:.0f} s")
        return took


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, EmbeddedParts]]:
    """PostgreSQL and the store apart from the service, so that they can be stopped and stay so."""
    folder = tmp_path_factory.mktemp("outside")
    parts = {
        name: EmbeddedParts(
            folder / name, postgres=name == "database", object_store=name == "storage", database="trackshift",
            bucket="frames", on_event=lambda *_: None,
        )
        for name in ("database", "storage")
    }  # fmt: skip
    for part in parts.values():
        part.start()
    yield parts
    for part in parts.values():
        part.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def service(outside: dict[str, EmbeddedParts], tmp_path: Path) -> AsyncIterator[Service]:
    postgres, store = outside["database"].postgres, outside["storage"].object_store
    assert postgres is not None
    assert store is not None
    db = DbSettings(HOST=postgres.host, PORT=postgres.port, USER=postgres.user, NAME=postgres.database)
    storage = StorageSettings(
        ENDPOINT=store.endpoint, ACCESS_KEY=store.access_key, SECRET_KEY=store.secret_key, BUCKET_NAME="frames"
    )
    made = service_on(
        Backends(db, storage, outside=False), tmp_path, RTSP__RECONNECT_DELAY=str(3 / SCALE),
        RTSP__RECONNECT_MAX_DELAY=str(30 / SCALE), API__HEALTH_INTERVAL=str(5 / SCALE),
        RTSP__MAX_CONCURRENT_STREAMS="3", REDIS__HOST="127.0.0.1", REDIS__PORT="9",  # nothing is there
    )  # fmt: skip
    await asyncio.to_thread(made.start, 90)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


@pytest.mark.timeout(300 + 1800 / SCALE)
async def test_each_alert_fires_in_its_time_and_says_what_is_wrong(
    service: Service, outside: dict[str, EmbeddedParts], tmp_path: Path
) -> None:
    film = make_film(tmp_path, codec="h264", width=160, height=90, fps=10, seconds=2, bitrate=100_000)
    kept, captured, well, roomless = unique("kept"), unique("captured"), unique("well"), unique("roomless")
    watch = Watch()
    watch.url = service.url
    with Camera(film, name="cam", join="burst") as broken, Camera(film, name="cam", join="burst") as healthy:
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
            registered = {"camera_id": kept, "rtsp_url": broken.url, "keep_open": True}
            assert (await client.post("/api/v1/cameras", json=registered)).status_code == 201
            fast: dict[str, Any] = {"capture_mode": "continuous", "fps": 2.0}
            requests = [
                await capture(client, name, url, **fast) for name, url in ((captured, broken.url), (well, healthy.url))
            ]
            for request in requests:
                await until(lambda request=request: _stored(client, request), "a frame")  # type: ignore[misc]
            await until(lambda: _live(client, kept), "a live stream")
        await watch.record(60)
        assert watch.fired("IngestionCameraDown") == watch.fired("IngestionDependencyDown") == {}
        told = watch.scrapes[-1][1] or ""
        for name in (kept, captured, well):  # by themselves, from the first picture on
            assert re.search(rf'^ingestion_camera_state_seconds{{camera_id="{name}",state="live"}} ', told, re.MULTILINE)
            assert re.search(rf'^ingestion_camera_picture_age_seconds{{camera_id="{name}"}} [0-2]\.', told, re.MULTILINE)
        assert f'ingestion_camera_frame_age_seconds{{camera_id="{well}"}}' in told

        fault = watch.now
        broken.kill()  # unplugged: its address refuses, each retry passes through connecting and backing_off
        registered = {"camera_id": roomless, "rtsp_url": healthy.url, "keep_open": True}  # the three others have all room
        assert (await asyncio.to_thread(httpx.post, f"{service.url}/api/v1/cameras", json=registered)).status_code == 201
        took = await watch.until("IngestionCameraDown", kept, captured, roomless, since=fault, at_most=900)
        assert all(seconds >= 300 for seconds in took.values())
        assert set(watch.fired("IngestionCameraDown")) == {kept, captured, roomless}
        assert watch.fired("IngestionRedisDown")["redis"] >= 300
        assert '"code":"connection_refused"' in await looked("IngestionCameraDown", service, kept)
        assert '"code":"connection_refused"' in await looked("IngestionCameraDown", service, captured)
        assert '"stream":null' in await looked("IngestionCameraDown", service, roomless)
        assert "RTSP__MAX_CONCURRENT_STREAMS are open" in _line(service, "keep_open_not_possible", roomless)
        assert "Redis is not used (connection)" in await looked("IngestionRedisDown", service)
        await asyncio.to_thread(broken.start)
        while re.search(f"ingestion_stream_down_seconds.*({kept}|{captured})", watch.scrapes[-1][1] or ""):
            await watch.scrape()
        assert watch.fired("IngestionDependencyDown") == {}

        fault = watch.now
        for part in outside.values():
            await asyncio.to_thread(part.stop)
        took = await watch.until("IngestionDependencyDown", "database", "storage", since=fault, at_most=900)
        assert all(seconds >= 60 for seconds in took.values())
        said = json.loads(await looked("IngestionDependencyDown", service))["checks"]
        assert {name: said[name]["status"] for name in outside} == dict.fromkeys(outside, "unhealthy")
        assert all(said[name]["detail"] for name in outside)
        # No lower bound: on a slow machine, with time scaled, frames wait in the spool before as well.
        await watch.until("IngestionSpool", "", since=fault, at_most=1200)
        said = json.loads(await looked("IngestionSpool", service))["checks"]
        assert re.search(r"[1-9]\d* frames, \d+ bytes, the oldest", said["spool"]["detail"])
        assert said["storage"]["status"] == "unhealthy"

        fault = watch.now
        service.kill()
        took = await watch.until("IngestionDown", "", since=fault, at_most=900)
        assert took[""] >= 60
        assert "curl: (7)" in await looked("IngestionDown", service)
    if shutil.which("promtool"):
        _ask_promtool(watch, tmp_path)


async def looked(alert: str, service: Service, camera_id: str = "") -> str:
    """What the commands say that the runbook gives to look with, done as they stand there."""
    section = (ROOT / "docs" / "runbook.md").read_text("utf-8").split(f"\n## {alert}\n")[1].split("\n## ")[0]
    found = re.findall(r"^ *(curl .*)$|`(curl [^`]*)`", section.split("**Do:**")[0], re.MULTILINE)
    commands = "\n".join(block or inline for block, inline in found).replace("curl -s ", "curl -sS ")
    assert commands, alert
    for name, value in {"http://HOST:8000": service.url, "CAMERA_ID": camera_id}.items():
        commands = commands.replace(name, value)
    given = {**os.environ, "API": f"{service.url}/api/v1", "KEY": "none: access is off"}
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", commands, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode()
    print(f"{alert} {camera_id}: {said[:1500]}")
    return said


def _line(service: Service, event: str, camera_id: str) -> str:
    """The last line of the log with that event and camera, to which the runbook sends."""
    return next(line for line in reversed(service.text().splitlines()) if f'"{event}"' in line and camera_id in line)


async def _stored(client: httpx.AsyncClient, request: str) -> bool:
    return bool((await status(client, request))["progress"]["stored"])


async def _live(client: httpx.AsyncClient, camera_id: str) -> bool:
    stream = (await client.get(f"/api/v1/cameras/{camera_id}")).json()["stream"]
    return bool(stream and stream["state"] == "live")


def _ask_promtool(watch: Watch, folder: Path) -> None:
    """The same scrapes, at exact intervals, by Prometheus itself: each alert fires at our moment, and not one before."""
    exact, scrapes, count = Recording(TARGET), watch.scrapes, int(watch.scrapes[-1][0] / EVERY) + 1
    for n in range(count):
        exact.add(n * EVERY, next((text for at, text in reversed(scrapes) if at <= n * EVERY), scrapes[0][1]))
    end = (count - 1) * EVERY
    ours = firing(RULES, exact, 0, end, EVERY)
    series = []
    for labels, points in exact.series.items():
        values = {round(at / EVERY): "stale" if value != value else repr(value) for at, value in points}
        named = dict(labels)
        shown = ",".join(f'{key}="{value}"' for key, value in named.items() if key != "__name__")
        line = " ".join(values.get(n, "_") for n in range(count))
        series.append({"series": f"{named['__name__']}{{{shown}}}", "values": line})
    moments = [
        (alert, labels, at)
        for alert in ("IngestionCameraDown", "IngestionDependencyDown", "IngestionSpool", "IngestionDown")
        for labels, at in ours[alert].items()
    ]
    expected = [
        {"expr": _firing(alert, labels), "eval_time": f"{at - before:.0f}s", "exp_samples": samples}
        for alert, labels, at in moments
        for before, samples in ((0, [{"labels": "{}", "value": 1}]), (EVERY, []))
    ]
    assert len(moments) >= 6
    tests = {
        "rule_files": [str(ROOT / "deploy" / "alerts.yml")],
        "evaluation_interval": f"{EVERY:.0f}s",
        "tests": [{"interval": f"{EVERY:.0f}s", "input_series": series, "promql_expr_test": expected}],
    }
    path = folder / "alerts_test.yml"
    path.write_text(yaml.safe_dump(tests))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def _firing(alert: str, labels: frozenset[tuple[str, str]]) -> str:
    named = "".join(f',{name}="{value}"' for name, value in sorted(labels))
    return f'count(ALERTS{{alertname="{alert}",alertstate="firing"{named}}})'
