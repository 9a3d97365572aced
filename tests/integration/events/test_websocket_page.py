"""The two clients of docs/websocket.md, run as they are written there."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, Service, clean_environment, unique
from tests.integration.events.test_websocket import ADMIN, BOOTSTRAP, key, opened, parts  # noqa: F401 - fixtures
from tests.kits.browser import Tab, browser, tab  # noqa: F401 - fixtures
from tests.kits.console import log_in
from tests.kits.service_support import jpeg, until, upload

pytestmark = pytest.mark.timeout(120)
Opened = tuple[Service, httpx.AsyncClient]


def code(language: str) -> str:
    """The page's one block of a language."""
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/websocket.md").read_text("utf-8"), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


async def test_the_program_prints_what_happens_and_ends_with_its_key(opened: Opened, tmp_path: Path) -> None:  # noqa: F811
    service, client = opened
    secret = await key(client, "events:read")
    (tmp_path / "follow.py").write_text(code("python"), "utf-8")
    environment = {**clean_environment(), "SERVICE": service.url, "KEY": secret}
    program = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "follow.py"), env=environment, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert program.stdout is not None
    try:
        camera_id, lines = unique(), list[str]()
        reading = asyncio.create_task(program.stdout.readline())
        sent = set()
        while not reading.done():  # it tells from its subscription on
            answer = (await upload(client, camera_id, jpeg())).raise_for_status().json()
            sent.add(f"{camera_id} {answer['frames'][0]['frame_id']}")
            await asyncio.wait({reading}, timeout=0.5)
        lines.append((await reading).decode().strip())
        assert lines[0] in sent
        await client.delete(f"/api/v1/api-keys/{secret.split('_')[1]}")
        _, errors = await asyncio.wait_for(program.communicate(), 20)
        assert errors.decode().strip() == "The key does not hold any more."
        assert program.returncode == 1
    finally:
        if program.returncode is None:
            program.kill()


async def test_the_page_is_told_events_and_progress(opened: Opened, tab: Tab) -> None:  # noqa: F811
    service, client = opened
    await log_in(tab.page, service.url, BOOTSTRAP)
    # As the page's own script would hold it: `follow` and `cursor` stand beside each other.
    await tab.page.evaluate(f"window.told = []; {code('js')}\nfollow(message => window.told.push(message)); 0")

    async def told(wanted: str, argument: str = "") -> bool:
        return bool(await tab.page.evaluate(f"x => told.some(message => {wanted})", argument))

    await until(lambda: told("message.op === 'subscribed'"), "it has subscribed", 20)
    camera_id = unique()
    await upload(client, camera_id, jpeg())
    stored = "message.op === 'event' && message.event.type === 'frame.stored' && message.event.cameraid === x"
    await until(lambda: told(stored, camera_id), "it is told of the frame", 20)
