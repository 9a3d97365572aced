"""Secrets that are unique texts, and the search for them in whatever a run has left."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import asyncpg
import boto3
import httpx
import psutil

from config import DbSettings
from tests.conftest import Backends, Service

SEALED = {"rtsp_url", "fingerprint"}  # columns that rest encrypted
_URL = re.compile(r'https?://[^"\s\\]+')


def canary(name: str) -> str:
    """With characters that URLs, JSON and shells write differently."""
    return f"canary+{name}/{secrets.token_urlsafe(24)}@&="


def spellings(secret: str) -> set[str]:
    """Plain, percent-encoded, and each of these in base64 at each of the three alignments."""
    found = {secret, quote(secret, safe="")}
    for form in (secret, quote(secret, safe="")):
        for shift in range(3):
            whole = base64.b64encode(b"x" * shift + form.encode()).decode()
            found.add(whole[4 if shift else 0 : len(whole) // 4 * 4 - 4])
    return {form for form in found | {item.replace("+", "-").replace("/", "_") for item in found} if len(form) > 8}


def holds(text: str, secret: str) -> bool:
    """Whether a text has a secret, spelled in any of these ways; of percent-encoding also any part, once or twice."""
    readings = (text, unquote(text), unquote(unquote(text)))
    return any(form in reading for reading in readings for form in spellings(secret))


def signatures(text: str) -> set[str]:
    """Of presigned URLs in an answer: who has one has the object."""
    queries = [parse_qs(urlsplit(url.replace("\\u0026", "&")).query) for url in _URL.findall(text)]
    found = {value for query in queries for value in query.get("X-Amz-Signature", [])}
    return {value for value in found if re.fullmatch("[0-9a-f]{64}", value)}  # examples have "..."


class Canaries:
    """Secrets by name, and what was told to clients. `told` may hold presigned URLs, the other places may not."""

    def __init__(self, **known: str) -> None:
        self.secrets = dict(known)
        self.told: list[str] = []

    def new(self, name: str) -> str:
        self.secrets[name] = canary(name)
        return self.secrets[name]

    def heard(self, answer: httpx.Response) -> httpx.Response:
        """Keeps an answer to be searched."""
        self.told.append(answer.text + json.dumps(dict(answer.headers)))
        return answer

    def found(self, places: dict[str, str]) -> list[str]:
        """Which secret is where: never what it is."""
        hits = [
            f"{name} in {place}"
            for place, text in {**places, "answers": "\n".join(self.told)}.items()
            for name, secret in self.secrets.items()
            if holds(text, secret)
        ]
        signed = signatures("\n".join(self.told))
        assert signed, "no presigned URL was told: nothing to look for"
        return hits + [
            f"a presigned signature in {place}" for place, text in places.items() if any(item in text for item in signed)
        ]


async def dump(db: DbSettings) -> str:
    """Every row of every table, the encrypted columns aside."""
    connection = await asyncpg.connect(
        host=db.HOST, port=db.PORT, user=db.USER, database=db.NAME, password=db.PASSWORD.get_secret_value() or None
    )
    try:
        parts = []
        for (table,) in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            rows = [json.loads(row[0]) for row in await connection.fetch(f'SELECT to_jsonb(t) FROM "{table}" AS t')]
            parts += [json.dumps({name: value for name, value in row.items() if name not in SEALED}) for row in rows]
        return "\n".join(parts)
    finally:
        await connection.close()


def objects(backends: Backends) -> str:
    """Keys and metadata of everything in the bucket."""
    endpoint = backends.storage.ENDPOINT
    s3: Any = boto3.client(
        "s3", endpoint_url=endpoint if "://" in endpoint else f"http://{endpoint}", region_name="us-east-1",
        aws_access_key_id=backends.storage.ACCESS_KEY.get_secret_value(),
        aws_secret_access_key=backends.storage.SECRET_KEY.get_secret_value(),
    )  # fmt: skip
    bucket = backends.storage.BUCKET_NAME
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return "\n".join(key + json.dumps(s3.head_object(Bucket=bucket, Key=key), default=str) for key in keys)


def arguments(*processes: psutil.Process) -> str:
    """The command lines of processes and of their children, as `ps` shows them to everybody."""
    family: Iterable[psutil.Process] = [each for one in processes for each in (one, *one.children(recursive=True))]
    return "\n".join(" ".join(process.cmdline()) for process in family)


def process_of(service: Service) -> psutil.Process:
    assert service.process is not None
    return psutil.Process(service.process.pid)
