"""Uploads: bounds, order of errors, what reaches the orchestrator, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api.http.admission import UploadMemory
from api.http.multipart import clean_filename
from tests.unit.api.support import KNOWN, Api, problem
from tests.unit.api.support import api as api
from utils.exceptions import InvalidImage

PATH = "/api/v1/ingest/upload"
JPEG = ("files", ("car.jpg", b"\xff\xd8" + b"j" * 500, "image/jpeg"))
FORM = {"Content-Type": "multipart/form-data; boundary=B"}


def part(name: str, value: bytes, filename: str | None = None, extra: str = "") -> bytes:
    file = f'; filename="{filename}"' if filename is not None else ""
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{extra}\r\n'.encode() + value + b"\r\n"


CAMERA = part("camera_id", b"cam-1")
FILE = part("files", b"x" * 10, "a.jpg")
END = b"--B--\r\n"


async def raw(api: Api, *parts: bytes, **kwargs: Any) -> Any:
    return await api("POST", PATH, content=b"".join(parts), headers=FORM, **kwargs)


def names(found: dict[str, Any]) -> list[tuple[str, str]]:
    assert {error["in"] for error in found["errors"]} == {"form"}
    return [(error["name"], error["code"]) for error in found["errors"]]


async def test_an_upload_arrives_as_sent(api: Api) -> None:
    files = [JPEG, ("files", ("../../etc/pass\x01wd.PNG", b"", "Image/PNG; q=1")), ("files", ("c.tif", b"z" * 3_000_000))]
    data = {"camera_id": "cam-1", "meta": '{"session": "FP1"}', "source_type": "upload"}
    answer = await api("POST", PATH, files=files, data=data)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/api/v1/ingest/status/{KNOWN}"
    form, received, contents = api.orchestrator.uploads[0]
    assert (form.camera_id, form.meta.session) == ("cam-1", "FP1")
    assert contents == [JPEG[1][1], b"", b"z" * 3_000_000]
    assert [(f.index, f.filename, f.size, f.too_large) for f in received] == [
        (0, "car.jpg", 502, False), (1, received[1].filename, 0, False), (2, "c.tif", 3_000_000, False),
    ]  # fmt: skip
    assert received[1].filename is not None
    assert "/" not in received[1].filename
    assert [f.declared_type for f in received][:2] == ["image/jpeg", "image/png"]
    assert [f.sha256 for f in received] == [hashlib.sha256(c).hexdigest() for c in contents]
    assert api.temp_folders == []


async def test_the_temporary_folder_is_private_and_always_removed(api: Api) -> None:
    api.state.upload_memory = UploadMemory(0)
    modes: list[int] = []
    ingest = api.orchestrator.ingest_upload

    async def looking(form: Any, files: Any, operation: Any) -> Any:
        modes.append(files[0].path.parent.stat().st_mode & 0o777)
        assert files[0].path.name == "0"
        return await ingest(form, files, operation)

    api.orchestrator.ingest_upload = looking  # type: ignore[method-assign]
    rejected = [{"index": 0, "filename": "a.jpg", "code": "invalid_image", "detail": "no", "retryable": False}]
    api.orchestrator.error = InvalidImage(details={"rejected": rejected, "secret": 1})
    found = problem(await raw(api, CAMERA, FILE, END), 422, "invalid_image")
    assert found["rejected"] == rejected
    assert "secret" not in found
    assert modes == [0o700]
    assert api.temp_folders == []


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_any_chunking_gives_the_same(api: Api, size: int) -> None:
    content = b"\r\n--B\r-\n--" + bytes(range(256)) * 8 + b"\r\n--"
    body = CAMERA + part("files", content, "a.jpg") + part("meta", b"") + END

    async def stream() -> AsyncIterator[bytes]:
        for position in range(0, len(body), size):
            yield body[position : position + size]

    answer = await api("POST", PATH, content=stream(), headers=FORM)
    assert answer.status_code == 201, answer.text
    assert api.orchestrator.uploads[0][2] == [content]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("filename*=utf-8''w%C3%A4gen%2044.jpg", "wägen 44.jpg"),
        ("filename*=UTF-8'de'a%2Fb.jpg", "b.jpg"),
        ("filename*=iso-8859-1''w%E4gen.jpg", "wägen.jpg"),
        ("filename*=\"utf-8''a.jpg\"", "a.jpg"),
        ("filename=\"plain.jpg\"; filename*=utf-8''other.jpg", "plain.jpg"),
    ],
)
async def test_a_name_in_the_extended_form(api: Api, written: str, name: str) -> None:
    """RFC 7578 forbids it and clients send it: taken where there is no plain one."""
    head = f'--B\r\nContent-Disposition: form-data; name="files"; {written}\r\n\r\n'
    answer = await raw(api, CAMERA, head.encode() + b"x\r\n", END)
    assert answer.status_code == 201, answer.text
    assert [file.filename for file in api.orchestrator.uploads[0][1]] == [name]


@pytest.mark.parametrize("size", [1, 5, 10_000])
@pytest.mark.parametrize(
    "preamble", [b"This is a multi-part message in MIME format.\r\n", b"\r\n", b"--A\r\n-- B\r\n\r\n", b"x" * 9000 + b"\r\n"]
)
async def test_a_preamble_is_passed_over(api: Api, preamble: bytes, size: int) -> None:
    body = preamble + CAMERA + FILE + END + b"an epilogue"

    async def stream() -> AsyncIterator[bytes]:
        for position in range(0, len(body), size):
            yield body[position : position + size]

    answer = await api("POST", PATH, content=stream(), headers=FORM)
    assert answer.status_code == 201, answer.text
    assert api.orchestrator.uploads[0][2] == [b"x" * 10]


async def test_a_preamble_is_bounded(api: Api) -> None:
    problem(await raw(api, b"x" * 70_000, b"\r\n", CAMERA, FILE, END), 400, "malformed_request")
    problem(await raw(api, b"no boundary in it"), 400, "malformed_request")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([FILE], [("camera_id", "missing")]),
        ([CAMERA], [("files", "missing")]),
        ([part("camera_id", b""), FILE], [("camera_id", "string_too_short")]),
        ([part("camera_id", b"../x"), FILE], [("camera_id", "string_pattern_mismatch")]),
        ([part("camera_id", b"a\n"), FILE], [("camera_id", "string_pattern_mismatch")]),
        ([CAMERA, CAMERA, FILE], [("camera_id", "repeated")]),
        ([CAMERA, part("meta", b"{}"), part("meta", b"{}"), FILE], [("meta", "repeated")]),
        ([CAMERA, part("nope", b"1"), FILE], [("nope", "extra_forbidden")]),
        ([CAMERA, part("nope", b"1", "n.jpg"), FILE], [("nope", "extra_forbidden")]),
        ([CAMERA, part("files[]", b"1", "n.jpg")], [("", "extra_forbidden"), ("files", "missing")]),
        ([CAMERA, part("files", b"1")], [("files", "filename")]),
        ([CAMERA, part("files", b"1", "")], [("files", "filename")]),
        ([CAMERA, part("files", b"1", "a/..")], [("files", "filename")]),
        ([part("camera_id", b"cam", "cam.txt"), FILE], [("camera_id", "not_a_field")]),
        ([CAMERA, part("source_type", b"rtsp"), FILE], [("source_type", "literal_error")]),
        ([CAMERA, part("source_type", b""), FILE], [("source_type", "literal_error")]),
        ([CAMERA, part("meta", b"[]"), FILE], [("meta", "model_type")]),
        ([CAMERA, part("meta", b'{"color": 1}'), FILE], [("color", "extra_forbidden")]),
        ([CAMERA, part("meta", b'{"extra": {"x": "' + b"y" * 17_000 + b'"}}'), FILE], [("meta", "meta_too_large")]),
        ([CAMERA, part("meta", b" " * 70_000), FILE], [("meta", "too_long")]),
        ([END], [("files", "missing"), ("camera_id", "missing")]),
    ],
)
async def test_form_errors(api: Api, parts: list[bytes], expected: list[tuple[str, str]]) -> None:
    found = problem(await raw(api, *parts, b"" if parts == [END] else END), 422, "invalid_request")
    assert names(found) == expected
    assert not api.orchestrator.uploads
    assert api.temp_folders == []


async def test_form_errors_come_before_file_errors_in_any_order(tmp_path: Path) -> None:
    api = Api(tmp_path, UPLOAD={"MAX_BATCH_SIZE": 2, "MAX_FILE_SIZE": 1024})
    many = [part("files", b"x" * 2000, f"{n}.jpg") for n in range(4)]
    small = [part("files", b"x", f"{n}.jpg") for n in range(4)]
    problem(await raw(api, *small, CAMERA, END), 413, "too_many_files")
    problem(await raw(api, CAMERA, *many, END), 413, "too_many_files")
    assert names(problem(await raw(api, *many, END), 422, "invalid_request")) == [("camera_id", "missing")]
    found = problem(await raw(api, *small, part("camera_id", b"?"), part("x", b""), END), 422, "invalid_request")
    assert ("camera_id", "string_pattern_mismatch") in names(found)
    assert not api.orchestrator.uploads


async def test_a_file_over_the_limit_is_marked_not_kept(tmp_path: Path) -> None:
    api = Api(tmp_path, UPLOAD={"MAX_FILE_SIZE": 1024})
    parts = [part("files", b"x" * n, f"{n}.jpg") for n in (1024, 1025, 5)]
    assert (await raw(api, CAMERA, *parts, END)).status_code == 201
    _, received, contents = api.orchestrator.uploads[0]
    assert [f.too_large for f in received] == [False, True, False]
    assert [len(c) for c in contents] == [1024, 0, 5]


async def test_the_body_is_bounded(tmp_path: Path) -> None:
    api = Api(tmp_path, UPLOAD={"MAX_BATCH_SIZE": 1, "MAX_FILE_SIZE": 1024})
    touched = False

    async def stream() -> AsyncIterator[bytes]:
        nonlocal touched
        touched = True
        yield CAMERA + b'--B\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 65_536

    limit = 1024 + 1_048_576
    answer = await api("POST", PATH, content=stream(), headers={**FORM, "Content-Length": str(limit + 1)})
    problem(answer, 413, "payload_too_large")
    assert not touched
    problem(await api("POST", PATH, content=stream(), headers=FORM), 413, "payload_too_large")
    assert api.temp_folders == []
    flood = [part("files", b"", "a.jpg") for _ in range(200)]
    problem(await raw(api, *flood), 413, "too_many_files")
    problem(await raw(api, *[part("x", b"") for _ in range(200)]), 413, "payload_too_large")


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "application/json", "multipart/form-data", "multipart/mixed; boundary=B",
     "multipart/form-data; boundary=",
     "multipart/form-data; boundary=" + "b" * 71],
)  # fmt: skip
async def test_not_multipart_is_415_before_the_body(api: Api, kind: str | None) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    problem(
        await api("POST", PATH, content=never(), headers={"Content-Type": kind} if kind else {}),
        415,
        "unsupported_media_type",
    )


@pytest.mark.parametrize(
    "body",
    [
        CAMERA + FILE, CAMERA + FILE[:-4], b"", b"garbage", b"--X\r\n\r\n",
        b"--B\r\n\r\nno headers\r\n" + END,
        b'--B\r\nContent-Disposition: attachment; name="files"\r\n\r\nx\r\n' + END,
        b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END,
        b"--B\r\nX: " + b"h" * 10_000 + b"\r\n\r\nx\r\n" + END,
        b"--B\r\n" + b"X: 1\r\n" * 20 + b"\r\nx\r\n" + END,
        b"--B\r\n" + b'Content-Disposition: form-data; name="meta"\r\n' * 2 + b"\r\n{}\r\n" + END,
        part("camera_id", b"\xff") + FILE + END,
        CAMERA + FILE + part("meta", b"{not json") + END,
        CAMERA + FILE + part("meta", b'{"session": "a", "session": "b"}') + END,
        CAMERA + FILE + part("meta", b'{"exposure": NaN}') + END,
        CAMERA + part("files", b"eA==", "a.jpg", "Content-Transfer-Encoding: base64\r\n") + END,
    ],
)  # fmt: skip
async def test_malformed_multipart_is_400(api: Api, body: bytes) -> None:
    problem(await raw(api, body), 400, "malformed_request")
    assert api.temp_folders == []
    assert not api.orchestrator.uploads


@pytest.mark.parametrize("meta", [b"", b"  \n", b"null", b"{}"])
async def test_meta_may_be_empty(api: Api, meta: bytes) -> None:
    assert (await raw(api, CAMERA, FILE, part("meta", meta), END)).status_code == 201
    assert api.orchestrator.uploads[0][0].meta.to_json() == {}


async def test_too_many_uploads_at_once(tmp_path: Path) -> None:
    api = Api(tmp_path, UPLOAD={"MAX_CONCURRENT": 1})
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield CAMERA
        await gate.wait()
        yield FILE + END

    first = asyncio.create_task(api("POST", PATH, content=slow(), headers=FORM))
    while not api.temp_folders:
        await asyncio.sleep(0.01)
    answer = await raw(api, CAMERA, FILE, END)
    problem(answer, 503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    gate.set()
    assert (await first).status_code == 201
    assert (await raw(api, CAMERA, FILE, END)).status_code == 201


async def test_a_full_disk_is_507(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _path: usage(10, 10, -1))
        for memory in (10**6, 0):  # an upload that stays in memory, one that goes to disk
            api.state.upload_memory = UploadMemory(memory)
            assert problem(await raw(api, CAMERA, FILE, END), 507, "disk_full")["retryable"]
    with monkeypatch.context() as patch:

        def full(*_args: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("api.http.upload_folder.UploadFolder._one", full)
        api.state.upload_memory = UploadMemory(0)
        problem(await raw(api, CAMERA, FILE, END), 507, "disk_full")
    assert api.temp_folders == []
    assert (api.state.uploads.uploads, api.state.uploads.bytes.total) == (0, 0)


async def test_a_small_upload_stays_in_memory_while_there_is_room(api: Api) -> None:
    files = [CAMERA + FILE + END, CAMERA + part("files", b"y" * 9_000_000, "b.jpg") + END]
    in_memory: list[list[bool]] = []
    for memory in (10**8, 0):
        api.state.upload_memory = UploadMemory(memory)
        for body in files:
            assert (await raw(api, body)).status_code == 201
            (form, received, bodies) = api.orchestrator.uploads[-1]
            assert form.camera_id
            in_memory.append([file.data is not None for file in received])
            assert [hashlib.sha256(data).hexdigest() for data in bodies] == [file.sha256 for file in received]
            assert [len(data) for data in bodies] == [file.size for file in received]
        assert api.state.upload_memory._left == memory
    assert in_memory == [[True], [False], [False], [False]]


async def test_a_client_that_leaves_leaves_nothing(api: Api) -> None:
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": CAMERA + FILE, "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"multipart/form-data; boundary=B")], "scheme": "http", "http_version": "1.1",
        "server": ("test", 80), "client": ("test", 1), "asgi": {"version": "3.0"},
    }  # fmt: skip
    await api.app(scope, receive, send)
    assert sent == []
    assert api.temp_folders == []
    assert (api.state.uploads.uploads, api.state.uploads.bytes.total) == (0, 0)


async def test_a_cancelled_upload_leaves_nothing(api: Api) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield CAMERA + part("files", b"x" * 2_000_000, "a.jpg")
        await asyncio.sleep(30)

    task = asyncio.create_task(api("POST", PATH, content=endless(), headers=FORM))
    while not [path for folder in api.temp_folders for path in folder.iterdir()]:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        if not api.temp_folders:
            break
        await asyncio.sleep(0.01)
    assert api.temp_folders == []


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (b"a.jpg", "a.jpg"), (b"C:\\pics\\a.jpg", "a.jpg"), (b"../../a.jpg", "a.jpg"), (b"a\x00b\x1f.jpg", "ab.jpg"),
        ("a\u202egpj.exe".encode(), "agpj.exe"), ("ü.jpg".encode(), "ü.jpg"), ("ü.jpg".encode("latin-1"), "ü.jpg"),
        (b"..", ""), (b"x/", ""), (b"", ""), (b" a.jpg ", "a.jpg"), (b"x" * 300 + b".jpg", "x" * 251 + ".jpg"),
        (b"x" * 300, "x" * 255),
    ],
)  # fmt: skip
def test_filenames_are_cleaned(given: bytes, shown: str) -> None:
    assert clean_filename(given) == shown
