"""SOAP 1.2 as ONVIF devices speak it: envelopes, logins, faults.

Logins: the UsernameToken of WS-Security with a digest (ONVIF Core Specification, section 5.9.4), whose time is the device's
own; where the device answers 401, HTTP Digest (RFC 7616), once. The password itself is never sent.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from xml.etree.ElementTree import Element  # a type
from xml.sax.saxutils import escape  # escapes only

from services.cameras.onvif.http_post import HttpAnswer, post
from services.cameras.onvif.safe_xml import BadXml, child, parse, text
from services.rtsp_capture.connection.camera_address import AddressPolicy, CameraAddress
from services.rtsp_capture.connection.rtsp.login import Login
from utils.exceptions import CaptureFailure, NotOnvif

_ENVELOPE = "http://www.w3.org/2003/05/soap-envelope"
_WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
_WSU = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
_DIGEST = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0#PasswordDigest"
_BASE64 = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0#Base64Binary"
_NOT_AUTHORIZED = ("notauthorized", "failedauthentication", "invalidsecurity", "invalidsecuritytoken")
_SMALL = 4_096  # bytes that are parsed on the event loop: at most 3 ms, however many elements they are
_REFUSED = "The device refused the user name or the password."
_ASKS = "The device asks for a login."


class Fault(Exception):
    """The device's refusal of one operation: it does not know it, or not here."""


def security_header(username: str, password: str, created: datetime, nonce: bytes) -> str:
    """A UsernameToken; `created`: by the device's clock."""
    at = created.strftime("%Y-%m-%dT%H:%M:%SZ")
    # SHA-1 is what WS-Security's UsernameToken profile 1.0 asks for.
    digest = base64.b64encode(hashlib.sha1(nonce + at.encode() + password.encode(), usedforsecurity=False).digest()).decode()
    return (
        f'<wsse:Security xmlns:wsse="{_WSSE}" xmlns:wsu="{_WSU}" s:mustUnderstand="1"><wsse:UsernameToken>'
        f'<wsse:Username>{escape(username)}</wsse:Username><wsse:Password Type="{_DIGEST}">{digest}</wsse:Password>'
        f'<wsse:Nonce EncodingType="{_BASE64}">{base64.b64encode(nonce).decode()}</wsse:Nonce>'
        f"<wsu:Created>{at}</wsu:Created></wsse:UsernameToken></wsse:Security>"
    )


def envelope(body: str, header: str = "") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="{_ENVELOPE}">'
        f"<s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


class SoapClient:
    """Calls to one device. Every one goes to the host that it was made with: a login is told to no other."""

    def __init__(
        self, device: CameraAddress, policy: AddressPolicy, login: tuple[str, str] | None, timeout: float, *,
        tls_verify: bool, now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        """`timeout`: seconds for each answer."""
        self._device, self._policy, self._timeout, self._tls_verify, self._now = device, policy, timeout, tls_verify, now
        self._login = login
        self._http_login = Login(*login) if login else None
        self._by_http = False  # the device wants HTTP Digest
        self.offset = timedelta(0)  # the device's clock minus ours

    async def call(self, body: str, *, at: CameraAddress | None = None, anonymous: bool = False) -> Element:
        """The answer's element below Body. `at`: another service of the device, of which port and path count.

        Raises Fault, NotOnvif, CaptureFailure: unauthorized_camera, forbidden_camera, and a connection's codes.
        """
        to = self._device if at is None else replace(self._device, port=at.port, target=at.target, scheme=at.scheme)
        answer = await self._post(to, body, anonymous)
        if answer.status == 401 and self._http_login is not None and not anonymous:
            # For the first time, or with a nonce that has gone stale. Basic would send the password itself.
            offered = [value for value in answer.all("www-authenticate") if value.lower().startswith("digest")]
            if self._http_login.challenged(offered):
                self._by_http = True
                answer = await self._post(to, body, anonymous)
        if answer.status == 401:
            raise CaptureFailure("unauthorized_camera", _REFUSED if self._login else _ASKS)
        if self._by_http and self._http_login is not None:
            self._http_login.went_through()
        return await self._element(answer)

    async def _post(self, to: CameraAddress, body: str, anonymous: bool) -> HttpAnswer:
        header, headers = "", [("Content-Type", "application/soap+xml; charset=utf-8")]
        if self._by_http and self._http_login is not None and not anonymous:
            headers.append(("Authorization", self._http_login.authorization("POST", to.target) or ""))
        elif self._login is not None and not anonymous:
            header = security_header(*self._login, self._now() + self.offset, os.urandom(16))
        return await post(to, self._policy, envelope(body, header), headers, self._timeout, tls_verify=self._tls_verify)

    async def _element(self, answer: HttpAnswer) -> Element:
        try:
            size = len(answer.body)
            root = parse(answer.body) if size <= _SMALL else await asyncio.to_thread(parse, answer.body)
        except BadXml:
            if answer.status == 403:
                raise CaptureFailure("forbidden_camera", "The device does not let this user do it.") from None
            raise NotOnvif("What answers there does not speak SOAP.") from None
        found = child(root, "Body")
        if root.tag != "Envelope" or found is None or not len(found):
            raise NotOnvif("What answers there does not speak SOAP.")
        if found[0].tag == "Fault":
            raise self._fault(found[0])
        return found[0]

    def _fault(self, fault: Element) -> Exception:
        codes, at = [], child(fault, "Code")
        while at is not None:  # a code, and ever finer ones in it
            codes.append((text(at, "Value") or "").rpartition(":")[2].lower())
            at = child(at, "Subcode")
        if any(code in _NOT_AUTHORIZED for code in codes):
            return CaptureFailure("unauthorized_camera", _REFUSED if self._login else _ASKS)
        return Fault()
