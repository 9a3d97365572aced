"""The documents hold together: links lead somewhere, named files and tests exist, pages are short."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from config import VERSION

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
# Looked up, not read from end to end; they say so.
REFERENCE = {"runbook.md", "glossary.md", "api.md", "configuration.md", "security.md", "CHANGELOG.md"}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)
MADE = re.compile(r"<!-- matrix: .*?<!-- end of the matrix -->", re.DOTALL)  # by a command
SPAN = re.compile(r"`([^`\n]+)`")
TEST = re.compile(r"`(test_\w+\.py)::(\w+)`")
# A path of the repository, as it is written in a text: the whole of a code span.
NAMED = re.compile(
    r"(?:(?:api|services|repositories|models|utils|tests|demo|deploy|docs)/[\w./-]*|[\w.-]+\.(?:md|py|toml|in|ini))\Z"
)
# What the service makes in its data folder, or a reader makes by hand.
OTHERS = {"filer.toml"}


@cache
def anchors(page: Path) -> frozenset[str]:
    """GitHub's anchors of a page's headings."""
    text = CODE.sub("", page.read_text("utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for link in LINK.findall(CODE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def missing_paths(page: Path, text: str) -> list[str]:
    """Paths in code spans that are no file, from the root or from the page's folder; `*` and `{` are patterns."""
    spans = {span.partition("::")[0] for span in SPAN.findall(CODE.sub("", text))}
    named = {span for span in spans if NAMED.match(span)} - OTHERS
    named -= {path.name for path in TESTS}
    return sorted(path for path in named if not any((folder / path).exists() for folder in (ROOT, *places(page, text))))


def places(page: Path, text: str) -> list[Path]:
    """Where a bare file name may be: beside the page, in `docs`, or in a folder that the page names."""
    named = {span for span in SPAN.findall(text) if span.endswith("/") and (ROOT / span).is_dir()}
    files = {str(Path(span).parent) for span in SPAN.findall(text) if "/" in span and (ROOT / span).is_file()}
    return [page.parent, ROOT / "docs", *(ROOT / folder for folder in named | files)]


@cache
def names_in(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE))


def where(name: str) -> list[str]:
    """The files under tests/ that have this test."""
    return [path.name for path in TESTS if name in names_in(path)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text("utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    assert missing_paths(page, page.read_text("utf-8")) == []


def test_what_is_broken_is_found() -> None:
    page = ROOT / "docs" / "rules.md"
    assert broken_links(page, "[a](nowhere.md) [b](rules.md#rules) [c](rules.md#none)") == ["nowhere.md", "rules.md#none"]
    assert missing_paths(page, "`services/nobody.py` `services/orchestrator.py` `absent.py`") == [
        "absent.py", "services/nobody.py",
    ]  # fmt: skip


def test_each_invariant_and_rule_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "rules.md").read_text("utf-8")
    invariants, rules = text.partition("## Rules\n")[::2]
    for part, count in ((invariants, 8), (rules, 12)):
        items = re.split(r"^(\d+)\. ", part, flags=re.MULTILINE)[1:]
        assert [int(number) for number in items[::2]] == list(range(1, count + 1))
        for number, item in zip(items[::2], items[1::2], strict=True):
            assert TEST.search(item), f"{number}: no test"
    for file, name in TEST.findall(text):
        assert file in where(name), f"{name} is not in {file} but in {where(name)}"


def test_each_defence_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    table = text.partition("| Asset | Attack | Defence | Test |\n|---|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()]
    assert len(rows) > 20
    for row in rows:
        named = SPAN.findall(row[3])
        assert len(row) == 4, row
        assert named, row
        assert [name for name in named if not (ROOT / name).exists() and not where(name)] == [], row


def test_comments_cite_rules_that_exist() -> None:
    cited = set()
    for folder in ("api", "services", "repositories", "models", "utils"):
        for path in (ROOT / folder).rglob("*.py"):
            cited |= {int(number) for number in re.findall(r"docs/rules\.md, rule (\d+)", path.read_text("utf-8"))}
    assert cited
    assert cited <= set(range(1, 13))


def test_each_room_has_its_line() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("\n## Folders\n")[2].partition("\n## ")[0]
    lines = set(re.findall(r"^\| `([\w/]+)/` ", table, re.MULTILINE))
    inner = [ROOT / "api", ROOT / "services", ROOT / "services" / "rtsp_capture"]
    rooms = {str(path.parent.relative_to(ROOT)) for folder in inner for path in folder.glob("*/__init__.py")}
    assert rooms - {"services/rtsp_capture"} - lines == set()
    assert {line for line in lines if not (ROOT / line).is_dir()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_short(page: Path) -> None:
    text = page.read_text("utf-8")
    words = len(CODE.sub("", MADE.sub("", text)).split())
    assert words <= 1500 or (page.name in REFERENCE and "to look up" in text)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    linked = {link.partition("#")[0] for link in LINK.findall(index)}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - linked == {"README.md"}


def test_the_version_is_the_same_everywhere() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"] == VERSION
    assert f"image: trackshift-ingestion:{VERSION}\n" in (ROOT / "docker-compose.yml").read_text("utf-8")
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
