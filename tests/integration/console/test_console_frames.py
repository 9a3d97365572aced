"""The console in a real browser: frames by the thousand, one frame, pairs, uploads, events, keys, the audit.

One service with photographs that were uploaded, one of them with markup wherever a text may stand; a camera for a snapshot.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from PIL import Image
from playwright.async_api import Page, expect

from demo.camera import Camera
from tests.conftest import Backends, Service, free_port, running
from tests.kits.browser import Tab
from tests.kits.changed import Picture, jpeg, photograph
from tests.kits.console import PATIENCE, go, log_in, misdeeds, violations_in_both
from tests.kits.pictures import encoded
from tests.kits.service_support import own_database, service_on, until

SECRET = "bootstrap-secret-of-the-console-tests-02"
MARKUP = "<img src=x onerror=document.title='broken'>"
MANY = 10_000
CARS, MANY_CAMERA, LIVE = "cars-1", "many-1", "live-1"
# Each has the same object: what is tested is the list.
_MANY_ROWS = """
INSERT INTO frames (id, request_id, camera_id, source_type, sequence, storage_path, capture_timestamp, timestamp_source,
    width, height, size_bytes, format, content_type, sha256, state, stored_at, quality)
SELECT gen_random_uuid(), request_id, $2, 'upload', n, storage_path,
    '2026-03-01T08:00:00Z'::timestamptz + n * interval '9 s', 'client',
    width, height, size_bytes, format, content_type, sha256, 'stored', now(), NULL
FROM frames, generate_series(1, $3::int) AS n WHERE id = $1
"""


def marked_jpeg() -> bytes:
    """A picture whose EXIF says MARKUP as maker, model and software."""
    image = Image.fromarray(photograph("rocket"))
    exif = image.getexif()
    exif[0x010F], exif[0x0110], exif[0x0131] = MARKUP, MARKUP, MARKUP
    return encoded("JPEG", image, exif=exif.tobytes())


def with_sticker(picture: Picture) -> Picture:
    changed = picture.copy()
    changed[60:110, 80:150] = (220, 30, 40)
    return changed


@dataclass
class Place:
    service: Service
    client: httpx.AsyncClient
    before: dict[str, Any]
    after: dict[str, Any]
    marked: dict[str, Any]
    pair: dict[str, Any]

    @property
    def url(self) -> str:
        return self.service.url


async def sent(client: httpx.AsyncClient, camera: str, name: str, data: bytes, **meta: Any) -> dict[str, Any]:
    answer = await client.post(
        "/api/v1/ingest/upload", data={"camera_id": camera, "meta": json.dumps(meta)}, files=[("files", (name, data))]
    )
    frame: dict[str, Any] = answer.raise_for_status().json()["frames"][0]
    return frame


@pytest_asyncio.fixture(scope="module")
async def place(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    own = await own_database(backends)
    service = service_on(
        own, tmp_path_factory.mktemp("console"), AUTH__MODE="keys", AUTH__BOOTSTRAP_KEY=SECRET, API__PORT=str(free_port()),
    )  # fmt: skip
    async with running(service) as client:
        client.headers["Authorization"] = f"Bearer {SECRET}"
        coffee = photograph("coffee")
        given = {"session": "FP1", "subject": "car-44"}
        before = await sent(
            client, CARS, "first.jpg", jpeg(coffee), phase="before", timestamp_ref="2026-05-04T13:00:00.25Z", **given
        )
        after = await sent(
            client,
            CARS,
            "second.jpg",
            jpeg(with_sticker(coffee)),
            phase="after",
            timestamp_ref="2026-05-04T13:05:00Z",
            **given,
        )
        marked = await sent(
            client,
            CARS,
            f"{MARKUP.replace('/', '')}.jpg",
            marked_jpeg(),
            timestamp_ref="2026-05-04T14:00:00Z",
            location=MARKUP,
            extra={MARKUP: MARKUP},
        )
        made = {"before": {"frame_id": before["frame_id"]}, "after": {"frame_id": after["frame_id"]}, "label": MARKUP}
        pair = (await client.post("/api/v1/pairs", json=made)).raise_for_status().json()
        sql = await asyncpg.connect(
            host=own.db.HOST,
            port=own.db.PORT,
            user=own.db.USER,
            database=own.db.NAME,
            password=own.db.PASSWORD.get_secret_value(),
        )
        await sql.execute("SET session_replication_role = replica")  # without the triggers of events
        await sql.execute("DROP INDEX uq_frames_storage_path")  # one object for all of them
        await sql.execute(_MANY_ROWS, before["frame_id"], MANY_CAMERA, MANY)
        await sql.close()
        yield Place(service, client, before, after, marked, pair)


async def _frames(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await client.get("/api/v1/frames", params=params)).raise_for_status().json()["items"]
    return items


async def _drawn(page: Page, selector: str) -> bool:
    """Whether the first picture there was decoded."""
    picture = page.locator(selector).first
    await expect(picture).to_be_visible(timeout=PATIENCE)
    found: bool = await picture.evaluate("async img => { await img.decode(); return img.naturalWidth > 0; }")
    return found


async def _nothing_of_markup(page: Page) -> None:
    assert await page.locator("img[src=x], [onerror]").count() == 0
    assert "broken" not in (await page.title()).replace(MARKUP, "")


async def test_pictures_are_uploaded_large_ones_straight_to_the_store(place: Place, tab: Tab, tmp_path: Path) -> None:
    page = tab.page
    # A JPEG with as many bytes behind its end as make it large, as some cameras write them.
    large = jpeg(photograph("chelsea")) + bytes(9_000_000)
    files = {
        "a.jpg": jpeg(photograph("coins")),
        f"{MARKUP.replace('/', '')}.png": encoded("PNG", Image.fromarray(photograph("camera"))),
    }
    files |= {"large.jpg": large, "broken.jpg": b"\xff\xd8\xff\xe0 no picture"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    await log_in(page, place.url, SECRET, "/console/upload")
    await expect(page.locator("main h1")).to_have_text("Upload", timeout=PATIENCE)
    assert await violations_in_both(page) == []
    await page.fill("input[name=camera_id]", "sent-1")
    await page.fill("input[name=session]", "FP2")
    await page.set_input_files("input[type=file]", [tmp_path / name for name in files])
    await page.locator("main button[type=submit]").first.click()
    await expect(page.get_by_text("3 of 4 stored, 1 refused")).to_be_visible(timeout=PATIENCE)
    assert await _drawn(page, "main li.file img")
    await expect(page.locator("li.file", has_text="large.jpg")).to_contain_text("straight to the object store")
    refused = page.locator("li.file", has_text="broken.jpg")
    await expect(refused.locator("code").first).to_have_text("invalid_image")
    await expect(page.locator("li.file", has_text=MARKUP.replace("/", ""))).to_have_count(1)
    assert any("/staging/" in url for url in tab.requests)
    stored = {frame["filename"]: frame for frame in await _frames(place.client, camera_id="sent-1")}
    assert {name: frame["size_bytes"] for name, frame in stored.items()} == {
        name: len(data) for name, data in files.items() if name != "broken.jpg"
    }
    assert {frame["meta"]["session"] for frame in stored.values()} == {"FP2"}
    assert await violations_in_both(page) == []
    await _nothing_of_markup(page)
    assert misdeeds(tab, "status of 422") == []


async def test_a_large_file_goes_through_the_service_where_the_store_is_not_reached(
    place: Place, tab: Tab, tmp_path: Path
) -> None:
    page = tab.page
    (tmp_path / "large.jpg").write_bytes(jpeg(photograph("retina")) + bytes(8_500_000))
    await log_in(page, place.url, SECRET, "/console/upload?camera_id=sent-2")
    await page.route("**/staging/**", lambda route: route.abort())
    await page.set_input_files("input[type=file]", tmp_path / "large.jpg")
    await page.locator("main button[type=submit]").first.click()
    await expect(page.get_by_text("1 of 1 stored")).to_be_visible(timeout=PATIENCE)
    await expect(page.locator("li.file")).to_contain_text("this browser does not reach the object store")
    assert len(await _frames(place.client, camera_id="sent-2")) == 1
    assert misdeeds(tab, "ERR_FAILED") == []


async def test_ten_thousand_frames_are_scrolled_and_few_are_drawn(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.url, SECRET, f"/console/frames?camera_id={MANY_CAMERA}")
    assert await _drawn(page, "main .tiles img")
    await expect(page.get_by_text(f"{MANY:,} in all")).to_be_visible(timeout=PATIENCE)
    assert await violations_in_both(page) == []
    pictures = sum("/thumbnail" in url for url in tab.requests)
    # As fast as pages come: to the end of what is known, until nothing more comes.
    most = await page.evaluate(
        """async () => {
            let most = 0;
            const end = () => document.querySelector('main .pager').textContent.includes('all there are');
            for (let turns = 0; !end() && turns < 2000; turns += 1) {
                scrollTo(0, document.documentElement.scrollHeight);
                await new Promise(requestAnimationFrame);
                most = Math.max(most, document.querySelectorAll('main .tiles > li').length);
            }
            return most;
        }"""
    )
    await expect(page.get_by_text(f"{MANY:,} frames, all there are")).to_be_visible(timeout=PATIENCE)
    assert 0 < most <= 120
    await page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    last = page.locator(f'main .tiles [data-index="{MANY - 1}"]')
    await expect(last).to_be_visible(timeout=PATIENCE)
    await expect(last).to_contain_text("08:00:09.000")
    assert await _drawn(page, f'main .tiles [data-index="{MANY - 1}"] img')
    asked = sum("/thumbnail" in url for url in tab.requests) - pictures
    print(f"{asked} thumbnails asked for")
    assert asked < MANY / 2  # what flew past was not asked for
    heap = await page.evaluate("performance.memory.usedJSHeapSize")
    assert heap < 64_000_000
    assert misdeeds(tab) == []


async def test_the_scrubber_shows_where_frames_are_and_leads_there(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.url, SECRET, f"/console/frames?camera_id={MANY_CAMERA}")
    moment = page.get_by_role("slider", name="Moment")
    await expect(moment).to_be_visible(timeout=PATIENCE)
    await moment.focus()
    for _ in range(3):
        await page.keyboard.press("ArrowLeft")
    text = str(await moment.get_attribute("aria-valuetext"))
    await expect(page.get_by_text("From Mar 2, 08:40:00 backwards.")).to_be_visible(timeout=PATIENCE)
    assert text == "Mar 2, 08:30:00: 67 frames"
    await expect(page.locator('main .tiles [data-index="0"]')).to_contain_text("08:39:54.000")
    await page.get_by_role("button", name="Closer").click()
    await expect(page.get_by_text("67 frames, all there are")).to_be_visible(timeout=PATIENCE)
    await page.get_by_role("button", name="All times").click()
    await expect(page.get_by_text(f"{MANY:,} in all")).to_be_visible(timeout=PATIENCE)
    # Without a histogram the frames are there all the same.
    await page.route(
        "**/frames/histogram*", lambda route: route.fulfill(status=404, json={"code": "route_not_found", "detail": "No."})
    )
    await page.reload()
    await expect(page.get_by_text("When this camera has frames cannot be shown")).to_be_visible(timeout=PATIENCE)
    await expect(page.locator('main .tiles [data-index="0"]')).to_be_visible()
    assert misdeeds(tab, "status of 404") == []


# A key that comes when tiles are drawn, and what follows a drawing is not yet done.
KEY_AFTER_A_DRAWING = """
() => new Promise((done) => {
  dispatchEvent(new Event('resize'));
  requestAnimationFrame(() => {
    document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
    done();
  });
})
"""


async def test_frames_are_filtered_and_walked_by_keyboard(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.url, SECRET, f"/console/frames?camera_id={CARS}")
    tiles = page.locator("main .tiles > li")
    await expect(tiles).to_have_count(3, timeout=PATIENCE)
    await page.select_option("select[name=phase]", "after")
    await expect(tiles).to_have_count(1, timeout=PATIENCE)
    await page.select_option("select[name=quality]", "bad")
    await expect(page.get_by_text("No frame fits")).to_be_visible(timeout=PATIENCE)
    assert await violations_in_both(page) == []
    await page.select_option("select[name=quality]", "")
    await page.select_option("select[name=phase]", "")
    await expect(tiles).to_have_count(3, timeout=PATIENCE)
    await page.locator('[data-index="0"]').focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator('[data-index="1"]')).to_be_focused()
    await page.evaluate(KEY_AFTER_A_DRAWING)
    await expect(page.locator('[data-index="2"]')).to_be_focused()
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator('[data-index="1"]')).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main h1")).to_have_text(f"{CARS}, May 4, 13:05:00.000", timeout=PATIENCE)
    await expect(page.get_by_role("link", name="← Earlier")).to_be_visible(timeout=PATIENCE)
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("main h1")).to_have_text(f"{CARS}, May 4, 13:00:00.250", timeout=PATIENCE)
    await page.keyboard.press("Escape")
    await expect(tiles).to_have_count(3, timeout=PATIENCE)
    assert misdeeds(tab) == []


async def test_new_frames_are_told_of_and_shown_when_asked_for(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.url, SECRET, "/console/frames?camera_id=fresh-1")
    await expect(page.get_by_text("No frame fits")).to_be_visible(timeout=PATIENCE)
    await expect(page.locator(".connection")).to_have_count(0)
    for name in ("coins", "rocket"):
        await sent(place.client, "fresh-1", f"{name}.jpg", jpeg(photograph(name)))
    await page.get_by_role("button", name="2 new: show").click(timeout=PATIENCE)
    await expect(page.locator("main .tiles > li")).to_have_count(2, timeout=PATIENCE)
    await expect(page.get_by_role("button", name="new: show")).to_have_count(0)
    assert misdeeds(tab) == []


async def test_a_frame_tells_where_it_comes_from_and_markup_is_text(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.url, SECRET, f"/console/frames/{place.marked['frame_id']}")
    assert await _drawn(page, "main .stage img")
    name = place.marked["filename"]
    assert name.startswith("<img src=x onerror=")
    await expect(page.locator("main q", has_text=name)).to_be_visible()
    for card in ("EXIF", "Given with it"):
        region = page.get_by_role("region", name=card)
        await expect(region.get_by_text(MARKUP).first).to_be_visible()
    await expect(page.get_by_text("(14:00:00.000 UTC) by the time that the sender gave")).to_be_visible()
    await page.get_by_role("button", name="Verify now").click()
    await expect(page.get_by_text("Verified just now:")).to_be_visible(timeout=PATIENCE)
    stage = page.locator("main .stage")
    await stage.focus()
    await page.keyboard.press("+")
    await expect(page.locator("main output")).to_have_text("150 %")
    width, whole = await stage.evaluate("box => [box.clientWidth, box.scrollWidth]")
    assert abs(whole / width - 1.5) < 0.02
    await page.keyboard.press("0")
    assert await violations_in_both(page) == []
    await _nothing_of_markup(page)
    assert misdeeds(tab) == []


async def test_a_frame_is_held_released_and_deleted_though_it_is_in_a_pair(place: Place, tab: Tab) -> None:
    page = tab.page
    frames = [await sent(place.client, "gone-1", "x.jpg", jpeg(photograph(name))) for name in ("hubble", "ihc")]
    refs = {side: {"frame_id": frame["frame_id"]} for side, frame in zip(("before", "after"), frames, strict=True)}
    (await place.client.post("/api/v1/pairs", json={**refs, "align": False})).raise_for_status()
    await log_in(page, place.url, SECRET, f"/console/frames/{frames[0]['frame_id']}")
    await page.fill("input[name=reason]", MARKUP)
    await page.get_by_role("button", name="Put on hold").click()
    await expect(page.locator("main q", has_text=MARKUP)).to_be_visible(timeout=PATIENCE)
    await expect(page.get_by_role("button", name="Delete")).to_be_disabled()
    await page.get_by_role("button", name="Release").click()
    await expect(page.get_by_role("button", name="Put on hold")).to_be_visible(timeout=PATIENCE)
    await page.get_by_role("button", name="Delete").click()
    await page.locator("dialog").get_by_role("button", name="Delete").click()
    await expect(page.locator("dialog")).to_contain_text("It belongs to a pair", timeout=PATIENCE)
    await page.locator("dialog").get_by_role("button", name="Delete with its pairs").click()
    await expect(page.locator("main h1")).to_have_text("Frames", timeout=PATIENCE)
    assert (await place.client.get(f"/api/v1/frames/{frames[0]['frame_id']}")).status_code == 404
    await _nothing_of_markup(page)
    assert misdeeds(tab, "status of 409") == []


async def test_a_pair_under_a_slider_side_by_side_blinking_and_with_what_changed(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.url, SECRET, f"/console/pairs/{place.pair['pair_id']}")
    slider = page.locator("img-comparison-slider")
    await expect(slider).to_be_visible(timeout=PATIENCE)
    assert await slider.locator("img").evaluate_all(
        "async all => { await Promise.all(all.map(img => img.decode())); return all.every(img => img.naturalWidth > 0); }"
    )
    await expect(page.locator("main h1")).to_have_text(MARKUP)
    await slider.focus()
    await page.keyboard.down("ArrowRight")
    await expect(slider).to_have_attribute("aria-valuenow", re.compile("^[6-9]"), timeout=PATIENCE)
    await page.keyboard.up("ArrowRight")
    assert await violations_in_both(page) == []
    await page.get_by_role("button", name="Side by side", exact=True).click()
    assert await _drawn(page, "figure img")
    await page.get_by_role("button", name="Larger").click()
    await page.get_by_role("button", name="Larger").click()
    stages = page.locator("figure .stage")
    await stages.nth(0).evaluate("box => box.scrollTo(60, 40)")

    async def in_step() -> bool:
        return bool(await stages.nth(1).evaluate("box => box.scrollLeft === 60 && box.scrollTop === 40"))

    await until(in_step, "the other picture moves, too")
    await page.get_by_role("button", name="Blink", exact=True).click()
    corner = page.locator("main .corner")
    await expect(corner).to_have_text("Before")
    await page.locator(".viewer-bar").last.get_by_role("button", name="Blink").click()
    await expect(corner).to_have_text("After", timeout=PATIENCE)
    await expect(corner).to_have_text("Before", timeout=PATIENCE)
    await page.get_by_role("button", name="Stop").click()
    regions = place.pair["alignment"]["regions"]
    assert len(regions) >= 1
    await page.get_by_role("list", name="Places that changed").get_by_role("button").first.click()
    await expect(page.locator("main svg.regions rect")).to_have_count(len(regions))
    await expect(page.locator("main svg.regions rect.chosen")).to_have_count(1)
    assert await _drawn(page, "main .over img")
    assert await violations_in_both(page) == []
    await _nothing_of_markup(page)
    assert misdeeds(tab) == []


async def test_two_sessions_are_matched_and_a_frame_is_paired_with_another(place: Place, tab: Tab) -> None:
    page = tab.page
    for camera, phases in (("left", ("before", "after")), ("right", ("before",))):
        for number, phase in enumerate(phases):
            await sent(
                place.client, f"match-{camera}", f"{phase}.jpg", jpeg(photograph("coins")[number:]), session="Q1",
                timestamp_ref=f"2026-05-05T13:0{number}:00Z", phase=phase,
            )  # fmt: skip
    await log_in(page, place.url, SECRET, "/console/pairs")
    await expect(page.locator("main .pair-tile", has_text=MARKUP)).to_be_visible(timeout=PATIENCE)
    await page.get_by_role("button", name="Match two sessions").click()
    for side in ("before", "after"):
        await page.fill(f"input[name={side}_session]", "Q1")
    await page.locator("main button[type=submit]").first.click()
    await expect(page.get_by_text("1 pair.", exact=True)).to_be_visible(timeout=PATIENCE)
    await expect(page.get_by_text("match-right has no frame on this side (after)")).to_be_visible()
    await expect(page.locator("main .pair-tile", has_text="match-left")).to_be_visible(timeout=PATIENCE)
    assert await violations_in_both(page) == []
    await go(page, f"/console/frames/{place.before['frame_id']}", f"{CARS}, May 4, 13:00:00.250")
    await page.get_by_role("link", name="Pair with …").click()
    await expect(page.get_by_text("Choose the frame to pair with")).to_be_visible(timeout=PATIENCE)
    await page.locator('[data-index="0"]').click()  # the rocket: nothing in common
    await expect(page.locator("img-comparison-slider")).to_be_visible(timeout=PATIENCE)
    made = (await place.client.get("/api/v1/pairs", params={"limit": 1})).json()["items"][0]
    assert [made[side]["frame_id"] for side in ("before", "after")] == [place.before["frame_id"], place.marked["frame_id"]]
    await page.get_by_role("button", name="Delete").click()
    await page.locator("dialog").get_by_role("button", name="Delete").click()
    await expect(page.locator("main h1")).to_have_text("Pairs", timeout=PATIENCE)
    assert (await place.client.get(f"/api/v1/pairs/{made['pair_id']}")).status_code == 404
    assert misdeeds(tab) == []


async def test_keys_are_made_shown_once_renewed_and_revoked(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.url, SECRET, "/console/keys")
    await page.fill("input[name=name]", MARKUP)
    await page.check("input[name='ingest:read']")
    await page.uncheck("input[name=all_cameras]")
    await page.fill("input[name=cameras]", f"{CARS}, many-*")
    await page.locator("main button[type=submit]").first.click()
    shown = page.locator("input[name=made_key]")
    await expect(shown).to_be_visible(timeout=PATIENCE)
    key = await shown.input_value()
    assert await violations_in_both(page) == []

    async def me(secret: str) -> httpx.Response:
        return await place.client.get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"})

    found = (await me(key)).json()
    assert (sorted(found["scopes"]), sorted(found["cameras"])) == (["frames:read", "ingest:read"], [CARS, "many-*"])
    await page.get_by_role("button", name="Copy", exact=True).click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    await page.get_by_role("button", name="I have it").click()
    assert key.rsplit("_", 1)[1] not in await page.content()
    row = page.locator("main tbody tr", has_text=MARKUP)
    await row.get_by_role("button", name="Rotate").click()
    await page.locator("dialog").get_by_role("button", name="Make another secret").click()
    await expect(shown).to_be_visible(timeout=PATIENCE)
    other = await shown.input_value()
    assert other != key
    assert (await me(other)).status_code == 200
    await row.get_by_role("button", name="Revoke").click()
    await page.locator("dialog").get_by_role("button", name="Revoke").click()
    await expect(row).to_have_count(0, timeout=PATIENCE)
    assert (await me(other)).status_code == 401
    await page.get_by_role("button", name="Show 1 revoked").click()
    await expect(row).to_contain_text("revoked")
    await _nothing_of_markup(page)
    assert misdeeds(tab) == []


async def test_events_appear_by_themselves_and_the_audit_tells_who_did_what(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.url, SECRET, "/console/events")
    rows = page.locator("main li.event")
    await expect(rows.first).to_be_visible(timeout=PATIENCE)  # from before the page was opened
    assert await violations_in_both(page) == []
    await page.select_option("select[name=types]", label="frames")
    await page.fill("input[name=camera_id]", "events-1")
    await sent(place.client, "events-0", "meanwhile.jpg", jpeg(photograph("astronaut")))
    await expect(rows.first).to_contain_text("meanwhile.jpg", timeout=PATIENCE)  # what is being typed stays
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("No events of this kind")).to_be_visible(timeout=PATIENCE)
    await sent(place.client, "events-1", f"{MARKUP.replace('/', '')}.jpg", jpeg(photograph("astronaut")))
    await expect(rows).to_have_count(1, timeout=PATIENCE)
    await expect(rows).to_contain_text("Frame stored")
    await rows.locator("summary").click()
    await expect(rows.locator("pre")).to_contain_text("<img src=x onerror=")
    await page.get_by_role("button", name="Pause").click()
    await sent(place.client, "events-1", "b.jpg", jpeg(photograph("motorcycle")))
    await page.get_by_role("button", name="Go on (1 new)").click(timeout=PATIENCE)
    await expect(rows).to_have_count(2, timeout=PATIENCE)
    await go(page, "/console/audit?action=upload.store", "Audit")
    await expect(page.locator("main tbody tr").first).to_contain_text("bootstrap", timeout=PATIENCE)
    assert set(await page.locator("main tbody tr td:nth-child(4)").all_inner_texts()) == {"upload.store"}
    assert await violations_in_both(page) == []
    await _nothing_of_markup(page)
    assert misdeeds(tab) == []


async def test_who_may_only_look_is_offered_no_more(place: Place, tab: Tab) -> None:
    page = tab.page
    answer = await place.client.post(
        "/api/v1/api-keys", json={"name": "viewer", "scopes": ["frames:read"], "cameras": [CARS]}
    )
    await log_in(page, place.url, answer.json()["key"], "/console/frames")
    await expect(page.locator("main .tiles > li")).to_have_count(3, timeout=PATIENCE)
    assert [text.strip() for text in await page.locator("nav a").all_text_contents()] == ["Frames", "Pairs"]
    await go(page, f"/console/frames/{place.before['frame_id']}", f"{CARS}, May 4, 13:00:00.250")
    assert await _drawn(page, "main .stage img")
    for name in ("Delete", "Pair with", "Put on hold"):
        await expect(page.get_by_text(name)).to_have_count(0)
    await expect(page.get_by_role("link", name="Download")).to_be_visible()
    await go(page, f"/console/pairs/{place.pair['pair_id']}", MARKUP)
    await expect(page.get_by_role("button", name="Delete")).to_have_count(0)
    await go(page, "/console/upload", "Upload")
    await expect(page.get_by_text("Your key does not include this.")).to_be_visible()
    assert misdeeds(tab) == []


async def test_on_a_phone_nothing_runs_out_of_the_page(place: Place, tab: Tab) -> None:
    page = tab.page
    await page.set_viewport_size({"width": 390, "height": 844})
    await log_in(page, place.url, SECRET, "/console/frames")
    frame = place.marked
    for path, heading in (
        ("/console/frames", "Frames"), (f"/console/frames?camera_id={CARS}", "Frames"), ("/console/pairs", "Pairs"),
        (f"/console/frames/{frame['frame_id']}", f"{CARS}, May 4, 14:00:00.000"), ("/console/upload", "Upload"),
        (f"/console/pairs/{place.pair['pair_id']}", MARKUP), ("/console/events", "Events"), ("/console/keys", "Keys"),
        ("/console/audit", "Audit"),
    ):  # fmt: skip
        await go(page, path, heading)
        await expect(page.locator("main .loading")).to_have_count(0, timeout=PATIENCE)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await page.evaluate(wide) <= 0, path
    assert misdeeds(tab) == []


async def test_a_snapshot_tells_of_the_cameras_clock(place: Place, tab: Tab) -> None:
    page = tab.page
    with Camera(size=(320, 180), fps=10, bitrate=300_000) as camera:
        body = {"camera_id": LIVE, "rtsp_url": camera.url}
        (await place.client.post("/api/v1/cameras", json=body)).raise_for_status()
        frame = (await place.client.post(f"/api/v1/cameras/{LIVE}/snapshot", json={})).raise_for_status().json()
    await log_in(page, place.url, SECRET, f"/console/frames/{frame['frame_id']}")
    await expect(page.locator("ul.sentences")).to_contain_text("clock", timeout=PATIENCE)
    await expect(page.locator("ul.sentences")).to_contain_text("Picture 0 of its capture, stored")
    assert await _drawn(page, "main .stage img")
    assert misdeeds(tab) == []
