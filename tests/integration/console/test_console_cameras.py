"""The console in a real browser: who may see what, the wall, cameras and captures live, a service that goes and comes back.

One service with a real camera; a capture runs all the while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from joserfc import jwt
from joserfc.jwk import OctKey
from playwright.async_api import Error, Page, Response, expect

from demo.camera import Camera
from tests.conftest import Backends, Service, free_port, running
from tests.kits.browser import Tab
from tests.kits.console import PATIENCE, go, log_in, misdeeds, violations_in_both
from tests.kits.onvif_device import OnvifDevice, Stream
from tests.kits.service_support import capture, final, jpeg, own_database, service_on, status, until, upload

SECRET = "bootstrap-secret-of-the-console-tests-01"
TOKEN_SECRET = "secret-of-the-identity-provider-of-the-console-tests"
MARKUP = "<img src=x onerror=document.title='broken'>"
WALL, OTHER = "wall-1", "other-1"
REFUSED = "status of 401"  # Chromium notes every refused request, also one that the page expects


@dataclass
class Place:
    service: Service
    client: httpx.AsyncClient
    capture: str
    camera_url: str

    async def key(self, name: str, scopes: list[str], cameras: list[str] | None = None) -> dict[str, Any]:
        answer = await self.client.post("/api/v1/api-keys", json={"name": name, "scopes": scopes, "cameras": cameras})
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


@pytest_asyncio.fixture(scope="module")
async def place(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    own = await own_database(backends)
    service = service_on(
        own, tmp_path_factory.mktemp("console"), AUTH__MODE="both", AUTH__BOOTSTRAP_KEY=SECRET, API__PORT=str(free_port()),
        AUTH__JWT_ISSUER="https://issuer.example", AUTH__JWT_AUDIENCE="trackshift", AUTH__JWT_ALGORITHMS='["HS256"]',
        AUTH__JWT_SECRET=TOKEN_SECRET, RTSP__CAPTURE_TIMEOUT="5",
    )  # fmt: skip
    with Camera(size=(320, 180), fps=10, bitrate=300_000) as camera:
        async with running(service) as client:
            client.headers["Authorization"] = f"Bearer {SECRET}"
            for name, more in ((WALL, {"name": MARKUP, "location": "pit lane"}), (OTHER, {})):
                body = {"camera_id": name, "rtsp_url": camera.url, **more}
                (await client.post("/api/v1/cameras", json=body)).raise_for_status()
            asked = {"camera_id": WALL, "capture_mode": "continuous", "fps": 2, "meta": {"session": "FP1"}}
            request_id = (await client.post("/api/v1/ingest/rtsp", json=asked)).raise_for_status().json()["request_id"]

            async def stored() -> bool:
                return bool((await status(client, request_id))["progress"]["stored"] >= 2)

            await until(stored, "two frames")
            yield Place(service, client, request_id, camera.url)


async def _views(page: Page) -> list[str]:
    return [text.strip() for text in await page.locator("nav a").all_text_contents()]


async def test_a_wrong_key_is_refused_in_words_and_a_right_one_is_never_kept_by_the_page(place: Place, tab: Tab) -> None:
    page = tab.page
    await page.goto(f"{place.service.url}/")
    await expect(page.locator("main h1")).to_have_text("TrackShift")
    assert misdeeds(tab) == []  # nothing fails for somebody who has not logged in
    assert await violations_in_both(page) == []
    await page.fill("input[type=password]", "tsk_wrong")
    await page.click("main button[type=submit]")
    await expect(page.get_by_text("This key or token is wrong, has expired or was revoked.")).to_be_visible()
    assert await violations_in_both(page) == []
    await log_in(page, place.service.url, SECRET)
    kept = "JSON.stringify([document.cookie, Object.entries(localStorage), Object.entries(sessionStorage)])"
    assert await page.evaluate(kept) == '["",[],[]]'
    await page.reload()
    await expect(page.locator("nav a", has_text="Keys")).to_be_attached(timeout=PATIENCE)
    assert SECRET not in await page.content()
    await page.get_by_role("button", name="Log out").click()
    await expect(page.locator("input[type=password]")).to_be_visible()
    assert misdeeds(tab, REFUSED) == []


async def test_the_wall_shows_the_cameras_pictures_as_they_come(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.service.url, SECRET)
    tile = page.locator("main li.tile", has_text=MARKUP)  # a text, and no element
    picture = tile.locator("img")
    await expect(picture).to_be_visible(timeout=PATIENCE)
    assert await picture.evaluate("async img => { await img.decode(); return [img.naturalWidth, img.naturalHeight]; }") == [
        320,
        180,
    ]
    first = await picture.get_attribute("src")
    assert first is not None
    await expect(picture).not_to_have_attribute("src", first, timeout=PATIENCE)
    await expect(tile.get_by_text("live", exact=True)).to_be_visible()
    await expect(page.locator("main li.tile", has_text=OTHER).get_by_text("No picture yet")).to_be_visible()
    assert await page.title() == "Cameras · TrackShift"
    assert await violations_in_both(page) == []
    assert misdeeds(tab) == []


async def test_the_wall_counts_what_was_dropped(place: Place, tab: Tab) -> None:
    dead = {"capture_mode": "continuous", "capture_duration": 1.0, "fps": 5.0}
    ended = await final(place.client, await capture(place.client, OTHER, "rtsp://127.0.0.1:9/none", **dead))
    lost = ended["progress"]["dropped"]["camera_down"]
    assert lost > 0
    await log_in(tab.page, place.service.url, SECRET)
    spark = tab.page.locator("main li.tile", has_text=OTHER).locator(".spark")
    await expect(spark).to_contain_text(f"{lost} dropped", timeout=PATIENCE)
    assert f"{lost}: " in (await spark.locator("svg").get_attribute("aria-label") or "")
    await expect(tab.page.locator("main li.tile", has_text=MARKUP).locator(".spark")).to_contain_text("1 h")
    assert misdeeds(tab) == []


async def test_a_token_of_an_identity_provider_logs_in_with_its_own_rights(place: Place, tab: Tab) -> None:
    claims = {
        "iss": "https://issuer.example", "aud": "trackshift", "sub": "alice", "exp": int(time.time()) + 300,
        "scope": "frames:read cameras:read", "cameras": [WALL],
    }  # fmt: skip
    token = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(TOKEN_SECRET), algorithms=["HS256"])
    page = tab.page
    await log_in(page, place.service.url, token)
    await expect(page.locator("main li.tile")).to_have_count(1, timeout=PATIENCE)
    assert await _views(page) == ["Cameras", "Frames", "Pairs"]
    assert token not in await page.content()
    assert misdeeds(tab) == []


async def test_a_camera_is_found_on_the_network_and_registered(place: Place, tab: Tab) -> None:
    page = tab.page
    stream = Stream("main", "H264", 320, 180, place.camera_url, "http://127.0.0.1:80/snap")
    await log_in(page, place.service.url, SECRET, "/console/cameras/new")
    with OnvifDevice(password="p/ S3cr3t@%", streams=[stream]) as device:
        await page.fill("input[name=networks]", f"{device.host}/32")
        await page.get_by_role("button", name="Look for cameras").click()
        found = page.locator("main li.card", has_text=device.host)
        await expect(found).to_contain_text("Pit lane entry", timeout=PATIENCE)
        await found.locator("input[name=username]").fill(device.username)
        await found.locator("input[name=device-password]").fill(device.password)
        await found.get_by_role("button", name="Ask for its streams").click()
        await found.get_by_role("button", name="Use this stream").click(timeout=PATIENCE)
    assert await violations_in_both(page) == []
    await page.fill("input[name=camera_id]", "found-here")
    await page.locator("main button[type=submit]").first.click()
    await expect(page.locator("main h1")).to_have_text("Pit lane entry", timeout=PATIENCE)
    assert "S3cr3t" not in await page.content()
    camera = (await place.client.get("/api/v1/cameras/found-here")).raise_for_status().json()
    assert camera["rtsp_url"] == place.camera_url
    (await place.client.delete("/api/v1/cameras/found-here")).raise_for_status()
    assert misdeeds(tab) == []


async def test_a_hidden_page_asks_for_nothing(place: Place, tab: Tab) -> None:
    """By a clock of the page's that the test moves: minutes of polls, and frames that are stored meanwhile."""
    page = tab.page
    await page.clock.install()
    await log_in(page, place.service.url, SECRET)
    await expect(page.locator("main li.tile", has_text=MARKUP).locator("img")).to_be_visible(timeout=PATIENCE)
    await expect(page.locator("main li.tile .spark")).to_have_count(2, timeout=PATIENCE)

    async def asked() -> list[str]:
        """Every request until now: one of the test's own is the last."""
        await page.evaluate("fetch('/health/live').then(answer => answer.text())")
        return [url for url in tab.requests if "/api/" in url]

    async def stored() -> int:
        return int((await status(place.client, place.capture))["progress"]["stored"])

    async def asks() -> bool:
        await page.clock.run_for(5_000)
        return any("latest.jpg" in url for url in (await asked())[len(before) :])

    before = await asked()
    await until(asks, "what is looked at asks")
    await page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true}); 0")
    await page.clock.run_for(5_000)  # what was to come when the page was hidden
    await asyncio.sleep(0.5)
    before, count = await asked(), await stored()

    async def more() -> bool:
        await page.clock.run_for(30_000)
        return await stored() >= count + 3

    await until(more, "three frames more")
    assert (await asked())[len(before) :] == []
    await page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); 0")
    await until(asks, "and again when it is looked at again")
    assert misdeeds(tab) == []


async def test_a_camera_is_looked_at_and_a_snapshot_taken(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.service.url, SECRET, f"/console/cameras/{WALL}")
    await expect(page.locator("main h1")).to_have_text(MARKUP, timeout=PATIENCE)
    await expect(page.locator("section.live img")).to_be_visible(timeout=PATIENCE)
    await expect(page.get_by_text("320 × 180, h264")).to_be_visible(timeout=PATIENCE)
    await page.get_by_role("button", name="Take a snapshot").click()
    link = page.locator("p.notice a")
    await expect(link).to_be_visible(timeout=PATIENCE)
    frame_id = str(await link.get_attribute("href")).rsplit("/", 1)[1]
    assert (await place.client.get(f"/api/v1/frames/{frame_id}")).json()["camera_id"] == WALL
    await page.get_by_role("button", name="Edit").click()
    await page.fill("input[name=location]", "pit exit")
    assert await violations_in_both(page) == []
    await page.locator("main button[type=submit]").first.click()
    await expect(page.get_by_text("Saved.")).to_be_visible(timeout=PATIENCE)
    assert (await place.client.get(f"/api/v1/cameras/{WALL}")).json()["location"] == "pit exit"
    assert misdeeds(tab) == []


async def test_a_camera_is_registered_with_what_a_probe_finds(place: Place, tab: Tab) -> None:
    page = tab.page
    url = "rtsp://viewer:secret@127.0.0.1:9/none"
    await log_in(page, place.service.url, SECRET, "/console/cameras/new")
    await page.fill("input[name=camera_id]", "made-here")
    await page.fill("input[name=rtsp_url]", "http://127.0.0.1/")
    await page.locator("main button[type=submit]").first.click()
    await expect(page.locator(".field-error").first).to_be_visible(timeout=PATIENCE)  # the API's words, at the field
    assert await page.locator("input[name=rtsp_url]").get_attribute("aria-invalid") == "true"
    assert await violations_in_both(page) == []
    await page.fill("input[name=rtsp_url]", url)
    await page.get_by_role("button", name="Try it first").click()
    await expect(page.get_by_text("Nothing listens at this address and port.")).to_be_visible(timeout=PATIENCE)
    await page.locator("main button[type=submit]").first.click()
    await expect(page.locator("main h1")).to_have_text("made-here", timeout=PATIENCE)
    assert "secret" not in await page.content()
    await page.get_by_role("button", name="Delete").click()
    await page.locator("dialog").get_by_role("button", name="Delete").click()
    await expect(page.locator("main h1")).to_have_text("Cameras", timeout=PATIENCE)
    assert (await place.client.get("/api/v1/cameras/made-here")).status_code == 404
    assert misdeeds(tab, "status of 422") == []


async def test_progress_moves_by_itself(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.service.url, SECRET, "/console/captures")
    row = page.locator("main tr", has_text=WALL).filter(has_text="running")
    await expect(row).to_be_visible(timeout=PATIENCE)
    assert await violations_in_both(page) == []
    lists = sum("/ingest/requests" in url for url in tab.requests)
    text = await row.locator("td.bars").inner_text()
    await expect(row.locator("td.bars")).not_to_have_text(text, timeout=PATIENCE)
    assert sum("/ingest/requests" in url for url in tab.requests) == lists  # by the WebSocket alone
    await row.get_by_role("link", name="continuous").click()
    await expect(page.locator("main h1")).to_have_text(f"{WALL}, continuous", timeout=PATIENCE)
    await expect(page.locator("ol.slots li.stored").first).to_be_visible(timeout=PATIENCE)
    many = await page.locator("ol.slots li.stored").count()
    await expect(page.locator("ol.slots li.stored").nth(many + 1)).to_be_visible(timeout=PATIENCE)
    slots = page.locator("ol.slots a")
    assert await slots.evaluate_all("all => all.filter(slot => slot.tabIndex === 0).length") == 1
    await slots.first.focus()
    await page.keyboard.press("ArrowRight")
    await expect(slots.nth(1)).to_be_focused()
    await page.keyboard.press("Home")
    await expect(slots.first).to_be_focused()
    assert await violations_in_both(page) == []
    assert misdeeds(tab) == []


async def test_a_capture_is_started_triggered_and_cancelled(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.service.url, SECRET, f"/console/captures/new?camera_id={OTHER}")
    await page.select_option("select[name=capture_mode]", "event_driven")
    await page.fill("input[name=fps]", "2")
    await page.uncheck("input[name=motion]")
    assert await violations_in_both(page) == []
    await page.locator("main button[type=submit]").first.click()
    await expect(page.locator("main h1")).to_have_text(f"{OTHER}, around events", timeout=PATIENCE)
    await page.fill("input[name=label]", MARKUP)
    await page.get_by_role("button", name="Trigger an event now").click()
    await expect(page.locator("main li strong", has_text=MARKUP)).to_be_visible(timeout=PATIENCE)
    cancel = page.get_by_role("button", name="Cancel", exact=True)
    await cancel.click()
    await page.get_by_role("button", name="No, go back").click()
    await expect(cancel).to_be_focused()  # where one was before the dialog
    await cancel.click()
    await page.get_by_role("button", name="Cancel the capture").click()
    await expect(page.locator(".badge", has_text="cancelled")).to_be_visible(timeout=PATIENCE)
    assert await violations_in_both(page) == []
    assert misdeeds(tab) == []


async def test_health_and_workers_in_words(place: Place, tab: Tab) -> None:
    page = tab.page
    await log_in(page, place.service.url, SECRET, "/console/health")
    await expect(page.get_by_text("Everything works.")).to_be_visible(timeout=PATIENCE)
    await expect(page.get_by_role("heading", name="Object store")).to_be_visible()
    assert await violations_in_both(page) == []
    await go(page, "/console/workers", "Workers")
    await expect(page.locator("main tbody tr")).to_have_count(1, timeout=PATIENCE)
    assert await violations_in_both(page) == []
    assert misdeeds(tab) == []


async def test_a_limited_key_sees_its_camera_and_is_offered_nothing_else(place: Place, tab: Tab) -> None:
    page = tab.page
    key = await place.key("viewer", ["cameras:read", "frames:read"], [WALL])
    await log_in(page, place.service.url, key["key"])
    await expect(page.locator("main li.tile")).to_have_count(1, timeout=PATIENCE)
    await expect(page.locator("main li.tile")).to_contain_text(MARKUP)
    assert await _views(page) == ["Cameras", "Frames", "Pairs"]
    await expect(page.get_by_text("Register a camera")).to_have_count(0)
    await go(page, "/console/captures", "Captures")
    await expect(page.get_by_text("Your key does not include this.")).to_be_visible()
    await go(page, f"/console/cameras/{WALL}", MARKUP)
    await expect(page.get_by_role("button", name="Delete")).to_have_count(0)
    await expect(page.get_by_role("button", name="Take a snapshot")).to_have_count(0)
    await page.goto(f"{place.service.url}/console/cameras/{OTHER}")
    await expect(page.get_by_text("There is no such camera, or your key does not include it.")).to_be_visible(
        timeout=PATIENCE
    )
    assert misdeeds(tab, "status of 404") == []


async def test_a_viewer_of_one_camera_walks_over_all_views(place: Place, tab: Tab) -> None:
    """Every view that the page has, by its own list: what the key may see is there, of the other camera nothing, and no
    request is refused."""
    own, alien = [await upload(place.client, camera, jpeg(), meta='{"session": "Q3"}') for camera in (WALL, OTHER)]
    frames = [answer.json()["frames"][0]["frame_id"] for answer in (own, alien)]
    second = (await upload(place.client, WALL, jpeg(size=(40, 30)))).json()["frames"][0]["frame_id"]
    pairs = []
    for before, after, label in ((frames[0], second, "mine"), (frames[0], frames[1], "of-both")):
        body = {"before": {"frame_id": before}, "after": {"frame_id": after}, "label": label, "align": False}
        pairs.append((await place.client.post("/api/v1/pairs", json=body)).raise_for_status().json()["pair_id"])
    dead = await capture(place.client, OTHER, "rtsp://127.0.0.1:9/none", capture_mode="single_frame")
    key = await place.key("walker", ["cameras:read", "events:read", "frames:read", "ingest:read"], [WALL])
    page, refused, bodies = tab.page, list[str](), list[str]()

    async def answered(response: Response) -> None:
        if "/api/" in response.url and response.status >= 400:
            refused.append(f"{response.status} {response.url}")
        if "/api/" in response.url and "json" in response.headers.get("content-type", ""):
            with suppress(Error):  # of a view that was left before it came
                bodies.append(await response.text())

    async def open_view(path: str) -> None:
        await page.evaluate(f"history.pushState(null, '', '{path}'); dispatchEvent(new PopStateEvent('popstate'));")

    page.on("response", answered)
    await log_in(page, place.service.url, key["key"])
    views = await page.evaluate(
        "import('/console/static/lib/router.js').then(({routes}) => routes.map(([at,, , scope]) => [at, scope]))"
    )
    shown = {  # heading, and what else this key sees; a view without a line here must be one that it may not see
        "/console/cameras": ("Cameras", MARKUP), "/console/cameras/:camera_id": (MARKUP, "Gaps"),
        "/console/captures": ("Captures", WALL), "/console/captures/:request_id": (f"{WALL}, continuous", "stored"),
        "/console/frames": ("Frames", WALL), "/console/frames/:frame_id": (f"{WALL}, ", "Q3"),
        "/console/pairs": ("Pairs", "mine"), "/console/pairs/:pair_id": ("mine", WALL), "/console/events": ("Events", WALL),
    }  # fmt: skip
    ids = {":camera_id": WALL, ":request_id": place.capture, ":frame_id": frames[0], ":pair_id": pairs[0]}
    for pattern, scope in views:
        path = "/".join(ids.get(part, part) for part in pattern.split("/"))
        await open_view(path)
        if scope not in key["scopes"]:
            await expect(page.get_by_text("Your key does not include this.")).to_be_visible(timeout=PATIENCE)
            assert pattern not in shown
            continue
        heading, more = shown.pop(pattern)
        await expect(page.locator("main h1")).to_contain_text(heading, timeout=PATIENCE)
        await expect(page.locator("main")).to_contain_text(more, timeout=PATIENCE)
        await expect(page.locator("main .loading")).to_have_count(0, timeout=PATIENCE)
        text = await page.locator("main").inner_text()
        assert not [hidden for hidden in (OTHER, "of-both", frames[1], dead) if hidden in text], (path, text)
        assert await page.locator("main [role=alert]").count() == 0, (path, text)
    assert shown == {}
    assert refused == []
    assert len(bodies) > 10
    whole = "".join(bodies)
    assert not [hidden for hidden in (f'"{OTHER}"', "of-both", frames[1], pairs[1], dead) if hidden in whole]
    # By an address that somebody sent: not there, in words.
    for view, alien_id, noun in (("frames", frames[1], "frame"), ("pairs", pairs[1], "pair"), ("captures", dead, "capture")):
        await open_view(f"/console/{view}/{alien_id}")
        await expect(page.locator("main [role=alert]")).to_contain_text(f"There is no such {noun}", timeout=PATIENCE)
    assert misdeeds(tab, "status of 404") == []
    assert {line[:3] for line in refused} == {"404"}


async def test_the_session_ends_with_its_key_and_the_page_says_so(place: Place, tab: Tab) -> None:
    page = tab.page
    key = await place.key("short", ["cameras:read", "events:read", "frames:read"])
    await log_in(page, place.service.url, key["key"])
    await expect(page.locator("main li.tile").first).to_be_visible(timeout=PATIENCE)
    (await place.client.delete(f"/api/v1/api-keys/{key['key_id']}")).raise_for_status()
    await expect(page.get_by_text("Your key was revoked or has expired.")).to_be_visible(timeout=6000)
    await expect(page.locator("input[type=password]")).to_be_visible()
    assert await page.locator("main li.tile").count() == 0  # nothing of what it showed stays
    assert await violations_in_both(page) == []
    # A ticket that was given just before the key ended is refused as the page shows it.
    assert misdeeds(tab, REFUSED, "failed: HTTP Authentication failed") == []


async def test_on_a_phone_nothing_runs_out_of_the_page(place: Place, tab: Tab) -> None:
    page = tab.page
    await page.set_viewport_size({"width": 390, "height": 844})
    await log_in(page, place.service.url, SECRET)
    for path, heading in (
        ("/console/cameras", "Cameras"), ("/console/cameras/new", "Register a camera"), (f"/console/cameras/{WALL}", MARKUP),
        ("/console/captures", "Captures"), ("/console/captures/new", "Start a capture"), ("/console/health", "Health"),
        (f"/console/captures/{place.capture}", f"{WALL}, continuous"), ("/console/workers", "Workers"),
    ):  # fmt: skip
        await go(page, path, heading)
        await page.wait_for_load_state("networkidle") if heading == "Health" else None
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await page.evaluate(wide) <= 0, path
    await page.get_by_role("button", name="Menu").click()
    await page.locator("nav a", has_text="Captures").click()
    await expect(page.locator("main h1")).to_have_text("Captures")
    assert misdeeds(tab) == []


async def test_by_keyboard_alone(place: Place, tab: Tab) -> None:
    page = tab.page
    await page.goto(f"{place.service.url}/")
    await expect(page.locator("input[type=password]")).to_be_focused()
    await page.keyboard.type(SECRET)
    await page.keyboard.press("Enter")
    await expect(page.locator("main li.tile").first).to_be_visible(timeout=PATIENCE)
    await page.evaluate("document.activeElement.blur()")
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("To the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Register a camera")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main h1")).to_have_text("Register a camera", timeout=PATIENCE)
    await expect(page.locator("main")).to_be_focused()  # a screen reader goes on at the new view


async def test_the_service_dies_and_comes_back_while_the_page_is_open(place: Place, tab: Tab) -> None:
    """Last: the others' service is killed."""
    page = tab.page
    await log_in(page, place.service.url, SECRET, f"/console/captures/{place.capture}")
    before = page.locator("main p", has_text=" stored")
    await expect(page.locator("ol.slots li.stored").first).to_be_visible(timeout=PATIENCE)
    await asyncio.to_thread(place.service.kill)
    await expect(page.get_by_text("The service does not answer; trying again")).to_be_visible(timeout=PATIENCE)
    await expect(before.first).to_be_visible()  # what was shown stays
    count = (await page.locator("main p", has_text=" of ").first.inner_text()).split()[0]
    await asyncio.to_thread(place.service.start)
    await expect(page.get_by_text("The service does not answer; trying again")).to_have_count(0, timeout=PATIENCE)
    progress = page.locator("main p", has_text=" of ").first
    await expect(progress).not_to_contain_text(f"{count} of", timeout=PATIENCE)  # the capture goes on, and so does the page
    assert (
        misdeeds(tab, "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_SOCKET", "WebSocket")
        == []
    )
