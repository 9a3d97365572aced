"""Where the embedded parts of a DATA_DIR that another process runs can be reached, by the files that they keep there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .errors import EmbeddedStartError
from .files import read_json
from .ports import grpc_port


@dataclass(frozen=True, slots=True)
class RunningPostgres:
    host: str  # the socket's folder
    port: int
    user: str = "postgres"


@dataclass(frozen=True, slots=True)
class RunningObjectStore:
    endpoint: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)


def running_postgres(data_dir: Path) -> RunningPostgres:
    """By postmaster.pid: its 4th line is the port, its 5th the socket's folder. Raises EmbeddedStartError."""
    try:
        lines = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
        return RunningPostgres(lines[4].strip(), int(lines[3]))
    except (OSError, IndexError, ValueError) as error:
        raise EmbeddedStartError("postgres", f"the running one cannot be found in {data_dir}") from error


def running_object_store(data_dir: Path) -> RunningObjectStore:
    """By the ports and credentials of its start. Raises EmbeddedStartError."""
    folder = data_dir / "object-store"
    port, keys = read_json(folder / "ports.json").get("s3"), read_json(folder / "credentials.json")
    if not isinstance(port, int) or "access_key" not in keys or "secret_key" not in keys:
        raise EmbeddedStartError("object_store", f"the running one cannot be found in {data_dir}")
    return RunningObjectStore(f"http://127.0.0.1:{port}", str(keys["access_key"]), str(keys["secret_key"]))


def object_store_ports(data_dir: Path) -> list[int]:
    """The HTTP ports of all of its services, of which some ask for no key, and their gRPC ports."""
    known = read_json(data_dir / "object-store" / "ports.json")
    ports = {name: port for name, port in known.items() if isinstance(port, int)}
    return sorted({*ports.values(), *(grpc_port(name, ports) for name in ports if name != "s3" or "filer" in ports)})
