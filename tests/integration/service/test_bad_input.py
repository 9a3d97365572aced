"""What no client sends, in every place that takes something, for every operation of /openapi.json: a 4xx of the contract,
none of it echoed, never a 5xx, and soon. schemathesis says what breaks the schema; this is what breaks parsers."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, Service, running
from tests.kits.service_support import jpeg, own_database, service_on

MARK = "ZQXMARKZQX"
SOON = 2.0  # seconds; what backtracks or is quadratic takes many more
BOOTSTRAP = "bootstrap-secret-of-the-bad-input-tests-01"
UUID = "01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d4e"
IDS = {"camera_id": "cam-1", "key_id": "0" * 12, "name": "none.js"}
NEVER_VALID_JSON: list[bytes] = [
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b'{"%s": NaN}', b'{"%s": 1e400}', b'{"%s": [-1e999]}',
    b'{"%s": "\\u0000"}', b'{"\\u0000%s": 1}', b'{"%s": "\\ud800"}', b'{"\\udfff%s": 1}', b'{"%s": "\\ud800\\ud800"}',
    b'{"%s": 1, "%s": 2}', b'{"%s": {"a": 1, "a": 1}}', b'{"%s": ' + b"9" * 5000 + b"}", b"[" * 65 + b"]" * 65,
    b"[" * 100_000, b'{"a":' * 10_000, b'{"%s": "\xff"}', b'{"%s": "\xc0\x80"}', b'{"%s": "\xed\xa0\x80"}', b'{"%s"',
    b'\xef\xbb\xbf{"%s": 1}', b"{'%s': 1}", b'{"%s": 1,}', b'{"%s": 1} x', b'/* */{"%s": 1}', b'{"%s": 01}', b'{"%s": +1}',
    b'{"%s": 0x1}', b'{"%s": "\x01"}', b'{"%s": tru}', json.dumps({MARK: 1}).encode("utf-16"),
    b"{" + b",".join(b'"%d": 1' % n for n in range(1001)) + b"}", b"[" + b"1," * 25_000 + b"1]",
]  # fmt: skip
ODD_NUMBERS = [10**400, -(10**400), 2**63, -(2**63) - 1, 1e308, -1e308, 5e-324, 10**18 + 0.5]
NEVER_VALID_TEXT = ["%00", f"{MARK}%00", "%ff", f"{MARK}%FF", "%ed%a0%80", "%c0%80"]  # percent-encoded
ODD_TEXT = [
    "NaN", "1e400", "9" * 400, "-" + "9" * 400, "0x10", "1_0", "%D9%A5", "null", "[]", "%7B%7D", "%20", f"{MARK}" * 300,
    f"{MARK}%0d%0aSet-Cookie:%20a=b", f"%22%3E%3Cscript%3E{MARK}", "..%2f..%2fetc%2fpasswd", "%25s%25n",
    "2026-13-45T99:99:99Z", "9999-12-31T23:59:59.999999%2B00:00", "0001-01-01T00:00:00-23:59", f"%F0%9F%8F%8E{MARK}",
    "%E2%80%AE",
]  # fmt: skip
ODD_HEADERS: list[bytes] = [
    b"", MARK.encode() * 3000, b'"' + MARK.encode(), b"\xff\xfe\xed\xa0\x80" + MARK.encode(), b"9" * 400,
    b'a;"x,' * 10_000, b"a" + b" " * 50_000 + b"=", b'W/"' * 15_000, b"bytes=" + b"9" * 400 + b"-" + b"9" * 400,
    b"," * 50_000, b"=;" * 20_000, b"wait=1e400", b"wait=-1", b"bytes=-0", b'a="\\' * 10_000,
]  # fmt: skip
NEVER_VALID_HEADERS = [b"\x00" + MARK.encode(), b"a\x01" + MARK.encode(), b"a\x7f" + MARK.encode()]
COMMON = [
    "X-Request-ID", "Prefer", "Accept", "Range", "If-Range", "If-None-Match", "Last-Event-ID", "X-CSRF-Token",
    "X-Forwarded-For", "X-Forwarded-Proto", "Sec-Fetch-Site", "Accept-Encoding", "traceparent", "Idempotency-Key",
]  # fmt: skip
JUDGED = ["Authorization", "Cookie", "Host", "Origin", "Content-Type", "Content-Encoding", "Content-Length"]
ADMIN = (b"Authorization", f"Bearer {BOOTSTRAP}".encode())
JSON_TYPE = (b"Content-Type", b"application/json")
Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: str
    body: bytes
    seconds: float


class Client:
    """HTTP/1.1 byte by byte: no client library sends what these tests send."""

    def __init__(self, service: Service) -> None:
        self._address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
        self._socket: socket.socket | None = None
        self.asked = 0

    def ask(self, method: str, target: str, headers: list[Header], body: bytes = b"") -> Answer | None:
        """None: hung up without an answer."""
        names = {name.lower() for name, _ in headers}
        sent = [*headers] if b"host" in names else [(b"Host", b"localhost"), *headers]
        if b"content-length" not in names and (body or method not in ("GET", "DELETE")):
            sent.append((b"Content-Length", str(len(body)).encode()))
        head = b"".join(b"%s: %s\r\n" % item for item in sent)
        self.asked += 1
        began = time.monotonic()
        found = self._once(f"{method} {target} HTTP/1.1\r\n".encode() + head + b"\r\n" + body, method)
        if found is None:
            return None
        return Answer(found.status, str(found.headers), found.read(), time.monotonic() - began)

    def _once(self, data: bytes, method: str) -> HTTPResponse | None:
        for _ in range(2):  # a connection that was kept may have been closed since
            fresh = self._socket is None
            if self._socket is None:
                self._socket = socket.create_connection(self._address, timeout=20)
            try:
                self._socket.sendall(data)
                response = HTTPResponse(self._socket, method=method)
                response.begin()
            except OSError:
                self.close()
                if fresh:
                    return None
                continue
            if response.will_close:
                self.close()
            return response
        return None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    spec: dict[str, Any]

    def target(self, **values: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1]) or IDS.get(found[1], UUID), self.path)

    def parameters(self, place: str) -> list[dict[str, Any]]:
        return [item for item in self.spec.get("parameters", []) if item["in"] == place]

    @property
    def needs_credential(self) -> bool:
        return "401" in self.spec["responses"] and self.path != "/api/v1/session"

    def takes(self, kind: str) -> bool:
        return kind in self.spec.get("requestBody", {}).get("content", {})


@dataclass
class Place:
    client: Client
    operations: list[Operation]
    schemas: dict[str, Any]

    def properties(self, operation: Operation) -> list[str]:
        schema = operation.spec["requestBody"]["content"]["application/json"]["schema"]
        name = next(re.finditer(r'"#/components/schemas/(\w+)"', json.dumps(schema)))[1]
        return list(self.schemas[name].get("properties", {}))

    def example(self, operation: Operation) -> dict[str, Any]:
        content = operation.spec["requestBody"]["content"]["application/json"]
        return dict(content.get("example") or {})


@pytest_asyncio.fixture(scope="module")
async def place(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    service = service_on(
        await own_database(backends), tmp_path_factory.mktemp("service"), AUTH__MODE="keys", AUTH__BOOTSTRAP_KEY=BOOTSTRAP,
        LIMITS__FAILED_LOGINS="1000000/minute", RTSP__ALLOWED_NETWORKS='["192.0.2.0/24"]', RTSP__OPEN_TIMEOUT="0.5",
    )  # fmt: skip
    async with running(service) as http:
        document = (await http.get("/openapi.json")).json()
        operations = [
            Operation(method.upper(), path, spec)
            for path, item in document["paths"].items()
            for method, spec in item.items()
        ]
        client = Client(service)
        yield Place(client, operations, document["components"]["schemas"])
        client.close()
        assert "Traceback" not in service.text()


class Judge:
    """Collects what is wrong with the answers: all of it is told at the end."""

    def __init__(self, client: Client) -> None:
        self._client, self.wrong, self.slowest = client, list[str](), (0.0, "")

    def ask(
        self, operation: Operation, target: str, headers: list[Header], body: bytes = b"", *, refused: bool, said: object
    ) -> None:
        """`refused`: must be a 4xx. `said`: what this was, for the report."""
        where = f"{operation.method} {operation.path} {said!r:.120}"
        answer = self._client.ask(operation.method, target, headers, body)
        if answer is None:
            self.wrong.append(f"{where}: hung up")
            return
        if answer.status >= 500 and not (answer.status in (502, 503, 504) and not refused):
            self.wrong.append(f"{where}: {answer.status} {answer.body[:300]!r}")
        if refused and not 400 <= answer.status < 500:
            self.wrong.append(f"{where}: {answer.status}")
        self.slowest = max(self.slowest, (answer.seconds, where))
        if answer.seconds > SOON:
            self.wrong.append(f"{where}: took {answer.seconds:.1f} s")
        shown = answer.headers.encode() + answer.body
        if answer.status >= 400:
            try:
                problem = json.loads(answer.body)
                assert problem["status"] == answer.status
                assert problem["code"]
                problem["instance"] = ""  # the path, by contract
                shown = answer.headers.encode() + json.dumps(problem).encode()
            except (ValueError, KeyError, AssertionError, TypeError):
                self.wrong.append(f"{where}: {answer.status} is no problem: {answer.body[:200]!r}")
        if MARK.encode() in shown:
            self.wrong.append(f"{where}: echoed: {shown[:600]!r}")

    def done(self, least: int) -> None:
        print(f"the slowest answer took {self.slowest[0]:.3f} s: {self.slowest[1]}")
        assert self._client.asked >= least
        assert not self.wrong, f"{len(self.wrong)} wrong\n" + "\n".join(self.wrong[:40])


def _json(raw: bytes) -> bytes:
    return raw.replace(b"%s", MARK.encode())


def bodies(place: Place, judge: Judge) -> None:
    for operation in place.operations:
        if not operation.takes("application/json"):
            continue
        target = operation.target()
        for raw in NEVER_VALID_JSON:
            judge.ask(operation, target, [ADMIN, JSON_TYPE], _json(raw), refused=True, said=raw)
        wrong: tuple[Any, ...] = (1, "x", True, [], 1e308)
        for value in wrong:
            judge.ask(operation, target, [ADMIN, JSON_TYPE], json.dumps(value).encode(), refused=True, said=value)
        for name in place.properties(operation):
            for number in ODD_NUMBERS:
                body = json.dumps({**place.example(operation), name: number}).encode()
                judge.ask(operation, target, [ADMIN, JSON_TYPE], body, refused=False, said=(name, number))


def queries(place: Place, judge: Judge) -> None:
    for operation in place.operations:
        target = operation.target()
        names = [item["name"] for item in operation.parameters("query")]
        for name in names:
            for value in NEVER_VALID_TEXT:
                judge.ask(operation, f"{target}?{name}={value}", [ADMIN], refused=True, said=(name, value))
        for name in names:
            odd = ODD_TEXT if name != "wait" else [value for value in ODD_TEXT if not value.isdigit()]
            for value in odd:
                judge.ask(operation, f"{target}?{name}={value}", [ADMIN], refused=False, said=(name, value))
        # A name of letters is repeated in `errors`, by contract.
        for query in ("a=1&" * 101, f"%zz{MARK}=1", f"{MARK}%00=1", "%ff=1", f"%22{MARK}", f"a=1;{MARK}=2"):
            judge.ask(operation, f"{target}?{query}", [ADMIN], refused=True, said=query)


def paths(place: Place, judge: Judge) -> None:
    for operation in place.operations:
        for item in operation.parameters("path"):
            for value in NEVER_VALID_TEXT:
                judge.ask(operation, operation.target(**{item["name"]: value}), [ADMIN], refused=True, said=value)
            for value in ODD_TEXT:
                judge.ask(operation, operation.target(**{item["name"]: value}), [ADMIN], refused=False, said=value)


def headers(place: Place, judge: Judge) -> None:
    """Every value for what an operation reads, and for all headers on one of each kind; a few together for the others."""
    kinds = {"GET /api/v1/frames/{frame_id}/content", "GET /api/v1/events", "POST /api/v1/ingest/rtsp"}
    for operation in place.operations:
        target = operation.target()
        declared = [item["name"] for item in operation.parameters("header")]
        whole = f"{operation.method} {operation.path}" in kinds
        for value in ODD_HEADERS:
            for name in [*COMMON, *JUDGED] if whole else declared:
                own = [] if name == "Authorization" else [ADMIN]
                judge.ask(operation, target, [*own, (name.encode(), value)], refused=False, said=(name, value))
        for value in ODD_HEADERS[2:5]:
            together = [(name.encode(), value) for name in COMMON if name not in declared]
            judge.ask(operation, target, [ADMIN, *together], refused=False, said=value)
            judge.ask(operation, target, [(b"Cookie", b"trackshift-session=" + value)], refused=False, said=value)
        for value in NEVER_VALID_HEADERS:
            judge.ask(operation, target, [ADMIN, (b"X", value)], refused=True, said=value)
        for value in (b"Bearer %s", b"Basic %s", b"Bearer \xff%s", b"Bearer", b"Bearer tsk_" + b"0" * 12 + b"_%s"):
            value = _json(value)
            judge.ask(operation, target, [(b"Authorization", value)], refused=operation.needs_credential, said=value)


def forms(place: Place, judge: Judge) -> None:
    picture = jpeg()

    def part(disposition: bytes, value: bytes) -> bytes:
        return b"--B\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + value + b"\r\n"

    file = part(b'name="files"; filename="a.jpg"', picture)
    camera = part(b'name="camera_id"', b"cam-1")
    mark = MARK.encode()
    bad: list[tuple[bytes, ...]] = [(camera, file, part(b'name="meta"', _json(raw))) for raw in NEVER_VALID_JSON]
    bad += [
        (part(b'name="camera_id"', text), file) for text in (b"\x00", b"\xff", mark + b"\x00", b"\xed\xa0\x80", mark + b"\n")
    ]
    bad += [(camera, file, part(b'name="source_type"', text)) for text in (b"\x00", b"\xff", mark, b"NaN", b"9" * 400)]
    bad += [(camera, file, part(name, b"x")) for name in (
        b'name="\x00"', b'name="\xff' + mark + b'"', b'name="' + mark * 300 + b'"', b'name="meta"; filename="' + mark + b'"',
        b"name", b'name="', mark,
    )]  # fmt: skip
    names = (b'"\x00"', b'"a.exe"', b'""')  # the name of a refused file is told, by contract
    bad += [(camera, part(b'name="files"; filename=' + name, picture)) for name in names]
    for operation in place.operations:
        if operation.takes("multipart/form-data"):
            for parts in bad:
                kind = (b"Content-Type", b"multipart/form-data; boundary=B")
                body = b"".join(parts) + b"--B--\r\n"
                judge.ask(operation, operation.target(), [ADMIN, kind], body, refused=True, said=parts[-1][:200])
            plain = b"multipart/form-data"
            odd = (plain + b"; boundary=\xff", plain + b'; boundary="' + mark, mark * 5000, plain + b"; a=b" * 999)
            for text in odd:
                judge.ask(operation, operation.target(), [ADMIN, (b"Content-Type", text)], b"x", refused=True, said=text)


def cursors(place: Place, judge: Judge) -> None:
    """Of lists and of events: made by nobody, cut, of another key."""
    inside = [b"", b"\x00", b"\xff\xfe", b"{}", b'{"a": NaN}', b"[" * 1000, b"9" * 400, MARK.encode() * 50, b"\x80\x04K"]
    texts = [base64.urlsafe_b64encode(raw).decode().rstrip("=") for raw in inside]
    texts += [f"{text}.{text}" for text in texts] + [f"{UUID}.{'9' * 30}", f"{UUID}.-1", f"{UUID}.NaN", UUID, "a" * 2048]
    for operation in place.operations:
        for name in ("cursor", "after"):
            if name in [item["name"] for item in operation.parameters("query")]:
                for text in filter(None, texts):
                    judge.ask(operation, f"{operation.target()}?{name}={text}", [ADMIN], refused=True, said=text)


@pytest.fixture
def judge(place: Place) -> Judge:
    return Judge(place.client)


@pytest.mark.parametrize(
    ("sweep", "least"), [(bodies, 1000), (queries, 1000), (paths, 500), (headers, 1500), (forms, 40), (cursors, 100)]
)
def test_every_operation_refuses_what_no_client_sends(place: Place, judge: Judge, sweep: Any, least: int) -> None:
    before, began = place.client.asked, time.monotonic()
    sweep(place, judge)
    print(f"{sweep.__name__}: {place.client.asked - before} requests in {time.monotonic() - began:.1f} s")
    judge.done(before + least)
