"""Writes .env.example and docs/configuration.md from config.Settings. `--check`: exits 1 when they differ.

python -m docs.generate [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from config import Settings

ROOT = Path(__file__).resolve().parent.parent
ENV_EXAMPLE = ROOT / ".env.example"
CONFIGURATION = ROOT / "docs" / "configuration.md"

# Defaults that depend on the machine: the files must not.
COMPUTED = {"RTSP__DECODE_THREADS": "the number of cores, at least 2"}

TITLES = {
    "": "Top",
    "API": "API: the HTTP server",
    "DB": "DB: PostgreSQL",
    "STORAGE": "STORAGE: the S3 object store",
    "REDIS": "REDIS: optional, limits of all processes together",
    "RTSP": "RTSP: cameras and captures",
    "SPOOL": "SPOOL: captured frames that wait on disk for the store or the database",
    "UPLOAD": "UPLOAD: images that clients send",
    "QUALITY": "QUALITY: whether pictures are fit to be compared",
    "EVENTS": "EVENTS: the event log at /api/v1/events",
    "SWEEPER": "SWEEPER: objects without rows, rows without objects",
    "RETENTION": "RETENTION: how long frames are kept",
    "WORKERS": "WORKERS: processes that capture (docs/processes.md)",
    "LOG": "LOG: log lines on standard error",
    "AUTH": "AUTH: who may call (docs/security.md)",
    "CONSOLE": "CONSOLE: the page",
    "LIMITS": "LIMITS: how much one caller may ask for",
    "AUDIT": "AUDIT: who did what",
    "SECRETS": "SECRETS: keys of stored camera URLs",
    "METRICS": "METRICS: what /metrics tells of single cameras",
}

INTRO = """\
# Settings

All settings: a page to look up. Terms: [glossary](glossary.md). Generated from `config.py` by `make docs`; a test fails when
this page or `.env.example` differs from it.

A setting is an environment variable, or a line of `.env` in the folder that the service is started in; the environment
has precedence. `__` stands between group and name. Lists are JSON: `UPLOAD__ALLOWED_EXTENSIONS=["jpg","png"]`. A comment
stands on a line of its own. A value out of bounds, or an unknown name in a group, prevents the start with a message that
names the setting and does not show the value. Secrets are marked; they appear in no log line, answer or error.

Without any setting the service runs on its embedded PostgreSQL and S3 server under `DATA_DIR`, for development.
With `ENVIRONMENT=production` it refuses to start, and names every reason at once, when

- `DB__HOST` or `STORAGE__ENDPOINT` is empty (an embedded part),
- `DB__PASSWORD`, `STORAGE__ACCESS_KEY` or `STORAGE__SECRET_KEY` is empty or a well-known default
  (a PostgreSQL socket folder in `DB__HOST` needs no password),
- `DB__SSL` is `prefer`, which goes on without TLS when the server offers none: `verify-full` or `require`; `disable` says
  that the network is yours alone,
- `STORAGE__ENDPOINT` or `STORAGE__PUBLIC_ENDPOINT` is http, unless `STORAGE__ALLOW_HTTP=true` says the same,
- `SECRETS__KEYS` is empty,
- `API__CORS_ORIGINS` is `["*"]` together with `API__CORS_CREDENTIALS=true`,
- `AUTH__MODE` is `off` and `API__HOST` is not loopback.

In every environment a start is refused when `AUTH__MODE` lacks what it needs: an issuer, an audience and keys for `jwt`
and `both`, or when a secret is shorter than 32 characters.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    group: str
    name: str  # as in the environment
    default: str | None  # as it would be written in `.env`; None: unset
    bounds: str
    description: str
    secret: bool

    @property
    def shown_default(self) -> str:
        """For people: the computed ones in words, an empty text as such."""
        if self.name in COMPUTED:
            return COMPUTED[self.name]
        if self.default is None:
            return "unset"
        return f"`{self.default}`" if self.default else "empty"


def settings() -> Iterator[Setting]:
    """Every setting, in the order of config.py: the top ones first, then group by group."""
    schema = Settings.model_json_schema()
    fields = Settings.model_fields
    for name, field in fields.items():
        if not _group(field):
            yield _setting("", name, field, schema["properties"][name], schema["$defs"])
    for group, field in fields.items():
        if model := _group(field):
            properties = schema["$defs"][model.__name__]["properties"]
            for name, inner in model.model_fields.items():
                yield _setting(group, f"{group}__{name}", inner, properties[name], schema["$defs"])


def _group(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _setting(group: str, name: str, field: FieldInfo, schema: dict[str, Any], defs: dict[str, Any]) -> Setting:
    default = field.get_default(call_default_factory=True, validated_data={})
    secret = isinstance(default, SecretStr) or "SecretStr" in repr(field.annotation)
    return Setting(
        group, name, None if name in COMPUTED else _written(default), _bounds(schema, defs), field.description or "", secret
    )


def _written(value: Any) -> str | None:
    match value:
        case None:
            return None
        case SecretStr():
            return value.get_secret_value()
        case Enum():
            return str(value.value)
        case bool():
            return "true" if value else "false"
        case list():
            return json.dumps(value)
        case Path():
            return str(value) if value.is_absolute() else f"./{value}"
        case _:
            return str(value)


def _bounds(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    if "$ref" in schema:
        schema = {**defs[schema["$ref"].rsplit("/", 1)[-1]], **schema}
    if "anyOf" in schema:  # something or null
        schema = {**next(item for item in schema["anyOf"] if item.get("type") != "null"), **schema}
    kind = schema.get("type")
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{item}`" for item in schema["enum"])
    if kind == "array":
        inner = _bounds(schema["items"], defs)
        return f"list of {inner}" if schema["items"].get("enum") else "list"
    if kind == "boolean":
        return "`true`, `false`"
    parts = []
    if kind in ("integer", "number"):
        parts.append("whole" if kind == "integer" else "number")
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")):
            if key in schema:
                parts.append(f"{sign} {_number(schema[key])}")
    if "maxLength" in schema:
        parts.append(f"{schema.get('minLength', 0)} to {schema['maxLength']} characters")
    if "pattern" in schema:
        parts.append(f"`{schema['pattern']}`")
    return ", ".join(parts) or ("path" if schema.get("format") == "path" else "text")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def env_example() -> str:
    """The text of .env.example: every setting commented out at its default."""
    lines = [
        "# Copy this file to .env and uncomment what you change. Generated from config.py by `make docs`.",
        "# docs/configuration.md has the same with bounds.",
    ]
    group = None
    for item in settings():
        if item.group != group:
            group = item.group
            lines += ["", f"# ---- {TITLES[group]}"]
        note = " Secret." if item.secret else ""
        default = f" Default: {COMPUTED[item.name]}." if item.name in COMPUTED else ""
        lines += [f"# {item.description}{note}{default}", f"#{item.name}={item.default or ''}"]
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """The text of docs/configuration.md."""
    lines = [INTRO]
    group = None
    for item in settings():
        if item.group != group:
            group = item.group
            lines += [f"\n## {TITLES[group]}\n", "| name | default | values | meaning |", "|---|---|---|---|"]
        bounds = "secret" if item.secret else item.bounds.replace("|", "\\|")
        lines.append(f"| `{item.name}` | {item.shown_default} | {bounds} | {item.description.replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Writes the two files, or with --check compares them. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file differs")
    check = parser.parse_args(arguments).check
    code = 0
    for path, text in ((ENV_EXAMPLE, env_example()), (CONFIGURATION, configuration())):
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        if check:
            print(f"{path.relative_to(ROOT)} differs from config.py: run `make docs`", file=sys.stderr)
            code = 1
        else:
            path.write_text(text, "utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
