"""A real Chromium, headless: Debian's, driven by Playwright. One for a session's tests, started by the first that asks.

    from tests.kits.browser import Tab, browser, tab   # fixtures: `browser` for the session, `tab` for a test

Playwright's own browser builds are not used: nothing is downloaded but two packages (`make browser`, requirements-dev.txt).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, Request, Route, async_playwright

HOW = "no Chromium: `make browser` installs Debian's (as root), or set CHROMIUM to one"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


def chromium() -> str | None:
    """The program: CHROMIUM, else by its usual names."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Skips where there is no Chromium; in CI that is a failure."""
    program = chromium()
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(HOW)
    async with async_playwright() as playwright:
        # /dev/shm of a container is too small for it. As root Chromium has no sandbox of its own: it sees our pages only.
        running = await playwright.chromium.launch(
            executable_path=program, chromium_sandbox=os.geteuid() != 0, args=["--disable-dev-shm-usage"]
        )
        yield running
        await running.close()


@dataclass
class Tab:
    """A page in a profile of its own, and what happened in it."""

    page: Page
    errors: list[str] = field(default_factory=list)  # console errors, and exceptions that nobody caught
    requests: list[str] = field(default_factory=list)  # every URL that was asked for
    left_the_machine: list[str] = field(default_factory=list)  # those of other hosts, which were refused

    async def _route(self, route: Route, request: Request) -> None:
        self.requests.append(request.url)
        host = urlsplit(request.url).hostname
        if host is None or host in LOOPBACK:
            await route.continue_()
        else:
            self.left_the_machine.append(request.url)
            await route.abort()

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    async def watch(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        await self.page.context.route("**/*", self._route)


@pytest_asyncio.fixture(loop_scope="session")
async def tab(browser: Browser) -> AsyncIterator[Tab]:
    context = await browser.new_context()
    opened = Tab(await context.new_page())
    await opened.watch()
    yield opened
    await context.close()
