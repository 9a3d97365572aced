"""How the console's files are served, and what they may not hold."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path

import pytest

from api.console.pages import console_files
from tests.unit.api.support import Api
from tests.unit.api.support import api as api

STATIC = Path(__file__).resolve().parents[4] / "api" / "console" / "static"
PAGE = (STATIC / "index.html").read_bytes()
MOST = 400_000  # bytes of all files


@pytest.mark.parametrize(
    "path", ["/console/", "/console/cameras", "/console/pairs/0190?tab=a&tab=b", "/console/no/such/view"]
)
async def test_every_address_is_the_page(api: Api, path: str) -> None:
    answer = await api("GET", path)
    assert (answer.status_code, answer.content) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


async def test_the_root_leads_to_the_console(api: Api) -> None:
    assert (await api("GET", "/")).headers["location"] == "/console/"
    assert (await api("GET", "/console")).headers["location"] == "/console/"


async def test_the_policy_allows_nothing_inline_and_nobody_else(api: Api) -> None:
    rules = dict(
        part.strip().split(" ", 1) for part in (await api("GET", "/console/")).headers["content-security-policy"].split(";")
    )
    assert (rules["default-src"], rules["script-src"], rules["style-src"]) == ("'none'", "'self'", "'self'")
    assert (rules["frame-ancestors"], rules["base-uri"], rules["form-action"]) == ("'none'",) * 3
    assert rules["connect-src"] == "'self' http://store.example:9000"  # the origin, whatever is below it
    assert "unsafe" not in str(rules)


async def test_files_have_etags_and_are_compressed(api: Api) -> None:
    for accepted in ("identity", "gzip"):
        answer = await api("GET", "/console/static/app.js", headers={"Accept-Encoding": accepted})
        assert answer.content == (STATIC / "app.js").read_bytes()
        assert answer.headers.get("content-encoding", "identity") == accepted
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        etag = answer.headers["etag"]
        again = await api("GET", "/console/static/app.js", headers={"Accept-Encoding": accepted, "If-None-Match": etag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip;q=0", False), ("gzip; q=0.000, br", False), ("*;q=0.5, gzip;q=0", False), ("*;q=0", False), ("", False),
        ("br", False), ("gzip;q=nan", False), ("not-gzip", False),
        ("br, GZIP;q=0.1", True), ("*", True), ("identity, gzip;q=1.0", True), ("gzip, *;q=0", True),
    ],
)  # fmt: skip
async def test_files_are_compressed_for_those_who_take_it(api: Api, accepted: str, packed: bool) -> None:
    answer = await api("GET", "/console/static/app.js", headers={"Accept-Encoding": accepted})
    assert answer.headers.get("content-encoding") == ("gzip" if packed else None)
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.content == (STATIC / "app.js").read_bytes()


async def test_it_can_be_switched_off(tmp_path: Path) -> None:
    off = Api(tmp_path, CONSOLE={"ENABLED": False})
    for path in ("/", "/console", "/console/", "/console/static/app.js"):
        assert (await off("GET", path)).status_code == 404


@pytest.mark.parametrize("path", ["nothing.js", "../pages.py", "%2e%2e/pages.py", "lib", "lib/", "index.html/"])
async def test_what_is_no_file_is_404(api: Api, path: str) -> None:
    answer = await api("GET", f"/console/static/{path}")
    assert answer.status_code == 404 or answer.content == PAGE  # httpx takes `..` away


def test_all_files_together_are_small() -> None:
    assert sum(len(file.data) for file in console_files().values()) <= MOST
    for name, file in console_files().items():
        assert file.data == (STATIC / name).read_bytes()
        assert file.etag == f'"{hashlib.sha256(file.data).hexdigest()[:32]}"'
        assert file.packed is None or gzip.decompress(file.packed) == file.data


def test_no_file_makes_markup_of_texts_or_styles_inline() -> None:
    """htm escapes; what goes around it would not. Inline styles and scripts are refused by the policy."""
    for name, file in console_files().items():
        if name.startswith("vendor/"):
            continue
        text = file.data.decode()
        assert not re.search(
            r"innerHTML|outerHTML|dangerouslySetInnerHTML|insertAdjacentHTML|document\.write|\beval\(", text
        ), name
        if name.endswith(".html"):
            assert not re.search(r"\sstyle=|\son[a-z]+=|<style|<script(?![^>]*\ssrc=)", text), name
        assert not re.search(r"""https?://(?!www\.w3\.org/)""", text), name


def test_every_import_is_a_file() -> None:
    for name, file in console_files().items():
        if not name.endswith(".js") or name.startswith("vendor/"):
            continue
        for target in re.findall(r"""[\w}]\s+from\s+'([^']+)'""", file.data.decode()):
            assert (STATIC / name).parent.joinpath(target).resolve().is_file(), f"{name} imports {target}"


def test_what_a_file_exports_or_imports_is_used() -> None:
    own = {name: file.data.decode() for name, file in console_files().items() if name.endswith(".js")}
    own = {name: text for name, text in own.items() if not name.startswith("vendor/")}
    for name, text in own.items():
        others = "".join(each for other, each in own.items() if other != name)
        for made in re.findall(r"^export (?:async )?(?:const|function|class) (\w+)", text, re.MULTILINE):
            assert re.search(rf"\b{made}\b", others), f"{name} exports {made}, which nobody imports"
        for names in re.findall(r"^import \{([^}]*)\} from", text, re.MULTILINE):
            for taken in (part.split(" as ")[-1].strip() for part in names.split(",")):
                assert len(re.findall(rf"\b{taken}\b", text)) > 1, f"{name} imports {taken}, and does not use it"


def test_dark_changes_colours_and_nothing_else() -> None:
    """So that whoever has looked at all of a view in light need only look at its colours in dark (tests/kits/console.py)."""
    sheet = (STATIC / "style.css").read_text("utf-8")
    (dark,) = re.findall(r"@media \(prefers-color-scheme: dark\) \{\n(.*?)\n\}\n", sheet, re.DOTALL)
    (inside,) = re.findall(r"^\s*:root \{([^{}]*)\}\s*$", dark)
    (light,) = re.findall(r"^:root \{([^{}]*)\}", sheet, re.MULTILINE)
    values = dict(line.strip().rstrip(";").split(": ", 1) for line in inside.strip().splitlines())
    assert values.keys() <= {line.strip().split(":")[0] for line in light.strip().splitlines()}
    assert all(re.fullmatch(r"#[0-9a-f]{6}|none", value) for value in values.values()), values
    assert sheet.count("prefers-color-scheme") == 1
    files = (file.data for name, file in console_files().items() if not name.startswith("vendor/") and name != "style.css")
    assert not any(b"prefers-color-scheme" in data for data in files)
