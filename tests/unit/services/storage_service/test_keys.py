"""Keys, presigned URLs and error translation: no server needed."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from services.rtsp_capture.media.packets import CONTENT_TYPES
from services.storage_service.client import make_client, translated
from services.storage_service.keys import (
    frame_key_of,
    fresh_object_key,
    is_frame_key,
    object_key,
    thumbnail_key,
    thumbnail_keys,
)
from services.storage_service.presign import Presigner, Served, endpoint_url
from utils.disposition import inline
from utils.exceptions import ObjectMissing, RangeNotSatisfiable, StorageUnavailable
from utils.ids import new_id
from utils.logger import Throttle

FRAME = UUID("0190a0b0-0000-8000-8000-000000000001")
NOW = datetime(2026, 5, 4, 13, 30, 1, 999_999, tzinfo=UTC)


def test_a_key_has_the_utc_day_the_camera_the_frame_and_the_attempt() -> None:
    at = datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    assert (
        object_key("pit.lane_1-a", FRAME, at, "0123456789abcdef", "jpg")
        == f"frames/2025/12/31/pit.lane_1-a/{FRAME}-0123456789abcdef.jpg"
    )


def test_fresh_keys_never_repeat() -> None:
    keys = {fresh_object_key("cam", FRAME, NOW, "jpg") for _ in range(1000)}
    assert len(keys) == 1000
    assert all(re.fullmatch(rf"frames/2026/05/04/cam/{FRAME}-[0-9a-f]{{16}}\.jpg", key) for key in keys)


@pytest.mark.parametrize("camera", ["cam", "pit.lane_1-a", "a" * 100])
@pytest.mark.parametrize("ext", ["jpg", "png", "bmp", "tiff"])
def test_a_key_of_ours_is_known(camera: str, ext: str) -> None:
    assert is_frame_key(fresh_object_key(camera, FRAME, NOW, ext))


_FOLDER, _NAME = "frames/2026/05/04/cam", f"{FRAME}-0123456789abcdef.jpg"


@pytest.mark.parametrize(
    "key",
    [
        "frames/a", f"{_FOLDER}/holiday.jpg", f"{_FOLDER}/", f"{_FOLDER}/{_NAME}\n", f"{_FOLDER}/{_NAME}.bak",
        f"{_FOLDER}/{FRAME}.jpg", f"{_FOLDER}/{FRAME}-0123456789ABCDEF.jpg", f"{_FOLDER}/{FRAME}-0123456789abcdef.gif",
        f"{_FOLDER}/below/{_NAME}", f"frames/2026/5/4/cam/{_NAME}", f"frames/2026/05/04/../{_NAME}",
        f"frames/2026/05/04/c m/{_NAME}", f"old/{_FOLDER}/{_NAME}", f"staging/{FRAME}/object",
    ],
)  # fmt: skip
def test_a_key_that_this_service_could_not_have_made_is_not_ours(key: str) -> None:
    assert not is_frame_key(key)


def test_a_thumbnails_key_tells_its_frame() -> None:
    key = fresh_object_key("pit.lane_1-a", FRAME, NOW, "png")
    assert thumbnail_key(key, 320) == f"thumbnails/{key.removeprefix('frames/')}.320.jpg"
    assert {frame_key_of(one) for one in thumbnail_keys(key)} == {key}
    mine = thumbnail_key(key, 320)
    for foreign in (mine.replace("320", "321"), key, "thumbnails/a.320.jpg", f"{mine}\n"):
        assert frame_key_of(foreign) is None


@pytest.mark.parametrize("camera", [".", "..", "", "a/b", "a\n", "a" * 101, "ä", "a b"])
def test_a_camera_id_that_could_leave_its_folder_is_refused(camera: str) -> None:
    with pytest.raises(ValueError):
        fresh_object_key(camera, FRAME, NOW, "jpg")


@pytest.mark.parametrize(
    ("attempt", "ext"),
    [("x", "jpg"), ("0123456789ABCDEF", "jpg"), ("0123456789abcdef", "../x"), ("0123456789abcdef", "tif")],
)
def test_attempt_and_extension_are_checked(attempt: str, ext: str) -> None:
    with pytest.raises(ValueError):
        object_key("cam", FRAME, NOW, attempt, ext)


def test_a_time_without_offset_is_refused() -> None:
    with pytest.raises(ValueError):
        fresh_object_key("cam", FRAME, datetime(2026, 1, 1), "jpg")  # noqa: DTZ001


@pytest.mark.parametrize(
    ("endpoint", "secure", "url"),
    [
        ("minio:9000", False, "http://minio:9000"), ("minio:9000", True, "https://minio:9000"),
        ("http://minio:9000/", True, "http://minio:9000"), ("https://s3.example/store/", False, "https://s3.example/store"),
    ],
)  # fmt: skip
def test_an_endpoint_is_host_and_port_or_a_url(endpoint: str, secure: bool, url: str) -> None:
    assert endpoint_url(endpoint, secure) == url


@pytest.mark.parametrize("endpoint", ["", "ftp://x", "http://u:p@x", "http://x/?a=1", "http://"])
def test_other_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(ValueError):
        endpoint_url(endpoint, False)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:9000",
        "https://s3.example",
        "https://s3.example:443",
        "http://s3.example:80",
        "https://s3.example:8443/store",
        "http://[::1]:9000",
    ],
)
@pytest.mark.parametrize("key", ["frames/2026/05/04/cam-1/x.jpg", "a b/ü~+%.png"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"response-content-type": "image/jpeg", "response-content-disposition": 'inline; filename="a.jpg"'},
        Served("k", "image/png", inline("Bild 44 é+&=;'.png", "png")).overrides(),
    ],
)
def test_a_presigned_url_says_what_botocore_says(endpoint: str, key: str, headers: dict[str, str]) -> None:
    client = make_client(endpoint, "eu-south-1", "AKID", "se/cr+et", timeouts=(1, 1), attempts=1, connections=1)
    names = {"response-content-type": "ResponseContentType", "response-content-disposition": "ResponseContentDisposition"}
    params = {"Bucket": "frames-bucket", "Key": key} | {names[name]: value for name, value in headers.items()}
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        theirs = client.generate_presigned_url("get_object", Params=params, ExpiresIn=3600)
    ours = Presigner(endpoint, "frames-bucket", "eu-south-1", "AKID", "se/cr+et", 3600).get(key, NOW, headers)
    a, b = urlsplit(ours.url), urlsplit(theirs)
    assert (a.scheme, a.netloc, a.path) == (b.scheme, b.netloc, b.path)
    assert parse_qs(a.query) == parse_qs(b.query)
    assert ours.expires_at == datetime(2026, 5, 4, 14, 30, 1, tzinfo=UTC)


@pytest.mark.parametrize("part", [None, ("7", "MmNjNTVm/+=.x1~")])
@pytest.mark.parametrize(("at_most", "expiry"), [(10_000.0, 3600), (60.9, 60), (-5.0, 1)])
def test_a_presigned_put_says_what_botocore_says(part: tuple[str, str] | None, at_most: float, expiry: int) -> None:
    client = make_client("http://s3:9000", "eu-south-1", "AKID", "se/cr+et", timeouts=(1, 1), attempts=1, connections=1)
    params: dict[str, Any] = {"Bucket": "b", "Key": "staging/x/object", "ContentLength": 1234}
    query = {"partNumber": part[0], "uploadId": part[1]} if part else None
    if part:
        params |= {"PartNumber": int(part[0]), "UploadId": part[1]}
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        theirs = client.generate_presigned_url("upload_part" if part else "put_object", Params=params, ExpiresIn=expiry)
    ours = Presigner("http://s3:9000", "b", "eu-south-1", "AKID", "se/cr+et", 3600).put(
        "staging/x/object", NOW, 1234, at_most, query
    )
    assert parse_qs(urlsplit(ours.url).query) == parse_qs(urlsplit(theirs).query)
    assert urlsplit(ours.url).path == urlsplit(theirs).path


def test_the_signing_key_follows_the_day() -> None:
    signer = Presigner("http://x:1", "b", "us-east-1", "a", "s", 60)
    today, tomorrow = signer.get("k", NOW).url, signer.get("k", NOW + timedelta(days=1)).url
    fresh = Presigner("http://x:1", "b", "us-east-1", "a", "s", 60)
    assert tomorrow == fresh.get("k", NOW + timedelta(days=1)).url
    assert signer.get("k", NOW).url == today


def _client_error(code: str, status: int) -> ClientError:
    message = "AKIDSECRET sent StringToSign to http://minio:9000"
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "PutObject")


@pytest.mark.parametrize(
    "error",
    [
        _client_error("SlowDown", 503), _client_error("RequestTimeTooSkewed", 403), _client_error("AccessDenied", 403),
        _client_error("SignatureDoesNotMatch", 403), _client_error("NoSuchBucket", 404), _client_error("BadDigest", 400),
        _client_error("InternalError", 500), EndpointConnectionError(endpoint_url="http://u:AKIDSECRET@minio:9000"),
        ReadTimeoutError(endpoint_url="http://minio:9000"), ConnectionResetError("http://minio:9000"),
    ],
)  # fmt: skip
def test_every_failure_is_unavailable_and_says_no_more_than_its_code(
    error: Exception, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ours = translated(error, "put", Throttle(10, time.monotonic))
    assert isinstance(ours, StorageUnavailable)
    assert ours.retryable
    captured = capsys.readouterr()
    said = f"{ours} {ours.message} {ours.details} {captured.out} {captured.err} {caplog.text}"
    assert "AKIDSECRET" not in said
    assert "minio" not in said
    assert "put" in said


def test_only_a_missing_key_of_a_read_is_missing() -> None:
    throttle = Throttle(10, time.monotonic)
    assert isinstance(translated(_client_error("NoSuchKey", 404), "get", throttle), ObjectMissing)
    assert isinstance(translated(_client_error("NoSuchBucket", 404), "get", throttle), StorageUnavailable)
    assert isinstance(translated(_client_error("InvalidRange", 416), "read_range", throttle), RangeNotSatisfiable)


@pytest.mark.parametrize("kind", sorted(CONTENT_TYPES))
def test_each_kind_of_captured_picture_has_a_frame_key_that_the_sweeper_knows(kind: str) -> None:
    key = fresh_object_key("cam-1", new_id(), datetime(2026, 5, 4, tzinfo=UTC), kind)
    assert is_frame_key(key)
    assert frame_key_of(thumbnail_key(key, 320)) == key
