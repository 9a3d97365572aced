"""docs/api.md and the OpenAPI document say the same: operations, parameters, fields, codes."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from api.http.errors import TABLE
from api.http.openapi import COMMON, schema_of
from config import Settings
from main import create_app
from utils.exceptions import CaptureCode

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text("utf-8")
OPERATION = re.compile(r"^### (GET|POST|PATCH|PUT|DELETE) (/\S*)$", re.MULTILINE)
# All words in code spans and in JSON: where a field is named.
NAMES = set(
    re.findall(
        r"[a-z_0-9]+",
        " ".join(
            re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
            + re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
        ),
    )
)
# What "Errors" says of all operations with a body or an idempotency key.
GENERAL = {
    *COMMON,
    "request_timeout",
    "payload_too_large",
    "unsupported_media_type",
    "request_in_progress",
    "idempotency_key_reused",
}
# Of every operation that is not open (docs/security.md).
ACCESS = {"unauthorized", "forbidden", "rate_limited"}
UNUSED = {"not_implemented"}  # in the table of statuses, and answered by nothing so far


@cache
def document() -> dict[str, Any]:
    return schema_of(create_app(Settings(_env_file=None)))


@cache
def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, item in document()["paths"].items()
        for method, operation in item.items()
        if method in ("get", "post", "put", "patch", "delete")
    }


@cache
def sections() -> dict[tuple[str, str], str]:
    """The text of each operation, by method and path."""
    parts = OPERATION.split(PAGE)[1:]
    return {
        (method, path): re.split(r"^##? ", text, flags=re.MULTILINE)[0]
        for method, path, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def codes(text: str) -> set[str]:
    """What stands in code spans."""
    return set(re.findall(r"`([a-z_]+)`", text))


def documented(operation: dict[str, Any]) -> set[str]:
    """The error codes of one operation: the examples of its problems."""
    contents = (answer.get("content", {}).get("application/problem+json", {}) for answer in operation["responses"].values())
    return {code for content in contents for code in content.get("examples", {})}


def fields(schema: Any, seen: frozenset[str] = frozenset()) -> set[str]:
    """Names of all properties of a schema, through references."""
    if isinstance(schema, list):
        return set().union(*(fields(item, seen) for item in schema))
    if not isinstance(schema, dict):
        return set()
    found = set()
    if name := schema.get("$ref", "").rpartition("/")[2]:
        found |= set() if name in seen else fields(document()["components"]["schemas"][name], seen | {name})
    for key, value in schema.items():
        if key == "properties":
            found |= value.keys() | fields(list(value.values()), seen)
        elif key in ("items", "anyOf", "oneOf", "allOf"):
            found |= fields(value, seen)
    return found


# The tests of each operation are listed by the page: the document takes a second, and each worker collects this file.
def test_the_page_has_each_operation_and_no_other() -> None:
    assert set(sections()) == set(operations())


@pytest.mark.parametrize("which", sorted(sections()), ids=" ".join)
def test_an_operation_names_its_parameters_and_codes(which: tuple[str, str]) -> None:
    operation, text = operations()[which], sections()[which]
    parameters = {item["name"] for item in operation.get("parameters", []) if item["in"] == "query"}
    assert parameters - codes(text) == set()
    own = documented(operation) - GENERAL - ACCESS - UNUSED
    if "[capture errors]" in text or "(#capture-errors)" in text:
        own -= set(get_args(CaptureCode))
    assert own - codes(text) == set()


@pytest.mark.parametrize("which", sorted(sections()), ids=" ".join)
def test_an_operation_has_a_line_that_calls_it(which: tuple[str, str]) -> None:
    method, path = which
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", sections()[which], re.DOTALL)).replace("\\\n", " ")
    lines = lines.replace("$SESSION", "$API/ingest/upload/sessions/$ID").replace("$API", "/api/v1").replace("$SERVICE", "")
    called = re.sub(r"\\?\{[^}]*\}", r"[^/\\s?]+", path)
    verb = "" if method == "GET" else rf"-X {method} "
    assert re.search(rf"curl -\w+ {verb}\"?{called}(?=[\s?\")]|$)", lines), lines


@pytest.mark.parametrize("which", sorted(sections()), ids=" ".join)
def test_every_field_is_on_the_page(which: tuple[str, str]) -> None:
    operation = operations()[which]
    bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
    schemas = [content.get("schema") for body in bodies for content in body.get("content", {}).values()]
    assert fields(schemas) - NAMES == set()


def test_the_table_of_errors_has_each_code_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.*) \|$", PAGE.partition("\n## Errors\n")[2], re.MULTILINE)
    told = {code: int(status) for status, text in rows for code in codes(text)}
    assert {code: TABLE[code][0] for code in told} == told
    capture = set(get_args(CaptureCode))
    assert TABLE.keys() - told.keys() - capture <= UNUSED
    assert capture - codes(PAGE.partition("\n### Capture errors\n")[2]) == set()


def test_values_of_enumerations_are_on_the_page() -> None:
    names = ("CaptureMode", "IngestionStatus", "Sampling", "TimestampSource", "Transport", "SourceType")
    values = {value for name in names for value in document()["components"]["schemas"][name]["enum"]}
    assert values - set(re.findall(r"[a-z_]+", PAGE)) == set()
