"""An ONVIF device as people have them: SOAP over HTTP (Device, Media, Media2) and WS-Discovery by UDP. Also hostile ones.

`with OnvifDevice() as device:` in a thread of its own, on an address of 127/8 that no other device has.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import os
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

PORT = 3702
GROUP = "239.255.255.250"
_SOAP = "http://www.w3.org/2003/05/soap-envelope"
_hosts = itertools.count(1)


def _envelope(body: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="{_SOAP}" xmlns:ter="http://www.onvif.org/ver10/error" '
        'xmlns:tds="http://www.onvif.org/ver10/device/wsdl" xmlns:trt="http://www.onvif.org/ver10/media/wsdl" '
        'xmlns:tr2="http://www.onvif.org/ver20/media/wsdl" xmlns:tt="http://www.onvif.org/ver10/schema">'
        f"<s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def _fault(code: str) -> bytes:
    return _envelope(
        f"<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>ter:{code}</s:Value></s:Subcode></s:Code>"
        '<s:Reason><s:Text xml:lang="en">no</s:Text></s:Reason></s:Fault>'
    )


@dataclass
class Stream:
    token: str
    encoding: str
    width: int
    height: int
    url: str
    snapshot: str


@dataclass
class Behaviour:
    """What a test may change while the device runs."""

    media2: bool = True
    login: str = "token"  # token, digest (HTTP), none
    clock: timedelta = timedelta(0)  # the device's clock minus ours
    all_by_login: bool = False  # the time, too
    nonce_uses: int = 1_000_000  # HTTP requests for which a nonce is good
    tolerance: float = 30.0  # seconds that a login's time may be off by the device's clock
    service_host: str | None = None  # what the device says its services' host is
    answer: bytes | None = None  # instead of every SOAP answer
    redirect: str | None = None
    delay: float = 0.0  # seconds before each answer
    drip: bool = False  # one byte every tenth of a second, for ever
    xaddrs: str | None = None  # what a ProbeMatch names
    match: bytes | None = None  # instead of a ProbeMatches
    copies: int = 1  # datagrams for each probe
    scopes: str = (
        "onvif://www.onvif.org/type/video_encoder onvif://www.onvif.org/name/Pit%20lane%20entry "
        "onvif://www.onvif.org/hardware/P3245-LV onvif://www.onvif.org/Profile/Streaming"
    )
    types: str = "dn:NetworkVideoTransmitter tds:Device"


@dataclass
class OnvifDevice:
    username: str = "admin"
    password: str = "p@ss/w:rd"
    streams: list[Stream] = field(default_factory=list)
    behaviour: Behaviour = field(default_factory=Behaviour)
    host: str = ""
    requests: list[str] = field(default_factory=list)  # names of SOAP operations, in the order in which they came
    seen: list[str] = field(default_factory=list)  # whole requests, headers first
    probes: int = 0

    def __enter__(self) -> Self:
        self._nonce, self._used = "abc", 0
        number = next(_hosts)
        pid = os.getpid()
        self.host = self.host or f"127.{10 + pid % 100}.{pid // 200 % 250}.{number}"
        self._http = ThreadingHTTPServer((self.host, 0), _handler(self))
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((self.host, PORT))
        self._group = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._group.bind((GROUP, PORT))
        member = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton("127.0.0.1"))
        with contextlib.suppress(OSError):
            self._group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        self._stopping = False
        self._threads = [threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)]
        self._threads += [
            threading.Thread(target=self._listen, args=(one,), daemon=True) for one in (self._udp, self._group)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._http.shutdown()
        self._http.server_close()
        for thread in self._threads[1:]:
            thread.join()
        self._udp.close()
        self._group.close()

    @property
    def xaddr(self) -> str:
        return f"http://{self.host}:{self.port}/onvif/device_service"

    # -- WS-Discovery ------------------------------------------------------------------------------------------

    def _listen(self, on: socket.socket) -> None:
        on.settimeout(0.05)
        while not self._stopping:
            try:
                data, sender = on.recvfrom(65536)
            except OSError:
                continue
            self.probes += 1
            found = re.search(rb"MessageID>([^<]+)<", data)
            for copy in range(self.behaviour.copies):
                answer = self.behaviour.match or self._match(found[1].decode() if found else "", copy)
                with contextlib.suppress(OSError):
                    self._udp.sendto(answer, sender)

    def _match(self, relates_to: str, copy: int) -> bytes:
        behaviour = self.behaviour
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><e:Envelope xmlns:e="{_SOAP}" '
            'xmlns:w="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
            'xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery" '
            'xmlns:dn="http://www.onvif.org/ver10/network/wsdl" xmlns:tds="http://www.onvif.org/ver10/device/wsdl">'
            f"<e:Header><w:MessageID>uuid:{copy}</w:MessageID><w:RelatesTo>{relates_to}</w:RelatesTo></e:Header><e:Body>"
            f"<d:ProbeMatches><d:ProbeMatch><w:EndpointReference><w:Address>urn:uuid:{self.host}</w:Address>"
            f"</w:EndpointReference><d:Types>{behaviour.types}</d:Types><d:Scopes>{behaviour.scopes}</d:Scopes>"
            f"<d:XAddrs>{behaviour.xaddrs if behaviour.xaddrs is not None else self.xaddr}</d:XAddrs>"
            "<d:MetadataVersion>1</d:MetadataVersion></d:ProbeMatch></d:ProbeMatches></e:Body></e:Envelope>"
        ).encode()

    # -- SOAP --------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        return datetime.now(UTC) + self.behaviour.clock

    def _token_holds(self, text: str) -> bool:
        """As the WS-Security UsernameToken profile 1.0 checks it."""
        parts = [re.search(rf"<wsse:{name}(?: [^>]*)?>([^<]*)<", text) for name in ("Username", "Password", "Nonce")]
        created = re.search(r"<wsu:Created>([^<]*)<", text)
        if not all(parts) or created is None:
            return False
        user, digest, nonce = (part[1] for part in parts if part is not None)
        at = datetime.strptime(created[1], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        if abs((at - self.now()).total_seconds()) > self.behaviour.tolerance:
            return False
        wanted = hashlib.sha1(base64.b64decode(nonce) + created[1].encode() + self.password.encode()).digest()
        return user == self.username and base64.b64decode(digest) == wanted

    def _digest_holds(self, header: str, target: str) -> bool:
        fields = dict(re.findall(r'(\w+)="?([^",]*)"?', header.partition(" ")[2]))
        nonce, self._used = self._nonce, self._used + 1
        if self._used > self.behaviour.nonce_uses:
            self._nonce, self._used = f"n{len(self.requests)}", 0
            return False
        if fields.get("username") != self.username or fields.get("nonce") != nonce or fields.get("uri") != target:
            return False

        def md5(text: str) -> str:
            return hashlib.md5(text.encode()).hexdigest()

        inner = f"{nonce}:{fields.get('nc')}:{fields.get('cnonce')}:auth"
        wanted = md5(f"{md5(f'{self.username}:cam:{self.password}')}:{inner}:{md5(f'POST:{target}')}")
        return fields.get("response") == wanted

    def answer(self, text: str, authorization: str, target: str) -> tuple[int, bytes, dict[str, str]]:
        operation = re.search(r"<s:Body><(\w+)", text)
        name = operation[1] if operation else ""
        self.requests.append(name)
        behaviour = self.behaviour
        if behaviour.redirect is not None:
            return 302, b"", {"Location": behaviour.redirect}
        if behaviour.answer is not None:
            return 200, behaviour.answer, {}
        if name != "GetSystemDateAndTime" or behaviour.all_by_login:
            if behaviour.login == "digest" and not self._digest_holds(authorization, target):
                stale = ", stale=true" if authorization else ""
                return (
                    401,
                    b"",
                    {"WWW-Authenticate": f'Digest realm="cam", nonce="{self._nonce}", qop="auth", algorithm=MD5{stale}'},
                )
            if behaviour.login == "token" and not self._token_holds(text):
                return 400, _fault("NotAuthorized"), {}
        made = getattr(self, f"_{name}", None)
        body = made(text, target) if made is not None else None
        return (500, _fault("ActionNotSupported"), {}) if body is None else (200, _envelope(body), {})

    def _GetSystemDateAndTime(self, _: str, __: str) -> str:
        now = self.now()
        return (
            "<tds:GetSystemDateAndTimeResponse><tds:SystemDateAndTime><tt:DateTimeType>NTP</tt:DateTimeType><tt:UTCDateTime>"
            f"<tt:Time><tt:Hour>{now.hour}</tt:Hour><tt:Minute>{now.minute}</tt:Minute><tt:Second>{now.second}</tt:Second>"
            f"</tt:Time><tt:Date><tt:Year>{now.year}</tt:Year><tt:Month>{now.month}</tt:Month><tt:Day>{now.day}</tt:Day>"
            "</tt:Date></tt:UTCDateTime></tds:SystemDateAndTime></tds:GetSystemDateAndTimeResponse>"
        )

    def _base(self) -> str:
        return f"http://{self.behaviour.service_host or f'{self.host}:{self.port}'}/onvif"

    def _GetServices(self, _: str, __: str) -> str | None:
        if not self.behaviour.media2:
            return None  # an older device: it knows GetCapabilities only
        found = "".join(
            f"<tds:Service><tds:Namespace>http://www.onvif.org/{name}/wsdl</tds:Namespace>"
            f"<tds:XAddr>{self._base()}/{path}</tds:XAddr></tds:Service>"
            for name, path in (("ver10/device", "device_service"), ("ver10/media", "media"), ("ver20/media", "media2"))
        )
        return f"<tds:GetServicesResponse>{found}</tds:GetServicesResponse>"

    def _GetCapabilities(self, _: str, __: str) -> str:
        return (
            f"<tds:GetCapabilitiesResponse><tds:Capabilities><tt:Media><tt:XAddr>{self._base()}/media</tt:XAddr></tt:Media>"
            "</tds:Capabilities></tds:GetCapabilitiesResponse>"
        )

    def _GetScopes(self, _: str, __: str) -> str:
        scopes = "".join(
            f"<tds:Scopes><tt:ScopeDef>Fixed</tt:ScopeDef><tt:ScopeItem>{one}</tt:ScopeItem></tds:Scopes>"
            for one in self.behaviour.scopes.split()
        )
        return f"<tds:GetScopesResponse>{scopes}</tds:GetScopesResponse>"

    def _GetDeviceInformation(self, _: str, __: str) -> str:
        return (
            "<tds:GetDeviceInformationResponse><tds:Manufacturer>Acme</tds:Manufacturer><tds:Model>A-1</tds:Model>"
            "</tds:GetDeviceInformationResponse>"
        )

    def _GetProfiles(self, _: str, target: str) -> str:
        two = target.endswith("media2")
        ns = "tr2" if two else "trt"
        found = ""
        for one in self.streams:
            if one.encoding == "H265" and not two:
                continue  # the first Media service has no word for it
            encoder = (
                f"<tt:Encoding>{one.encoding}</tt:Encoding><tt:Resolution><tt:Width>{one.width}</tt:Width>"
                f"<tt:Height>{one.height}</tt:Height></tt:Resolution><tt:RateControl><tt:FrameRateLimit>25"
                "</tt:FrameRateLimit><tt:BitrateLimit>4096</tt:BitrateLimit></tt:RateControl>"
            )
            inner = (
                f"<tr2:Configurations><tr2:VideoEncoder>{encoder}</tr2:VideoEncoder></tr2:Configurations>"
                if two
                else f"<tt:VideoEncoderConfiguration>{encoder}</tt:VideoEncoderConfiguration>"
            )
            name = "tr2:Name" if two else "tt:Name"
            named = f"<{name}>{one.token} name</{name}>"
            found += f'<{ns}:Profiles token="{one.token}" fixed="true">{named}{inner}</{ns}:Profiles>'
        return f"<{ns}:GetProfilesResponse>{found}</{ns}:GetProfilesResponse>"

    def _stream(self, text: str) -> Stream:
        token = re.search(r"ProfileToken>([^<]+)<", text)
        assert token is not None
        return next(one for one in self.streams if one.token == token[1])

    def _GetStreamUri(self, text: str, target: str) -> str:
        url = self._stream(text).url.replace("&", "&amp;")
        if target.endswith("media2"):
            return f"<tr2:GetStreamUriResponse><tr2:Uri>{url}</tr2:Uri></tr2:GetStreamUriResponse>"
        return f"<trt:GetStreamUriResponse><trt:MediaUri><tt:Uri>{url}</tt:Uri></trt:MediaUri></trt:GetStreamUriResponse>"

    def _GetSnapshotUri(self, text: str, target: str) -> str:
        url = self._stream(text).snapshot.replace("&", "&amp;")
        if target.endswith("media2"):
            return f"<tr2:GetSnapshotUriResponse><tr2:Uri>{url}</tr2:Uri></tr2:GetSnapshotUriResponse>"
        inner = f"<trt:MediaUri><tt:Uri>{url}</tt:Uri></trt:MediaUri>"
        return f"<trt:GetSnapshotUriResponse>{inner}</trt:GetSnapshotUriResponse>"


def _handler(device: OnvifDevice) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            device.seen.append(f"{self.path}\n{self.headers}\n{text}")
            status, body, headers = device.answer(text, self.headers.get("Authorization", ""), self.path)
            time.sleep(device.behaviour.delay)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if not device.behaviour.drip:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                if device.behaviour.drip:
                    self.close_connection = True
                    while not device._stopping:
                        self.wfile.write(b" ")
                        time.sleep(0.1)
                else:
                    self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class Listener:
    """Counts connections; nobody shall come."""

    def __init__(self, host: str) -> None:
        self._socket = socket.create_server((host, 0))
        self._socket.setblocking(False)
        self.host, self.port = host, self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def connections(self) -> int:
        """So far, those that were ended again included."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.accept()[0].close()
                count += 1
        return count
