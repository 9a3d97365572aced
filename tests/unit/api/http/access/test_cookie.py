"""The browser session's cookie: its name and marks by TLS, and which requests it counts for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from starlette.requests import Request
from starlette.responses import Response

from api.http.access.cookie import clear_cookie, cookie_of, csrf_holds, csrf_token, set_cookie


def request(scheme: str, peer: str = "192.0.2.1", **headers: str) -> Request:
    settings = SimpleNamespace(API=SimpleNamespace(TRUSTED_PROXIES=["10.0.0.0/8"]))
    app = SimpleNamespace(state=SimpleNamespace(trackshift=SimpleNamespace(settings=settings)))
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "scheme": scheme, "client": (peer, 1), "headers": raw, "app": app})


@pytest.mark.parametrize(
    ("asked", "secure"),
    [
        (request("https"), True), (request("http"), False), (request("http", "10.0.0.1", x_forwarded_proto="https"), True),
        (request("http", x_forwarded_proto="https"), False),
    ],
)  # fmt: skip
def test_over_tls_no_other_host_and_no_plain_page_can_set_it(asked: Request, secure: bool) -> None:
    response = Response()
    set_cookie(asked, response, "value", 60)
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("__Host-trackshift-session=value;" if secure else "trackshift-session=value;")
    assert ("Secure" in cookie) is secure
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Max-Age=60"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    clear_cookie(asked, response)
    assert "Max-Age=0" in response.headers.getlist("set-cookie")[1]


def test_what_another_page_sends_does_not_count() -> None:
    for site, counts in (("same-origin", True), ("none", True), ("cross-site", False), ("same-site", False), ("X", True)):
        asked = request("http", cookie="trackshift-session=value", sec_fetch_site=site)
        assert (cookie_of(asked) == "value") is counts, site
    assert cookie_of(request("https", cookie="trackshift-session=value")) is None  # set over plain HTTP, by anybody
    assert cookie_of(request("https", cookie="__Host-trackshift-session=value")) == "value"


def test_the_token_is_the_sessions_own() -> None:
    assert csrf_holds(request("http", x_csrf_token=csrf_token("value")), "value")
    for wrong in ("", "value", csrf_token("other"), "ü"):
        assert not csrf_holds(request("http", x_csrf_token=wrong), "value")
    assert not csrf_holds(request("http"), "value")
