"""Pairs against a running service: made once, matched, aligned, shown, kept, told of."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import cv2
import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from config import DbSettings
from tests.conftest import ROOT, Backends, running, unique
from tests.kits.changed import jpeg, patched, photograph
from tests.kits.service_support import own_database, service_on, until, upload

PAIRS = "/api/v1/pairs"
PICTURE = photograph("chelsea")
CHANGED = patched(PICTURE, seed=3)[0]


@dataclass
class Running:
    client: httpx.AsyncClient
    db: DbSettings
    url: str

    async def frame(self, camera: str, picture: bytes, **meta: str) -> str:
        answer = await upload(self.client, camera, picture, meta=str(meta).replace("'", '"'))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["frames"][0]["frame_id"])

    async def pair(self, before: str, after: str, **body: Any) -> httpx.Response:
        wanted = {"before": {"frame_id": before}, "after": {"frame_id": after}, **body}
        return await self.client.post(PAIRS, json=wanted, timeout=60)

    async def done(self, pair_id: str) -> dict[str, Any]:
        """The pair, once its alignment has ended."""

        async def ended() -> Any:
            found = (await self.client.get(f"{PAIRS}/{pair_id}")).raise_for_status().json()
            return found if found["alignment"]["status"] != "pending" else None

        answer: dict[str, Any] = await until(ended, "the alignment's end", 90, 0.2)
        return answer

    async def sql(self, statement: str, *values: Any) -> None:
        db = self.db
        connection = await asyncpg.connect(
            host=db.HOST, port=db.PORT, user=db.USER, password=db.PASSWORD.get_secret_value() or None, database=db.NAME
        )
        try:
            await connection.execute(statement, *values)
        finally:
            await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def live(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    own = await own_database(backends)
    service = service_on(own, tmp_path_factory.mktemp("pairs"))
    async with running(service) as client:
        yield Running(client, own.db, service.url)


def code(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["code"])


async def test_a_pair_from_its_making_to_its_end(live: Running) -> None:
    camera = unique()
    before = await live.frame(camera, jpeg(PICTURE), subject="car-44", session="FP1", phase="before")
    after = await live.frame(camera, jpeg(CHANGED, 80), subject="car-44", session="FP1", phase="after")
    made = await live.pair(before, after, label="L")
    assert made.status_code == 201, made.text
    pair = made.json()
    assert made.headers["location"] == f"{PAIRS}/{pair['pair_id']}"
    assert (pair["before"]["frame_id"], pair["after"]["frame_id"]) == (before, after)
    assert (pair["label"], pair["subject"]) == ("L", "car-44")
    pair = await live.done(pair["pair_id"])
    found = pair["alignment"]
    assert found["status"] in ("same_size", "aligned"), found
    assert 0.006 < found["changed_share"] < 0.03
    assert len(found["matrix"]) == 9

    again = await live.pair(before, after, label="L")
    assert (again.status_code, again.json()["pair_id"]) == (201, pair["pair_id"])
    other = await live.pair(before, after, label="M", align=False)
    assert other.json()["pair_id"] != pair["pair_id"]
    assert other.json()["alignment"]["status"] == "off"

    for query in ({"label": "L"}, {"camera_id": camera}, {"session": "FP1"}, {"subject": "car-44"}):
        items = (await live.client.get(PAIRS, params={**query, "limit": 1})).raise_for_status().json()
        assert len(items["items"]) == 1
        seen = [items["items"][0]["pair_id"]]
        while items["next_cursor"] is not None:
            items = (await live.client.get(PAIRS, params={**query, "limit": 1, "cursor": items["next_cursor"]})).json()
            seen += [item["pair_id"] for item in items["items"]]
        assert pair["pair_id"] in seen
        assert (other.json()["pair_id"] in seen) is ("label" not in query)

    # The frames are kept.
    held = await live.client.delete(f"/api/v1/frames/{before}")
    assert code(held, 409) == "frame_in_pair"
    view = f"{PAIRS}/{pair['pair_id']}/view"
    for kind, start in (("side", b"\xff\xd8"), ("difference", b"\x89PNG")):
        shown = await live.client.get(view, params={"kind": kind, "width": 300}, timeout=60)
        assert shown.status_code == 200, shown.text
        assert shown.content.startswith(start)
        assert Image.open(io.BytesIO(shown.content)).width == 320
        headers = {"If-None-Match": shown.headers["etag"]}
        same = await live.client.get(view, params={"kind": kind, "width": 320}, headers=headers)
        assert same.status_code == 304
    not_aligned = await live.client.get(f"{PAIRS}/{other.json()['pair_id']}/view", params={"kind": "blend"})
    assert code(not_aligned, 409) == "pair_not_aligned"

    assert (await live.client.delete(f"{PAIRS}/{other.json()['pair_id']}")).status_code == 204
    assert code(await live.client.delete(f"{PAIRS}/{other.json()['pair_id']}"), 404) == "pair_not_found"
    assert (await live.client.delete(f"/api/v1/frames/{before}", params={"force": "true"})).status_code == 204
    assert code(await live.client.get(f"{PAIRS}/{pair['pair_id']}"), 404) == "pair_not_found"
    assert (await live.client.delete(f"/api/v1/frames/{after}")).status_code == 204
    assert code(await live.pair(before, after), 404) == "frame_not_found"


async def test_an_idempotency_key_gives_the_pair_again(live: Running) -> None:
    camera = unique()
    frames = [await live.frame(camera, jpeg(picture)) for picture in (PICTURE, CHANGED)]
    body = {"before": {"frame_id": frames[0]}, "after": {"frame_id": frames[1]}, "align": False}
    first = await live.client.post(PAIRS, json=body, headers={"Idempotency-Key": "k"})
    again = await live.client.post(PAIRS, json=body, headers={"Idempotency-Key": "k"})
    assert again.headers["idempotent-replayed"] == "true"
    assert (first.status_code, again.status_code) == (201, 201)
    for side in ("before", "after"):  # rendered anew, with a URL of now
        assert again.json()[side]["frame_id"] == first.json()[side]["frame_id"]
        assert again.json()[side]["storage_url"]
    assert again.json()["pair_id"] == first.json()["pair_id"]


async def test_references_and_bad_input(live: Running) -> None:
    camera = unique()
    at = {"timestamp_ref": "2026-05-04T13:30:00Z"}
    before = await live.frame(camera, jpeg(PICTURE), **at)
    flat = await live.frame(camera, jpeg(np.full((100, 100, 3), 80, np.uint8)), timestamp_ref="2026-05-04T14:30:00Z")
    ref = {"camera_id": camera, "at": "2026-05-04T14:30:02Z"}
    near = await live.client.post(PAIRS, json={"before": {"frame_id": before}, "after": ref}, timeout=60)
    assert near.status_code == 201, near.text
    assert (near.json()["after"]["frame_id"], near.json()["seconds_apart"]) == (flat, 3600)
    pair = await live.done(near.json()["pair_id"])
    assert (pair["alignment"]["status"], pair["alignment"]["reason"]) == ("failed", "one_colour")
    far = await live.client.post(PAIRS, json={"before": {"frame_id": before}, "after": {**ref, "within_s": 1.0}})
    assert code(far, 422) == "no_frame"
    assert far.json()["errors"][0]["pointer"] == "/after/at"
    assert code(await live.pair(before, before), 422) == "same_frame"
    assert code(await live.pair(before, str(uuid4())), 404) == "frame_not_found"
    for wrong in ({}, {"frame_id": before, "camera_id": camera}, {"camera_id": camera}, {"frame_id": "x"}):
        assert code(await live.client.post(PAIRS, json={"before": wrong, "after": ref}), 422) == "invalid_request"


async def test_of_each_side_the_sharpest(live: Running) -> None:
    camera, session = unique(), unique()
    blurred = np.asarray(cv2.GaussianBlur(PICTURE, (0, 0), 4), np.uint8)
    shown = {"before": (("10:00", PICTURE), ("10:05", blurred)), "after": (("12:00", blurred), ("12:05", PICTURE))}
    frames: dict[str, str] = {}
    for phase, taken in shown.items():
        for at, picture in taken:
            stamp = f"2026-05-04T{at}:00Z"
            frames[at] = await live.frame(camera, jpeg(picture), session=session, phase=phase, timestamp_ref=stamp)
    sides = {phase: {"session": session, "phase": phase} for phase in shown}
    for choose, wanted in (("nearest", ("10:05", "12:00")), ("sharpest", ("10:00", "12:05"))):
        body = {**sides, "choose": choose, "label": choose}
        (item,) = (await live.client.post(f"{PAIRS}/match", json=body)).raise_for_status().json()["items"]
        assert (item["before"]["frame_id"], item["after"]["frame_id"]) == tuple(frames[at] for at in wanted)


async def test_sides_are_matched_by_camera_and_what_is_alone_is_named(live: Running) -> None:
    a, b, session = unique("a"), unique("b"), unique()
    times = {"before": ("10:00", "10:05"), "after": ("12:00", "12:05")}
    frames: dict[str, str] = {}
    for phase, clock in times.items():
        for at in clock:
            meta = {"session": session, "phase": phase, "timestamp_ref": f"2026-05-04T{at}:00Z", "camera_angle": "front"}
            frames[at] = await live.frame(a, jpeg(PICTURE), **meta)
    await live.frame(b, jpeg(PICTURE), session=session, phase="before", timestamp_ref="2026-05-04T10:00:00Z")
    sides = {phase: {"session": session, "phase": phase} for phase in times}
    found = (await live.client.post(f"{PAIRS}/match", json={**sides, "label": session})).raise_for_status().json()
    assert [(item["before"]["frame_id"], item["after"]["frame_id"]) for item in found["items"]] == [
        (frames["10:05"], frames["12:00"])
    ]
    assert found["unmatched"] == [{"key": b, "side": "after", "code": "no_frame"}]
    by_angle = (await live.client.post(f"{PAIRS}/match", json={**sides, "by": "camera_angle", "label": session})).json()
    assert [item["pair_id"] for item in by_angle["items"]] == [item["pair_id"] for item in found["items"]]
    assert by_angle["unmatched"] == [{"key": None, "side": "before", "code": "no_camera_angle"}]
    pair = await live.done(found["items"][0]["pair_id"])  # in the background
    assert (pair["alignment"]["status"], pair["alignment"]["changed_share"]) == ("same_size", 0)


def consumer() -> str:
    """The second program of docs/integration.md."""
    _, code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "integration.md").read_text("utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= 30
    return str(code)


async def test_the_documented_consumer_of_pairs_hears_of_both_kinds(live: Running, tmp_path: Path) -> None:
    """Of one that was aligned at once, and of one whose alignment came later."""
    camera = unique()
    frames = [await live.frame(camera, jpeg(picture)) for picture in (PICTURE, CHANGED)]
    script, out = tmp_path / "pairs.py", tmp_path / "out"
    script.write_text(consumer())
    with out.open("wb") as file:
        process = subprocess.Popen([sys.executable, str(script), f"{live.url}/api/v1"], stdout=file, stderr=file)
    try:
        made = (await live.pair(*frames)).json()["pair_id"]
        later = (await live.pair(*frames, label="later", align=False)).json()["pair_id"]
        await live.sql("UPDATE pairs SET status = 'pending' WHERE id = $1", later)

        async def heard() -> bool:
            lines = out.read_text().splitlines()
            return all(any(line.startswith(pair) for line in lines) for pair in (made, later))

        await until(heard, "both pairs", 90, 0.2)
        assert process.poll() is None
        share = float(next(line for line in out.read_text().splitlines() if line.startswith(made)).split()[1])
        assert 0.6 < share < 3
    finally:
        process.kill()
        await asyncio.to_thread(process.wait, 10)
