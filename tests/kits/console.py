"""What tests of the console share: logging in, opening a view, what axe-core finds, what a tab may not have done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from tests.kits.browser import Tab

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLOURS = ["color-contrast", "link-in-text-block"]  # of these rules, those that look at colours
PATIENCE = 15_000  # ms: machines are busy


async def log_in(page: Page, base: str, credential: str, path: str = "/") -> None:
    """Opens the console and logs in by its form."""
    await page.goto(f"{base}{path}")
    await page.fill("input[type=password]", credential)
    await page.click("main button[type=submit]")
    await expect(page.locator("nav a").first).to_be_attached(timeout=PATIENCE)


async def go(page: Page, path: str, heading: str) -> None:
    """Goes to a view as a click on a link does, without loading the page; waits for its heading."""
    await page.evaluate("path => { history.pushState(null, '', path); dispatchEvent(new PopStateEvent('popstate')); }", path)
    await expect(page.locator("main h1")).to_have_text(heading, timeout=PATIENCE)


async def violations(page: Page, only: dict[str, Any] | None = None) -> list[str]:
    """What axe-core finds in the page as it is: WCAG 2.2 AA and its own good practice. One line a finding."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text("utf-8") + "; 0")  # not by a script element, which the policy refuses
    found: dict[str, Any] = await page.evaluate(
        "rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']})", only or {"type": "tag", "values": RULES}
    )
    return [
        f"{item['id']}: {node['target']} {node['failureSummary']}" for item in found["violations"] for node in item["nodes"]
    ]


async def violations_in_both(page: Page) -> list[str]:
    """The same in light, and what is about colours in dark, which changes nothing else (test_pages.py)."""
    found = []
    for scheme, only in (("light", None), ("dark", {"type": "rule", "values": COLOURS})):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found += [f"{scheme}: {line}" for line in await violations(page, only)]
    return found


def misdeeds(tab: Tab, *expected: str) -> list[str]:
    """Console errors but those that hold an expected text, and requests that left the machine."""
    return [text for text in tab.errors if not any(part in text for part in expected)] + tab.left_the_machine
