"""PUTs from memory: what arrives is what boto3 sends, by connections that are kept; odd servers, TLS, redirects."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from unittest import mock

import botocore.auth
import pytest
import uvloop
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from services.storage_service.put_signer import UNSIGNED, PutSigner
from tests.kits.certificates import Authority
from tests.unit.services.storage_service.test_odd_servers import digest, service, serving
from utils.exceptions import StorageUnavailable

Seen = list[tuple[str, dict[str, str], bytes]]
# Of botocore alone: who it is, its own counting of attempts, and a question whose answer nobody here waits for.
BOTOCORES = {"user-agent", "expect", "amz-sdk-invocation-id", "amz-sdk-request", "accept-encoding"}


def echoing(seen: Seen, *, checksums: bool = True) -> Any:
    """A handler that keeps what arrives."""

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen.append((f"{request.command} {request.path}", headers, body))
        told = {"x-amz-checksum-sha256": headers["x-amz-checksum-sha256"]} if checksums else {}
        return 200, {"ETag": '"x"', **told}, b""

    return answer


@pytest.mark.parametrize("checksums", [True, False], ids=["compares checksums", "knows no checksums"])
async def test_what_arrives_is_what_boto3_sends(checksums: bool) -> None:
    data = b"\xff\xd8 picture"
    arrived: list[dict[str, str]] = []
    for ours in (True, False):
        seen: Seen = []
        with serving(echoing(seen, checksums=checksums)) as endpoint:
            async with service(endpoint) as storage:
                if not ours:
                    storage._puts = None
                await storage.put("frames/2026/05/04/cam.1/a-b.jpg", data, "image/jpeg", digest(data))
        line, headers, body = seen[-1]
        assert (line, body) == (f"PUT /{storage.bucket}/frames/2026/05/04/cam.1/a-b.jpg", data)
        assert len(seen) == 1 if checksums else 2
        signed = headers.pop("authorization").split("Signature=")[0].replace(headers["host"], "")
        arrived.append({name: value for name, value in headers.items() if name not in BOTOCORES | {"host", "x-amz-date"}})
        arrived[-1]["credential"] = signed.split(", ")[0]
    assert arrived[0] == arrived[1]
    assert arrived[0]["x-amz-content-sha256"] == (UNSIGNED if checksums else digest(data))
    assert "content-md5" not in arrived[0]


@pytest.mark.parametrize("payload", [UNSIGNED, hashlib.sha256(b"x").hexdigest()])
@pytest.mark.parametrize("endpoint", ["https://s3.example.com", "http://127.0.0.1:9000", "http://[::1]:9000/behind"])
def test_the_signature_is_botocores(endpoint: str, payload: str) -> None:
    now = datetime(2026, 5, 4, 13, 30, 1, tzinfo=UTC)
    checksum = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    signer = PutSigner(endpoint, "bucket", "eu-north-1", "AKID", "secret/+key")
    head = signer.head("frames/a~b.jpg", 1, "image/jpeg", checksum, payload, now).decode().splitlines()
    ours = dict(line.split(": ", 1) for line in head[1:] if line)
    request = AWSRequest(
        "PUT", f"{endpoint}/bucket/frames/a~b.jpg",
        headers={"Content-Type": "image/jpeg", "x-amz-checksum-sha256": checksum, "X-Amz-Content-SHA256": payload},
    )  # fmt: skip
    auth = botocore.auth.S3SigV4Auth(Credentials("AKID", "secret/+key"), "s3", "eu-north-1")
    request.context["timestamp"] = ours["X-Amz-Date"]
    with (
        mock.patch("botocore.auth.get_current_datetime", return_value=now.replace(tzinfo=None)),
        mock.patch.object(auth, "payload", return_value=payload),
    ):
        auth.add_auth(request)
    assert ours["Authorization"] == request.headers["Authorization"]


@pytest.mark.parametrize("endpoint", ["https://s3.example.com", "http://[::1]:9000/behind"])
def test_the_signature_of_a_get_is_botocores(endpoint: str) -> None:
    now = datetime(2026, 5, 4, 13, 30, 1, tzinfo=UTC)
    head = PutSigner(endpoint, "bucket", "eu-north-1", "AKID", "secret/+key").head_of_get(".trackshift/log", now)
    ours = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:] if line)
    request = AWSRequest("GET", f"{endpoint}/bucket/.trackshift/log")
    request.headers["X-Amz-Content-SHA256"] = hashlib.sha256(b"").hexdigest()
    auth = botocore.auth.S3SigV4Auth(Credentials("AKID", "secret/+key"), "s3", "eu-north-1")
    with (
        mock.patch("botocore.auth.get_current_datetime", return_value=now.replace(tzinfo=None)),
        mock.patch.object(auth, "payload", return_value=hashlib.sha256(b"").hexdigest()),
    ):
        auth.add_auth(request)
    assert ours["Authorization"] == request.headers["Authorization"]


async def test_small_objects_come_by_kept_connections_and_whatever_is_odd_by_boto3() -> None:
    seen: Seen = []
    answers = [(200, {"ETag": '"x"'}, b"body"), (200, {"ETag": '"x"'}, b"again"), (503, {}, b""), (200, {}, b"by boto3")]

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        seen.append((f"{request.command} {request.path}", {k.lower(): v for k, v in request.headers.items()}, body))
        return answers[len(seen) - 1]

    with serving(answer) as endpoint:
        async with service(endpoint) as storage:
            assert [await storage.get_small("k") for _ in range(3)] == [b"body", b"again", b"by boto3"]
    assert {line for line, _, _ in seen} == {f"GET /{storage.bucket}/k"}
    assert ["Boto3" in headers.get("user-agent", "") for _, headers, _ in seen] == [False, False, False, True]


async def test_connections_are_kept_and_one_that_the_server_closed_is_made_again() -> None:
    peers: list[int] = []
    seen: Seen = []

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        peers.append(request.client_address[1])
        if len(peers) == 2:
            request.close_connection = True  # without saying so
        found: tuple[int, dict[str, str], bytes] = echoing(seen)(request, body)
        return found

    with serving(answer) as endpoint:
        async with service(endpoint, MAX_ATTEMPTS=1) as storage:
            for n in range(3):
                await storage.put(f"k{n}", b"x", "image/jpeg", digest(b"x"))
    assert peers[0] == peers[1] != peers[2]
    assert len(seen) == 3


async def test_as_many_connections_as_threads_and_all_are_served() -> None:
    now, most, lock = 0, 0, threading.Lock()
    seen: Seen = []
    together = threading.Barrier(2, timeout=5)

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait()
        with lock:
            now -= 1
        found: tuple[int, dict[str, str], bytes] = echoing(seen)(request, body)
        return found

    with serving(answer) as endpoint:
        async with service(endpoint, THREADS=2, READ_TIMEOUT=5) as storage:
            await asyncio.gather(*(storage.put(f"k{n}", b"x", "image/jpeg", digest(b"x")) for n in range(6)))
    assert most == 2
    assert len(seen) == 6


async def test_a_store_that_is_elsewhere_is_boto3s_to_find() -> None:
    agents: list[str] = []

    def answer(request: BaseHTTPRequestHandler, _: bytes) -> tuple[int, dict[str, str], bytes]:
        agents.append(str(request.headers.get("User-Agent")))
        if len(agents) == 1:
            return 400, {}, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-north-1</Region></Error>"
        return 200, {"x-amz-checksum-sha256": str(request.headers["x-amz-checksum-sha256"])}, b""

    with serving(answer) as endpoint:
        async with service(endpoint) as storage:
            await storage.put("a", b"x", "image/jpeg", digest(b"x"))
    assert "Boto" in agents[-1]


async def test_a_refusal_before_the_whole_body_was_sent_is_told() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 43\r\n\r\n<Error><Code>AccessDenied</Code></Error>   ")
        await asyncio.sleep(1)
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server, service(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as storage:
        data = os.urandom(8_000_000)
        with pytest.raises(StorageUnavailable) as caught:
            await storage.put("a", data, "image/jpeg", digest(data))
    assert caught.value.details == {"operation": "put", "error_code": "AccessDenied"}


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (b"", "ConnectionClosedError"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "ConnectionClosedError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "ConnectionClosedError"),
    ],
)
async def test_what_is_no_answer_is_unavailable(script: bytes, code: str) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(script)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server, service(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as storage:
        with pytest.raises(StorageUnavailable) as caught:
            await storage.put("a", b"x", "image/jpeg", digest(b"x"))
    assert caught.value.details == {"operation": "put", "error_code": code}


async def test_a_server_of_http_1_0_and_one_that_says_100_first() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        sum_ = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"x-amz-checksum"))
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.0 200 OK\r\n" + sum_ + b"\r\n\r\n")
        await reader.readexactly(1)
        writer.close()

    server = await asyncio.start_server(old, "127.0.0.1", 0)
    async with server, service(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as storage:
        await storage.put("a", b"x", "image/jpeg", digest(b"x"))


@pytest.mark.parametrize("proxied", [True, False])
async def test_by_a_proxy_boto3_goes(monkeypatch: pytest.MonkeyPatch, proxied: bool) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "" if proxied else "127.0.0.1")
    async with service("127.0.0.1:1") as storage:
        assert (storage._puts is None) is proxied


async def test_tls_is_verified_by_the_bundle_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Seen = []
    authority = Authority(tmp_path)
    with serving(echoing(seen), tls=authority.context("127.0.0.1")) as address:
        endpoint = f"https://{address}"
        async with service(endpoint, CONNECT_TIMEOUT=2) as storage:
            with pytest.raises(StorageUnavailable) as caught:
                await storage.put("a", b"x", "image/jpeg", digest(b"x"))
        assert caught.value.details["error_code"] == "EndpointConnectionError"
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
        async with service(endpoint, CONNECT_TIMEOUT=2) as storage:
            await storage.put("a", b"x", "image/jpeg", digest(b"x"))
        async with service(endpoint.replace("127.0.0.1", "localhost"), CONNECT_TIMEOUT=2) as storage:
            with pytest.raises(StorageUnavailable):  # not the name in the certificate
                await storage.put("a", b"x", "image/jpeg", digest(b"x"))
    assert len(seen) == 1


def test_on_uvloop_as_the_service_runs() -> None:
    async def twice(endpoint: str, data: bytes) -> None:
        async with service(endpoint, READ_TIMEOUT=5) as storage:
            for _ in range(2):
                await storage.put("a", data, "image/jpeg", digest(data))

    seen: Seen = []
    with serving(echoing(seen)) as endpoint:
        for data in (b"x", os.urandom(3_000_000)):
            uvloop.run(twice(endpoint, data))
            assert [body for _, _, body in seen[-2:]] == [data, data]
