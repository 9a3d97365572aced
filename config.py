"""Settings of the service: environment variables or `.env`, `__` between group and name.

`get_settings()` is the one cached instance that the program uses; tests build `Settings(...)` themselves.
`.env.example` and `docs/configuration.md` are generated from the fields below (`make docs`): every field
says its unit, its bounds and what it is for.

Longer than 250 lines: a field says what it is for; the files that are made of them have no other source.
"""

from __future__ import annotations

import ipaddress
import os
import re
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL

VERSION = "0.1.0"  # pyproject.toml says the same
BUCKET_NAME_PATTERN = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"

DEFAULT_CREDENTIALS = frozenset({"", "admin", "changeme", "minioadmin", "password", "postgres", "secret", "trackshift"})
MIN_SECRET = 32  # characters of AUTH__BOOTSTRAP_KEY and AUTH__JWT_SECRET
LOOPBACK_NAMES = ("127.0.0.1", "::1", "localhost")
LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")
EVERY_PORT = ("1-65535",)
CAMERA_PORTS = ("80", "322", "443", "554", "1024-65535")  # RTSP's, those it is tunnelled by, and those a user may choose
PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")


_RATE = re.compile(r"[1-9][0-9]{0,14}/(?:second|minute|hour|day)")
Algorithm = Literal["RS256", "ES256", "EdDSA", "HS256"]
Format = Literal["jpg", "png", "bmp", "tiff", "heic", "webp", "avif"]
Extension = Literal["jpg", "jpeg", "png", "bmp", "tif", "tiff"]
_KINDS: dict[Extension, Format] = {"jpg": "jpg", "jpeg": "jpg", "png": "png", "bmp": "bmp", "tif": "tiff", "tiff": "tiff"}


class Environment(StrEnum):
    DEVELOPMENT = "development"
    PRODUCTION = "production"
    TEST = "test"


class Role(StrEnum):
    """What a process does: everything, or answers alone, or captures alone."""

    ALL = "all"
    API = "api"
    WORKER = "worker"


class ConfigurationError(Exception):
    """The settings do not allow a start. `reasons` names each one, all at once; no secret is in it."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = reasons
        super().__init__("; ".join(reasons))


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("not an IANA time zone name such as Europe/Rome") from error
    return name


def _network(cidr: str) -> str:
    return str(ipaddress.ip_network(cidr))


def _ports(value: object) -> str:
    """A port, or first-last."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text, re.ASCII)
    if found is None or not 1 <= int(found[1]) <= int(found[2] or found[1]) <= 65535:
        raise ValueError("not a port such as 554 or a range such as 8000-8999")
    return text


def _rate(text: str) -> str:
    if not _RATE.fullmatch(text):
        raise ValueError("not a rate such as 600/minute")
    return text


def _origin_host(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.\[\]:_-]{1,255}", name, re.ASCII):
        raise ValueError("not a host name or address")
    return name.lower()


def _fernet_key(key: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}=", key.get_secret_value(), re.ASCII):
        raise ValueError("not a Fernet key (32 bytes, base64): make one by `python -m services.commands secrets new`")
    return key


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, given: Any) -> Any:
        """`NAME=` is unset where the default is no text: an empty path would be the folder that the service starts in."""
        if not isinstance(given, dict):
            return given
        fields = cls.model_fields
        return {name: value for name, value in given.items() if value != "" or _has_text(fields.get(name))}


def _has_text(field: FieldInfo | None) -> bool:
    return field is None or (field.default is not None and field.default_factory is None)


class ApiSettings(Group):
    HOST: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in the container.")
    PORT: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    PROCESSES: int = Field(
        1,
        ge=1,
        le=64,
        description="With ROLE=api: processes behind the port, started, replaced and stopped together (docs/processes.md).",
    )
    CORS_ORIGINS: list[str] = Field(
        default_factory=list, description='JSON list of origins that browsers may call from, e.g. ["https://pit.example"].'
    )
    CORS_CREDENTIALS: bool = Field(False, description="Whether those origins may send cookies and credentials.")
    ALLOWED_HOSTS: list[Annotated[str, AfterValidator(_origin_host)]] | None = Field(
        None,
        description="JSON list of names that the Host header may have, without ports; another one is answered 403. Unset: "
        "any name while access is on; while it is off only API__HOST (for 0.0.0.0 the address that was called), localhost "
        "and loopback addresses.",
    )
    TRUSTED_PROXIES: list[Annotated[str, AfterValidator(_network)]] = Field(
        default_factory=list,
        description="JSON list of CIDRs of reverse proxies: from these, X-Forwarded-For and X-Forwarded-Proto are believed.",
    )
    SHUTDOWN_TIMEOUT: float = Field(
        20,
        ge=1,
        le=300,
        description="Seconds that a stop may take: pictures in memory are stored, captures are handed back.",
    )
    MAX_JSON_BYTES: int = Field(1_048_576, ge=1024, le=16_777_216, description="Largest JSON body, bytes.")
    BODY_TIMEOUT: float = Field(
        30,
        gt=0,
        le=3600,
        description="Seconds without a byte of its body after which a request is answered 408, and without progress of an "
        "answer after which the connection of a client that does not read is closed.",
    )
    MIN_BODY_RATE: int = Field(
        4096,
        ge=0,
        le=1_048_576,
        description="Lowest rate of a body and of an answer, bytes per second. Each begins with a credit of BODY_TIMEOUT "
        "seconds; waiting uses it up, and this many bytes give one second back. A slower body is answered 408. 0: any rate. "
        "Slower links use direct uploads, which can be resumed.",
    )
    MAX_BODY_TIME: float = Field(
        1800,
        gt=0,
        le=86_400,
        description="Longest time for a whole body, seconds; then 408. A small body has less: BODY_TIMEOUT plus its size "
        "divided by MIN_BODY_RATE.",
    )
    MAX_JSON_IN_FLIGHT: int = Field(
        67_108_864,
        ge=1_048_576,
        le=17_179_869_184,
        description="Bytes of JSON bodies in memory at once, as they arrive; more are answered 503 `overloaded`.",
    )
    MAX_UNREAD: int = Field(
        134_217_728,
        ge=1_048_576,
        le=17_179_869_184,
        description="Bytes of answers that wait in memory until clients read them. Beyond this, the connections that have "
        "waited longest are closed.",
    )
    MAX_CONNECTIONS: int = Field(
        1200,
        ge=8,
        le=100_000,
        description="Connections at once (fewer when the process may open fewer files). When one more comes, the connection "
        "that has been idle longest is closed; when all are busy, the new one is answered 503 `overloaded`.",
    )
    MAX_CONCURRENT_REQUESTS: int = Field(
        1000, ge=1, le=100_000, description="Requests served at once; more are answered 503 `overloaded`."
    )
    HEALTH_INTERVAL: float = Field(
        5, gt=0, le=60, description="Seconds between checks of PostgreSQL, the store and Redis that nobody asks for: "
        "`ingestion_dependency_up` follows them.",
    )  # fmt: skip
    IDEMPOTENCY_TTL: float = Field(
        86_400, ge=1, le=604_800, description="Seconds that an Idempotency-Key and its answer are kept."
    )
    IDEMPOTENCY_MAX_KEYS: int = Field(
        100_000,
        ge=1,
        le=100_000_000,
        description="Idempotency-Keys of one caller that are kept at once; a new one beyond that is answered 429. While "
        "access is off, all callers are one.",
    )
    IDEMPOTENCY_LEASE: float = Field(
        6,
        ge=1,
        le=300,
        description="Seconds after which a retry may run the request of an Idempotency-Key whose process died. The lease is "
        "renewed while the request runs.",
    )


class DbSettings(Group):
    HOST: str = Field("", description="PostgreSQL host, or a folder with its socket. Empty: the embedded server.")
    PORT: int = Field(5432, ge=1, le=65535, description="PostgreSQL port.")
    NAME: str = Field("trackshift", min_length=1, max_length=63, description="Database name.")
    USER: str = Field("trackshift", description="Database user.")
    PASSWORD: SecretStr = Field(SecretStr(""), description="Database password; any characters, not percent-encoded.")
    SSL: Literal["disable", "prefer", "require", "verify-full"] = Field(
        "prefer",
        description="TLS to PostgreSQL, as libpq's sslmode. Production refuses `prefer`, which goes on without TLS when the "
        "server, or somebody in between, offers none. `disable` says that the network is yours alone.",
    )
    POOL_SIZE: int = Field(
        10, ge=1, le=500, description="Connections kept open. As many more, at most, for status and lists of frames."
    )
    MAX_OVERFLOW: int = Field(20, ge=0, le=500, description="Connections beyond POOL_SIZE under load.")
    POOL_TIMEOUT: float = Field(
        5, gt=0, le=60, description="Seconds to wait for a connection while none is given back, 6 times as long while "
        "others are served; then 503.",
    )  # fmt: skip
    CONNECT_TIMEOUT: float = Field(3, gt=0, le=60, description="Seconds to open a connection.")
    STATEMENT_TIMEOUT: float = Field(10, gt=0, le=600, description="Seconds that one statement may take.")
    POOLER: Literal["none", "session", "transaction"] = Field(
        "none",
        description="What is at HOST: PostgreSQL itself (none), or a pooler such as PgBouncer, in session mode or in "
        "transaction mode (docs/pooler.md).",
    )
    DIRECT_HOST: str = Field(
        "",
        description="Behind a pooler: PostgreSQL's own address, for migrations, lease renewals, notifications, locks of "
        "background jobs, backups. Empty: all of that goes through the pooler, notifications are polled for in transaction "
        "mode.",
    )
    DIRECT_PORT: int = Field(5432, ge=1, le=65535, description="Port of DIRECT_HOST.")
    MIGRATE: Literal["start", "wait"] = Field(
        "start",
        description="Who migrates the schema: each process at its start (one does, others wait for it), or `wait`: none; "
        "a start waits 30 s for the schema that it needs, then ends. `python -m services.commands schema upgrade` makes it "
        "(docs/upgrade.md).",
    )

    @model_validator(mode="after")
    def _pooled(self) -> DbSettings:
        if self.POOLER == "none" and self.DIRECT_HOST:
            raise ValueError("DB__DIRECT_HOST is set and DB__POOLER is none: DB__HOST is PostgreSQL itself then")
        if self.POOLER != "none" and not self.HOST:
            raise ValueError(f"DB__POOLER is {self.POOLER} and DB__HOST is empty: name the pooler's host")
        if self.DIRECT_HOST and (self.DIRECT_HOST, self.DIRECT_PORT) == (self.HOST, self.PORT):
            raise ValueError("DB__DIRECT_HOST and DB__DIRECT_PORT are the pooler's own: name PostgreSQL's address")
        return self

    @property
    def direct(self) -> DbSettings:
        """Where a session can be kept: DIRECT_HOST, else what HOST offers."""
        if not self.DIRECT_HOST:
            return self
        return self.model_copy(
            update={"HOST": self.DIRECT_HOST, "PORT": self.DIRECT_PORT, "POOLER": "none", "DIRECT_HOST": ""}
        )


class StorageSettings(Group):
    ENDPOINT: str = Field("", description="S3 endpoint, host:port or URL. Empty: the embedded server.")
    PUBLIC_ENDPOINT: str = Field("", description="Endpoint that presigned URLs name, as clients reach it. Empty: ENDPOINT.")
    ACCESS_KEY: SecretStr = Field(SecretStr(""), description="Access key id.")
    SECRET_KEY: SecretStr = Field(SecretStr(""), description="Secret access key.")
    BUCKET_NAME: str = Field(
        "trackshift-frames", pattern=BUCKET_NAME_PATTERN, description="Bucket; created when it is missing."
    )
    REGION: str = Field("us-east-1", description="Region that requests are signed for.")
    SECURE: bool = Field(False, description="https when ENDPOINT is host:port without a scheme.")
    ALLOW_HTTP: bool = Field(
        False,
        description="Whether production may reach the store, or send clients to it, by http: pictures and presigned URLs "
        "can then be read on the way. Only for a network that is yours alone.",
    )
    PRESIGN_EXPIRY: int = Field(
        300,
        ge=1,
        le=604_800,
        description="Seconds that a presigned URL is valid (at most 7 days). It works that long whatever becomes of its "
        "caller's credential; whoever needs longer asks again.",
    )
    CONNECT_TIMEOUT: float = Field(2, gt=0, le=60, description="Seconds to connect.")
    READ_TIMEOUT: float = Field(5, gt=0, le=300, description="Seconds to wait for an answer.")
    MAX_ATTEMPTS: int = Field(2, ge=1, le=10, description="Attempts of one call (botocore, standard mode).")
    THREADS: int = Field(16, ge=1, le=128, description="Threads, and connections, for object store calls.")


class RedisSettings(Group):
    HOST: str = Field(
        "",
        description="Host of the Redis or Valkey in which the processes of a deployment count LIMITS__READ, WRITE, "
        "UPLOAD_BYTES and FAILED_LOGINS together. Empty: none, each process counts for itself. The service runs without it.",
    )
    PORT: int = Field(6379, ge=1, le=65535, description="Redis port.")
    DB: int = Field(0, ge=0, le=1024, description="Redis database number.")
    USER: str = Field("", description="Redis user (ACL). Empty: the default user.")
    PASSWORD: SecretStr = Field(SecretStr(""), description="Redis password.")
    TLS: bool = Field(False, description="Whether Redis is reached by TLS; its certificate and name are verified.")
    TLS_CA: Path | None = Field(
        None, description="File with the certificates (PEM) that may sign Redis's. Unset: those of this host."
    )
    ALLOW_PLAIN: bool = Field(
        False,
        description="Whether production may reach a Redis beyond loopback without TLS: its password can then be read on the "
        "way. Only for a network that is yours alone.",
    )
    TIMEOUT: float = Field(
        0.5,
        gt=0,
        le=30,
        description="Seconds that a request waits for Redis. When they have passed, or three requests in a row took a fifth "
        "of them, the process counts for itself until a health check has reached Redis in good time.",
    )


class RtspSettings(Group):
    MAX_CONCURRENT_STREAMS: int = Field(
        10, ge=1, le=1000, description="Camera connections open at once; more captures wait."
    )
    MAX_CONCURRENT_CAPTURES: int = Field(200, ge=1, le=10_000, description="Captures run at once by one process.")
    MAX_PENDING: int = Field(10_000, ge=1, le=1_000_000, description="Captures that may wait; more are answered 429.")
    FRAME_BUFFER_SIZE: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Pictures that one capture may hold while decoding or storage lags. Beyond this the oldest go to the "
        "spool; a picture that is not decoded yet is dropped.",
    )
    MAX_LAG: float = Field(
        5, ge=0.5, le=600, description="Seconds that a picture may wait to be decoded; then it is dropped as queue_full."
    )
    RING_SECONDS: float = Field(32, ge=1, le=600, description="Seconds of encoded video kept per open stream.")
    RING_BYTES: int = Field(
        67_108_864, ge=1_048_576, le=4_294_967_296, description="Bytes of encoded video kept per open stream."
    )
    RING_BUDGET: int = Field(
        1_073_741_824,
        ge=1_048_576,
        le=1_099_511_627_776,
        description="Bytes of encoded video kept by all open streams together. Beyond this, the oldest group of pictures is "
        "removed from the stream that reaches back furthest. Each stream keeps its newest group.",
    )
    PICTURE_BUDGET: int = Field(
        268_435_456,
        ge=1_048_576,
        le=1_099_511_627_776,
        description="Bytes of pictures that may wait for the object store, of all captures together. Beyond this the "
        "oldest go to the spool.",
    )
    READER: Literal["opencv", "native", "pyav"] = Field(
        "opencv",
        description="Reader for cameras that name none. Both read the connection of our own RTSP client; native without "
        "FFmpeg: streams open all at once, lost packets are known, and frames have the camera's own time (`rtcp`, `rtp`). "
        "The former value pyav means native.",
    )
    MAX_PIXELS: int = Field(
        67_108_864,
        ge=65_536,
        le=1_000_000_000,
        description="Largest picture that a decoder is given, pixels; of larger ones the camera is `unsupported_codec`.",
    )
    MAX_CLOCK_OFFSET: float = Field(
        1,
        gt=0,
        le=3600,
        description="Seconds that a camera's clock may differ from this host's clock. Frames of a camera that differs more "
        "have the host's time.",
    )
    CAPTURE_TIMEOUT: float = Field(30, ge=1, le=3600, description="Seconds that a capture waits for its first picture.")
    OPEN_TIMEOUT: float = Field(
        5, ge=0.5, le=60, description="Seconds that connecting to a camera, and each step of asking it, may take."
    )
    READ_TIMEOUT: float = Field(5, ge=0.5, le=60, description="Seconds without a packet after which a stream is reopened.")
    TLS_VERIFY: bool = Field(True, description="rtsps: whether the camera's certificate must be valid and trusted.")
    TLS_CA_FILE: Path | None = Field(
        None, description="rtsps: PEM file of certificates that are trusted beside those of the system."
    )
    RECONNECT_DELAY: float = Field(
        1, gt=0, le=60, description="First back-off after a failure, seconds (with jitter of one half)."
    )
    RECONNECT_MAX_DELAY: float = Field(30, gt=0, le=3600, description="Longest back-off, seconds.")
    LINGER: float = Field(3, ge=0, le=600, description="Seconds that a stream stays open after its last capture.")
    DEFAULT_FPS: float = Field(
        1.0, gt=0, le=30, description="Frames per second when neither the request nor the camera names a rate."
    )
    LEASE_TTL: float = Field(
        6, ge=2, le=300, description="Seconds after which another process takes over a capture whose lease was not renewed."
    )
    STORE_RETRY: float = Field(
        60,
        ge=0,
        le=3600,
        description="Seconds that a capture waits at its end until its frames in the spool are stored; then it ends and "
        "they count as `spooled`.",
    )
    MOTION_FPS: float = Field(
        5, ge=1, le=15, description="Pictures per second that event_driven captures analyse while something moves."
    )
    DECODE_THREADS: int = Field(
        default_factory=lambda: max(2, os.cpu_count() or 2),
        ge=1,
        le=128,
        description="Threads that decode and encode pictures.",
    )
    TRIAL_PROCESSES: int = Field(
        2,
        ge=1,
        le=64,
        description="Processes that decode the first pictures of a stream, until it has proved itself and threads decode it "
        "(docs/isolation.md); started when they are needed.",
    )
    TRIAL_MEMORY: int = Field(
        1_073_741_824,
        ge=268_435_456,
        le=1_099_511_627_776,
        description="Bytes that all pictures in these processes may take together, beside the processes themselves.",
    )
    TRIAL_TIMEOUT: float = Field(
        10, ge=1, le=600, description="Seconds that decoding one picture may take there; then it is `decode_failed`."
    )
    SOURCE_CHECK: float = Field(
        0.02, ge=0, le=1,
        description="Share of the pictures stored as they came (`encoding: source`) that is decoded in the background, while"
        " the machine is idle, to find out whether they are whole.",
    )  # fmt: skip
    ALLOWED_NETWORKS: list[Annotated[str, AfterValidator(_network)]] | None = Field(
        None,
        description="JSON list of CIDRs that camera URLs may point to. Unset: private networks, outside production also "
        "loopback. Link-local networks must be listed; a cloud's metadata address must be listed by itself (/32 or /128).",
    )
    ALLOWED_PORTS: list[Annotated[str, BeforeValidator(_ports)]] | None = Field(
        None,
        description='JSON list of ports that camera URLs may name, and ranges of them: [554, "8000-8999"]. Unset: in '
        "production 80, 322, 443, 554 and 1024-65535, elsewhere every port. The service's own PostgreSQL, store, Redis and "
        "API are refused on all their addresses; one of them is allowed where its address (/32 or /128) and its port are "
        "listed by themselves.",
    )


class SpoolSettings(Group):
    DIR: Path | None = Field(None, description="Folder of frames that cannot be stored yet. Unset: DATA_DIR/spool.")
    MAX_BYTES: int = Field(
        2_147_483_648, ge=1_048_576, le=1_099_511_627_776, description="Bytes that the spool may take on disk."
    )
    MAX_AGE: float = Field(604_800, ge=1, le=31_536_000, description="Seconds after which a spooled frame is too old.")
    POLICY: Literal["drop_newest", "drop_oldest"] = Field(
        "drop_newest",
        description="At MAX_BYTES, MAX_AGE or a full disk: whether new frames are dropped, or the oldest ones.",
    )
    DISK_RESERVE: int = Field(536_870_912, ge=0, description="Bytes to keep free on the spool's disk.")
    AFTER: float = Field(
        3, ge=0.1, le=60, description="Seconds that a frame may wait for store and database before it goes to the spool."
    )
    BUFFER: int = Field(
        67_108_864,
        ge=1_048_576,
        le=1_099_511_627_776,
        description="Bytes of frames that may wait for the spool's disk; more are dropped.",
    )
    REPLAY_CONCURRENCY: int = Field(4, ge=1, le=64, description="Spooled frames that are stored at once.")
    RETRY_MAX_DELAY: float = Field(
        5, ge=0.25, le=300, description="Longest pause between attempts to store spooled frames, seconds."
    )


class UploadSettings(Group):
    MAX_FILE_SIZE: int = Field(52_428_800, ge=1024, le=5_368_709_120, description="Largest file, bytes.")
    MAX_BATCH_SIZE: int = Field(10, ge=1, le=1000, description="Files in one upload.")
    MAX_PIXELS: int = Field(
        100_000_000, ge=1, le=1_000_000_000, description="Largest picture, pixels (all pages of a TIFF)."
    )
    FORMATS: list[Format] = Field(
        default_factory=lambda: list(get_args(Format)),
        description="JSON list of the kinds of pictures that are taken. A file's bytes decide its kind.",
    )
    ALLOWED_EXTENSIONS: list[Extension] | None = Field(
        None, description="JSON list of file name extensions: the kinds that they name are taken, instead of FORMATS."
    )
    TEMP_UPLOAD_DIR: Path | None = Field(None, description="Folder for files being received. Unset: DATA_DIR/tmp.")
    EXIF_TIMEZONE: Annotated[str, AfterValidator(_timezone)] = Field(
        "UTC", description="IANA time zone for EXIF times without an offset; their uncertainty is unknown."
    )
    KEEP_GPS: bool = Field(
        False,
        description="Whether `exif` of a frame, and so answers and events, tells where the picture was taken (`gps`). The "
        "stored bytes are the client's and keep what is in them.",
    )
    MAX_CONCURRENT: int = Field(
        16, ge=1, le=1000, description="Uploads received at once; more are answered 503 `overloaded`."
    )
    MAX_BYTES_IN_FLIGHT: int = Field(
        1_073_741_824,
        ge=1_048_576,
        le=1_099_511_627_776,
        description="Bytes of uploads received or stored at once, as they arrive; more are answered 503 `overloaded`, "
        "before their body is read where its length shows it. A single upload is always accepted.",
    )
    MEMORY: int = Field(
        134_217_728,
        ge=0,
        le=1_099_511_627_776,
        description="Bytes of uploads that are kept in memory at once: of those that are at most 8 MiB each, with a "
        "Content-Length. One that finds no room is written to TEMP_UPLOAD_DIR, as larger ones are.",
    )
    DIRECT_MAX_FILE_SIZE: int = Field(
        268_435_456, ge=1024, le=5_368_709_120, description="Largest file of a direct upload (upload session), bytes."
    )
    PART_SIZE: int = Field(
        8_388_608,
        ge=5_242_880,
        le=1_073_741_824,
        description="Bytes of a part of a direct upload (S3 requires at least 5 MiB). A smaller file is one PUT; a file of "
        "more than 1000 parts has larger parts.",
    )
    SESSION_TTL: int = Field(
        86_400, ge=1, le=604_800, description="Seconds that a direct upload may take; then it expires and is removed."
    )
    MAX_SESSIONS: int = Field(
        256, ge=1, le=100_000, description="Direct uploads open at once; more are answered 429 `too_many_pending`."
    )
    DECODE_PROCESSES: int = Field(
        2,
        ge=1,
        le=64,
        validation_alias=AliasChoices("DECODE_PROCESSES", "DECODE_THREADS"),
        description="Processes that check pictures, each of about 40 MB; started when they are needed. Also read as "
        "DECODE_THREADS, its former name.",
    )
    DECODE_MEMORY: int = Field(
        1_073_741_824,
        ge=134_217_728,
        le=1_099_511_627_776,
        description="Bytes that all pictures being checked may take together, beside the processes themselves. Large ones "
        "wait for room; one that alone needs more is 413 `image_too_large` (100 megapixels need 0.4 to 0.9 GB).",
    )
    DECODE_TIMEOUT: float = Field(
        60, ge=1, le=3600, description="Seconds that checking one picture may take; then it is 422 `invalid_image`."
    )
    DISK_RESERVE: int = Field(
        536_870_912,
        ge=0,
        description="Bytes to keep free where uploads are received; with less an upload is answered 507 `disk_full`.",
    )

    @property
    def formats(self) -> list[Format]:
        if self.ALLOWED_EXTENSIONS is None:
            return self.FORMATS
        return list(dict.fromkeys(_KINDS[extension] for extension in self.ALLOWED_EXTENSIONS))


class QualitySettings(Group):
    BASELINE_FRAMES: int = Field(
        100, ge=10, le=500, description="A camera's own pictures that the next ones are judged by, at most one a second."
    )
    BAD_FRAMES: int = Field(
        5, ge=1, le=10_000, description="Bad frames in a row after which a camera is bad, and others after which it is good."
    )


class EventsSettings(Group):
    RETENTION: float = Field(604_800, ge=1, le=31_622_400, description="Seconds that events are kept for consumers.")
    MAX_READERS: int = Field(
        200, ge=1, le=10_000, description="Event streams and long polls open at once; more are answered 503 `overloaded`."
    )
    MAX_SOCKETS: int = Field(
        1000, ge=1, le=50_000,
        description="WebSockets open at once (`GET /api/v1/ws`); more are answered 503 `overloaded`. They count among "
        "`API__MAX_CONNECTIONS` too.",
    )  # fmt: skip


class SweeperSettings(Group):
    INTERVAL: float = Field(21_600, ge=1, le=2_592_000, description="Seconds between two passes over the bucket.")
    GRACE: float = Field(
        86_400,
        ge=1,
        le=31_536_000,
        description="Seconds, by the object store's own clock, that an object may be without a row; then it is deleted.",
    )
    MAX_ORPHAN_SHARE: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Share of objects without rows, of all objects seen, above which a pass deletes nothing more.",
    )
    MIN_ORPHANS: int = Field(
        100, ge=1, le=1_000_000, description="With fewer objects without rows than this, MAX_ORPHAN_SHARE does not apply."
    )
    VERIFY_SAMPLE: int = Field(
        100,
        ge=0,
        le=100_000,
        description="With WORKERS__MODE=celery: frames, chosen at random, whose bytes a worker reads and compares every "
        "SWEEPER__INTERVAL. 0: none.",
    )
    MAX_OBJECTS_PER_SECOND: float = Field(2000, gt=0, le=1_000_000, description="Objects examined per second.")
    MAX_DELETES_PER_SECOND: float = Field(50, gt=0, le=100_000, description="Objects deleted per second.")


# Days: the shortest that a camera or a setting may ask for, with ENVIRONMENT=test and otherwise.
SHORTEST_RETENTION_IN_TESTS = 0.001
SHORTEST_RETENTION = 1.0


class RetentionSettings(Group):
    DAYS: float | None = Field(
        None,
        ge=SHORTEST_RETENTION_IN_TESTS,
        le=36_500,
        description="Days after which a stored frame is deleted, counted from when it was stored; at least 1 (ENVIRONMENT="
        "test: 0.001). A camera's `retention_days` has precedence. Unset: never. The first start writes DAYS, MAX_BYTES and "
        "MAX_SHARE_PER_DAY into the database, which counts; `python -m services.commands retention apply` changes it.",
    )
    MAX_BYTES: int | None = Field(
        None, ge=1, description="Bytes of all stored frames; beyond this the oldest are deleted. Unset: no limit."
    )
    MAX_SHARE_PER_DAY: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the frames that a camera has had on a day (UTC) that retention deletes on that day. Beyond it "
        "there is an alarm instead, and it goes on the next day. 1: no limit.",
    )
    INTERVAL: float = Field(
        30, ge=0.1, le=86_400, description="Seconds between two searches for frames to delete and for deletes to finish."
    )
    MAX_DELETES_PER_SECOND: float = Field(50, gt=0, le=100_000, description="Frames deleted by retention per second.")


SITE_PATTERN = r"^[a-z0-9-]{1,40}$"


class WorkersSettings(Group):
    MODE: Literal["inprocess", "celery"] = Field(
        "inprocess",
        description="How workers hear of a new capture. inprocess: by PostgreSQL's NOTIFY, and by their heartbeats. celery: "
        "also by a message of Celery over REDIS__HOST to the queue `captures.{site}` (docs/processes.md).",
    )
    SITE: str = Field(
        "default",
        pattern=SITE_PATTERN,
        description="The site that this process captures at: it runs the captures of cameras whose `site` this is, and, as "
        "`default`, those of cameras that are not registered.",
    )
    PROCESSES: int = Field(
        1,
        ge=1,
        le=64,
        description="With ROLE=worker: processes on this machine; the health of the second is at API__PORT + 1, and so on.",
    )


class LogSettings(Group):
    LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level that is logged.")
    FORMAT: Literal["json", "console"] = Field("json", description="json: one object per line; console: readable lines.")


class ConsoleSettings(Group):
    ENABLED: bool = Field(True, description="Whether this process serves the console, the page under /console/.")


class AuthSettings(Group):
    MODE: Literal["off", "keys", "jwt", "both"] = Field(
        "off",
        description="Who may call. off: anybody who reaches the port. keys: API keys. jwt: tokens of an identity provider. "
        "both: either.",
    )
    BOOTSTRAP_KEY: SecretStr = Field(
        SecretStr(""),
        description="A secret of 32 characters or more that is an administrator's credential: to make the first keys. "
        "Empty: none.",
    )
    DOCS: bool = Field(True, description="Whether /docs, /redoc and /openapi.json are open; false: any credential.")
    SESSION_TTL: int = Field(43_200, ge=60, le=2_592_000, description="Seconds that a browser session lasts at most.")
    JWT_ALGORITHMS: list[Algorithm] = Field(
        ["RS256", "ES256", "EdDSA"],
        description='JSON list of signature algorithms that are accepted; `["HS256"]` alone, with AUTH__JWT_SECRET.',
    )
    JWT_ISSUER: str = Field("", max_length=500, description="What a token's `iss` must be.")
    JWT_AUDIENCE: str = Field("", max_length=500, description="What a token's `aud` must be, or name.")
    JWT_LEEWAY: float = Field(30, ge=0, le=300, description="Seconds by which clocks may differ for `exp` and `nbf`.")
    JWT_SECRET: SecretStr = Field(SecretStr(""), description="The secret of HS256, 32 characters or more.")
    JWKS_FILE: Path | None = Field(None, description="File with the provider's public keys (JWK Set).")
    JWKS_URL: str = Field(
        "", max_length=2048, description="URL of the provider's public keys (JWK Set): https outside loopback."
    )
    JWT_CAMERAS_CLAIM: str = Field(
        "cameras",
        min_length=1,
        max_length=200,
        description="The claim with a token's cameras: a list of ids or prefixes with *.",
    )
    JWT_CAMERAS_DEFAULT: Literal["none", "all"] = Field(
        "none", description="The cameras of a token whose claim is absent, null or empty."
    )


class LimitsSettings(Group):
    READ: Annotated[str, AfterValidator(_rate)] | None = Field(
        None, description="GET and HEAD requests of one caller, e.g. `600/minute`. Unset: no limit."
    )
    WRITE: Annotated[str, AfterValidator(_rate)] | None = Field(
        None, description="Other requests of one caller, e.g. `120/minute`. Unset: no limit."
    )
    UPLOAD_BYTES: Annotated[str, AfterValidator(_rate)] | None = Field(
        None, description="Bytes of bodies of one caller, e.g. `1073741824/minute`. Unset: no limit."
    )
    FAILED_LOGINS: Annotated[str, AfterValidator(_rate)] = Field(
        "30/minute", description="Wrong credentials of one address; further ones are answered 429. A valid one passes."
    )
    SHARE: float = Field(
        0.5,
        gt=0,
        le=1,
        description="The part of each limit that one caller may use: 0.5 is half, and one is always allowed. Limits: "
        "streams and captures of a process, waiting captures, cameras that are kept open, requests being served and those "
        "that wait (Prefer: wait, snapshots), probes, event readers, uploads and their bytes, upload sessions. Has no "
        "effect while access is off.",
    )


class AuditSettings(Group):
    RETENTION: float = Field(
        31_536_000,
        ge=60,
        le=315_360_000,
        description="Seconds that a row of the audit is kept; until then a trigger refuses to change or remove it.",
    )


class SecretsSettings(Group):
    KEYS: list[Annotated[SecretStr, AfterValidator(_fernet_key)]] = Field(
        default_factory=list,
        description="JSON list of Fernet keys for stored camera URLs: the first encrypts, all decrypt. "
        "Empty: the first start makes a key and keeps it in DATA_DIR/secrets.keys; not in production.",
    )


class MetricsSettings(Group):
    MAX_CAMERAS: int = Field(
        200, ge=0, le=10_000,
        description="Cameras that have series of their own (`ingestion_camera_...`), in each process; 0: none.",
    )  # fmt: skip


class Settings(BaseSettings):
    """All settings. Raises pydantic.ValidationError for a value out of bounds or an unknown name in a group."""

    model_config = SettingsConfigDict(
        env_file=".env", env_nested_delimiter="__", extra="ignore", validate_default=True, hide_input_in_errors=True
    )

    ENVIRONMENT: Environment = Field(
        Environment.DEVELOPMENT, description="development, test, or production (which refuses to start on embedded parts)."
    )
    ROLE: Role = Field(
        Role.ALL,
        description="What this process does. all: everything. api: answers clients, runs no captures. worker: runs "
        "captures; on API__PORT it serves /health and /metrics only (docs/processes.md).",
    )
    DEBUG: bool = Field(False, description="asyncio's debug mode: slow callbacks are logged.")
    DATA_DIR: Path = Field(
        Path("./data"),
        description="Folder of the spool and secrets.keys (both are nowhere else), the embedded parts, temporary files.",
    )
    API: ApiSettings = Field(default_factory=lambda: ApiSettings())
    DB: DbSettings = Field(default_factory=lambda: DbSettings())
    STORAGE: StorageSettings = Field(default_factory=lambda: StorageSettings())
    REDIS: RedisSettings = Field(default_factory=lambda: RedisSettings())
    RTSP: RtspSettings = Field(default_factory=lambda: RtspSettings())
    SPOOL: SpoolSettings = Field(default_factory=lambda: SpoolSettings())
    UPLOAD: UploadSettings = Field(default_factory=lambda: UploadSettings())
    QUALITY: QualitySettings = Field(default_factory=lambda: QualitySettings())
    EVENTS: EventsSettings = Field(default_factory=lambda: EventsSettings())
    SWEEPER: SweeperSettings = Field(default_factory=lambda: SweeperSettings())
    RETENTION: RetentionSettings = Field(default_factory=lambda: RetentionSettings())
    WORKERS: WorkersSettings = Field(default_factory=lambda: WorkersSettings())
    LOG: LogSettings = Field(default_factory=lambda: LogSettings())
    AUTH: AuthSettings = Field(default_factory=lambda: AuthSettings())
    CONSOLE: ConsoleSettings = Field(default_factory=lambda: ConsoleSettings())
    LIMITS: LimitsSettings = Field(default_factory=lambda: LimitsSettings())
    AUDIT: AuditSettings = Field(default_factory=lambda: AuditSettings())
    SECRETS: SecretsSettings = Field(default_factory=lambda: SecretsSettings())
    METRICS: MetricsSettings = Field(default_factory=lambda: MetricsSettings())

    @field_validator("DATA_DIR")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if self.RTSP.RECONNECT_MAX_DELAY < self.RTSP.RECONNECT_DELAY:
            raise ValueError("RTSP__RECONNECT_MAX_DELAY is smaller than RTSP__RECONNECT_DELAY")
        if self.RETENTION.DAYS is not None and self.min_retention_days > self.RETENTION.DAYS:
            raise ValueError(f"RETENTION__DAYS is less than {self.min_retention_days:g}")
        if self.STORAGE.ENDPOINT and not self.STORAGE.ACCESS_KEY.get_secret_value():
            raise ValueError("STORAGE__ENDPOINT is set, STORAGE__ACCESS_KEY and STORAGE__SECRET_KEY are not")
        return self

    @property
    def min_retention_days(self) -> float:
        """No frame is deleted by its age earlier than that."""
        return SHORTEST_RETENTION_IN_TESTS if self.ENVIRONMENT is Environment.TEST else SHORTEST_RETENTION

    @property
    def temp_dir(self) -> Path:
        return self.UPLOAD.TEMP_UPLOAD_DIR or self.DATA_DIR / "tmp"

    @property
    def spool_dir(self) -> Path:
        return self.SPOOL.DIR or self.DATA_DIR / "spool"

    @property
    def camera_networks(self) -> list[str]:
        """CIDRs that camera URLs may point to: the setting, else private networks (loopback too, outside production)."""
        if self.RTSP.ALLOWED_NETWORKS is not None:
            return self.RTSP.ALLOWED_NETWORKS
        loopback = () if self.ENVIRONMENT is Environment.PRODUCTION else LOOPBACK_NETWORKS
        return [*PRIVATE_NETWORKS, *loopback]

    @property
    def camera_ports(self) -> list[str]:
        """Ports that camera URLs may name, or ranges of them: the setting, else CAMERA_PORTS in production."""
        if self.RTSP.ALLOWED_PORTS is not None:
            return self.RTSP.ALLOWED_PORTS
        return list(CAMERA_PORTS if self.ENVIRONMENT is Environment.PRODUCTION else EVERY_PORT)

    def start_refusals(self) -> list[str]:
        """Why these settings do not allow a start; empty when they do. Names settings, never their values."""
        reasons = [*self._auth_refusals(), *self._process_refusals()]
        if self.WORKERS.MODE == "celery" and not self.REDIS.HOST:
            reasons.append("WORKERS__MODE is celery, and REDIS__HOST is empty: name the Redis that carries its messages")
        if self.ENVIRONMENT is not Environment.PRODUCTION:
            return reasons
        if not self.DB.HOST:
            reasons.append("DB__HOST is empty: the embedded PostgreSQL is not for production")
        elif not self.DB.HOST.startswith("/") and self.DB.PASSWORD.get_secret_value().lower() in DEFAULT_CREDENTIALS:
            reasons.append("DB__PASSWORD is empty or a well-known default: set your own")
        if self.DB.HOST and not self.DB.HOST.startswith("/") and self.DB.SSL == "prefer":
            reasons.append(
                "DB__SSL is prefer, which goes on without TLS when the server offers none: set verify-full or require; "
                "disable, where the network to PostgreSQL is yours alone"
            )
        if not self.STORAGE.ENDPOINT:
            reasons.append("STORAGE__ENDPOINT is empty: the embedded S3 server is not for production")
        else:
            if not self.STORAGE.ALLOW_HTTP:
                reasons += [
                    f"STORAGE__{name} is http: use https (STORAGE__SECURE for host:port), or say STORAGE__ALLOW_HTTP=true "
                    "where the network to the store is yours alone"
                    for name in ("ENDPOINT", "PUBLIC_ENDPOINT")
                    if _is_http(getattr(self.STORAGE, name), self.STORAGE.SECURE)
                ]
            reasons += [
                f"STORAGE__{name} is empty or a well-known default: set your own"
                for name in ("ACCESS_KEY", "SECRET_KEY")
                if getattr(self.STORAGE, name).get_secret_value().lower() in DEFAULT_CREDENTIALS
            ]
        if self.REDIS.HOST:
            if self.REDIS.PASSWORD.get_secret_value().lower() in DEFAULT_CREDENTIALS:
                reasons.append("REDIS__PASSWORD is empty or a well-known default: set your own")
            if not (self.REDIS.TLS or self.REDIS.ALLOW_PLAIN or self.REDIS.HOST in LOOPBACK_NAMES):
                reasons.append(
                    "REDIS__TLS is false: turn it on, or say REDIS__ALLOW_PLAIN=true where that network is yours alone"
                )
        if not self.SECRETS.KEYS:
            reasons.append(
                "SECRETS__KEYS is empty, and camera URLs are stored encrypted: `python -m services.commands secrets new`"
            )
        if "*" in self.API.CORS_ORIGINS and self.API.CORS_CREDENTIALS:
            reasons.append('API__CORS_ORIGINS is ["*"] together with API__CORS_CREDENTIALS: name the origins')
        if self.AUTH.MODE == "off" and self.API.HOST not in LOOPBACK_NAMES:
            reasons.append("AUTH__MODE is off and API__HOST is not loopback: put the proxy on this host, or turn access on")
        return reasons

    @property
    def processes(self) -> int:
        """How many processes one start makes."""
        return {Role.API: self.API.PROCESSES, Role.WORKER: self.WORKERS.PROCESSES}.get(self.ROLE, 1)

    def _process_refusals(self) -> list[str]:
        """What does not go with several processes."""
        reasons = [
            f"{name} is {count} and ROLE is {self.ROLE.value}: set ROLE={role.value}"
            for name, count, role in (
                ("API__PROCESSES", self.API.PROCESSES, Role.API), ("WORKERS__PROCESSES", self.WORKERS.PROCESSES, Role.WORKER)
            )
            if count > 1 and self.ROLE is not role
        ]  # fmt: skip
        if self.processes > 1:
            shared: dict[str, object] = {"DB__HOST": self.DB.HOST, "STORAGE__ENDPOINT": self.STORAGE.ENDPOINT}
            missing = shared | {"SECRETS__KEYS": self.SECRETS.KEYS}
            reasons += [f"{name} is empty: several processes share one" for name, value in missing.items() if not value]
        return reasons

    def _auth_refusals(self) -> list[str]:
        """What is missing, or unsafe, for AUTH__MODE."""
        auth, reasons = self.AUTH, []
        bootstrap, secret = auth.BOOTSTRAP_KEY.get_secret_value(), auth.JWT_SECRET.get_secret_value()
        if bootstrap and len(bootstrap) < MIN_SECRET:
            reasons.append(f"AUTH__BOOTSTRAP_KEY is shorter than {MIN_SECRET} characters")
        if auth.MODE not in ("jwt", "both"):
            return reasons
        reasons += [f"AUTH__{name} is empty" for name in ("JWT_ISSUER", "JWT_AUDIENCE") if not getattr(auth, name)]
        if "HS256" in auth.JWT_ALGORITHMS:
            if auth.JWT_ALGORITHMS != ["HS256"]:
                reasons.append("AUTH__JWT_ALGORITHMS has HS256 beside others: a public key could be used as its secret")
            if len(secret) < MIN_SECRET:
                reasons.append(f"AUTH__JWT_SECRET is shorter than {MIN_SECRET} characters")
        elif not auth.JWT_ALGORITHMS:
            reasons.append("AUTH__JWT_ALGORITHMS is empty")
        elif (auth.JWKS_FILE is None) == (not auth.JWKS_URL):
            reasons.append("set one of AUTH__JWKS_FILE and AUTH__JWKS_URL")
        if auth.JWKS_URL and not is_safe_jwks_url(auth.JWKS_URL):
            reasons.append("AUTH__JWKS_URL must be https, or http on loopback")
        return reasons

    def check_start(self) -> None:
        """Raises ConfigurationError with every reason against a start."""
        if reasons := self.start_refusals():
            raise ConfigurationError(reasons)


def _is_http(endpoint: str, secure: bool) -> bool:
    """Whether an S3 endpoint, host:port or a URL, is reached without TLS; an empty one is not reached."""
    scheme, sep, _ = endpoint.partition("://")
    return bool(endpoint) and (scheme.lower() != "https" if sep else not secure)


def is_safe_jwks_url(url: str) -> bool:
    """Whether keys may be fetched from there: https without user information, or http on loopback."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if "@" in parts.netloc or not host:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK_NAMES)


def database_url(db: DbSettings) -> URL:
    """The SQLAlchemy URL, its parts quoted by SQLAlchemy: `@ / : # ? %` in a password are just characters.

    A host that starts with `/` is a folder with PostgreSQL's socket; asyncpg takes it from the query.
    """
    socket_dir = db.HOST.startswith("/")
    return URL.create(
        "postgresql+asyncpg",
        username=db.USER,
        password=db.PASSWORD.get_secret_value() or None,
        host=None if socket_dir else db.HOST,
        port=None if socket_dir else db.PORT,
        database=db.NAME,
        query={"host": db.HOST, "port": str(db.PORT)} if socket_dir else {},
    )


@lru_cache
def get_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
