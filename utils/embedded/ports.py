"""Loopback ports for SeaweedFS: chosen once, remembered, so that presigned URLs survive a restart."""

from __future__ import annotations

import json
import os
import secrets
import socket
from pathlib import Path

import structlog

from .errors import EmbeddedStartError
from .files import read_json, write_private

_log = structlog.get_logger(__name__)

PART = "object_store"
SERVICES = ("s3", "master", "volume", "filer", "admin")
# Each service's gRPC port is its HTTP port plus this: the admin worker computes it and takes no other.
GRPC_OFFSET = 10_000
# Both below the range from which Linux gives ports to outgoing connections (32768 and up).
_FIRST, _LAST = 12_000, 22_000


def choose_ports(path: Path, wanted_s3: int | None, *, keep_s3: int | None = None) -> dict[str, int]:
    """The HTTP port of every service, from ``path`` where they are still free; the others are chosen again.

    ``wanted_s3`` is the operator's, ``keep_s3`` the one clients already know: either is kept or, when taken,
    EmbeddedStartError is raised. Blocking only for moments.
    """
    remembered = read_json(path)
    fixed_s3 = keep_s3 or wanted_s3
    ports: dict[str, int] = {}
    for service in SERVICES:
        old = remembered.get(service)
        if service == "s3" and fixed_s3 is not None:
            if not _free(fixed_s3):
                raise EmbeddedStartError(PART, f"port {fixed_s3} on 127.0.0.1 is taken by another program")
            ports[service] = fixed_s3
        elif isinstance(old, int) and _FIRST <= old < _LAST and _usable(service, old, ports):
            ports[service] = old
        else:
            ports[service] = _pick(service, ports)
            if service == "s3" and old is not None:
                _log.warning("object_store_port_changed", old=old, new=ports[service])
    if ports != remembered:
        write_private(path, json.dumps(ports))
    return ports


def grpc_port(service: str, ports: dict[str, int]) -> int:
    if service == "s3":
        # The S3 port may be the operator's, anywhere; its gRPC port then comes from the filer's neighbour.
        return ports["filer"] + GRPC_OFFSET + 1
    return ports[service] + GRPC_OFFSET


def grpc_socket(service: str, ports: dict[str, int]) -> Path:
    """SeaweedFS puts its gRPC sockets here; no option or environment variable moves them."""
    return Path("/tmp") / f"seaweedfs-{service}-grpc-{grpc_port(service, ports)}.sock"  # noqa: S108


def remove_sockets(ports: dict[str, int]) -> None:
    """Remove what a killed server left in /tmp. Never raises."""
    for service in SERVICES:
        try:
            grpc_socket(service, ports).unlink(missing_ok=True)
        except OSError:
            continue


def _pick(service: str, taken: dict[str, int]) -> int:
    for _ in range(200):
        # Steps of two leave room for the S3 gateway's gRPC port next to the filer's.
        port = _FIRST + 2 * secrets.randbelow((_LAST - _FIRST) // 2)
        if _usable(service, port, taken):
            return port
    raise EmbeddedStartError(PART, f"no free port between {_FIRST} and {_LAST} on 127.0.0.1")


def _usable(service: str, port: int, taken: dict[str, int]) -> bool:
    needed = [port]
    if service != "s3":
        needed.append(port + GRPC_OFFSET)
    if service == "filer":
        needed.append(port + GRPC_OFFSET + 1)
    others = {**taken, service: port}
    names = (service, "s3") if service == "filer" else (() if service == "s3" else (service,))
    sockets_ours = all(_ours_or_absent(grpc_socket(name, others)) for name in names)
    return port not in taken.values() and sockets_ours and all(_free(number) for number in needed)


def _ours_or_absent(path: Path) -> bool:
    """A foreign socket of that name in /tmp would receive the server's internal calls: take another port."""
    try:
        return path.lstat().st_uid == os.geteuid()
    except FileNotFoundError:
        return True


def _free(port: int) -> bool:
    for address in ("127.0.0.1", ""):  # SeaweedFS itself insists on both
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
