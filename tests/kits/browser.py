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
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

HOW = "no Chromium: `make browser` installs Debian's (as root), or set CHROMIUM to one"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
# No name and no address but the own machine's is found. By the browser itself: a request that Python is asked about costs
# a way there and back, and is never taken from the browser's cache.
NOWHERE = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost, EXCLUDE [::1]"
# What a browser does beside showing pages: updates, measurements, a process for a graphics card that is not there.
QUIET = ["--disable-dev-shm-usage", f"--host-resolver-rules={NOWHERE}", "--disable-gpu", "--disable-extensions"]


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
        running = await playwright.chromium.launch(executable_path=program, chromium_sandbox=os.geteuid() != 0, args=QUIET)
        yield running
        await running.close()


@dataclass
class Tab:
    """A page in a profile of its own, and what happened in it."""

    page: Page
    errors: list[str] = field(default_factory=list)  # console errors, and exceptions that nobody caught
    requests: list[str] = field(default_factory=list)  # every URL that was asked for
    left_the_machine: list[str] = field(default_factory=list)  # those of other hosts, which were refused

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)
        host = urlsplit(request.url).hostname
        if host is not None and host not in LOOPBACK:
            self.left_the_machine.append(request.url)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def watch(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.context.on("request", self._asked)


@pytest_asyncio.fixture(loop_scope="session")
async def tab(browser: Browser) -> AsyncIterator[Tab]:
    context = await browser.new_context()
    opened = Tab(await context.new_page())
    opened.watch()
    yield opened
    await context.close()
