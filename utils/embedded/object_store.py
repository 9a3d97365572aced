"""A private S3 store under ``data_dir/objects``: SeaweedFS (``weed mini``) on loopback.

Durability, found by strace and by cutting files as a power cut would:
- a PUT is synced only under an fsync rule for the bucket's path (set and checked at every start), and then
  only its bytes; its name is synced because the filer's database is SQLite (see weed_config);
- the index beside a volume is never synced. After a power cut the volume would be read-only and its last
  objects unreadable though their bytes are there, so the indexes are then rebuilt (``weed fix``) first.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import structlog

from .errors import EmbeddedStartError
from .files import read_json, write_private
from .ports import PART, choose_ports, grpc_port, remove_sockets
from .process import ChildProcess, end_processes, processes_in, run_tool, wait_until
from .sockets import SocketFolder
from .weed_config import MIN_FREE_BYTES, Credentials, arguments, binary, environment, write_config

_log = structlog.get_logger(__name__)
_START_TIMEOUT = 60.0
_PORT_TRIES = 3  # another program may take a port between our look and weed's
_TAKEN = ("address already in use", "Port allocation failed")
_FILER_CONF = "/etc/seaweedfs/filer.conf"
# Loopback must never go through a proxy that the environment names.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class EmbeddedObjectStore:
    """The server, its data and its credentials. Endpoint and credentials stay for the object's life, and as
    long as the port is free, for the DATA_DIR's. ``bucket`` itself is made by whoever uses it.

    Threads and errors: as :class:`EmbeddedPostgres`. ``endpoint``, ``access_key`` and ``secret_key`` raise
    RuntimeError before the first ``start``. The repr shows no credential.
    """

    name = PART

    def __init__(self, data_dir: Path, bucket: str, port: int | None = None) -> None:
        self._data_dir = data_dir.absolute()
        self._data = self._data_dir / "objects"
        self._config = self._data_dir / "object-store"
        self._state = self._config / "state.json"
        self._sockets = SocketFolder(self._data_dir, "object-store", "filer.sock")
        self._opened = False
        self._wanted_port = port
        self._ports: dict[str, int] = {}
        self._keys: Credentials | None = None
        self._child: ChildProcess | None = None
        self.bucket = bucket
        self.log_path = self._data_dir / "logs" / "object_store.log"
        self.credentials_path = self._config / "credentials.json"

    def __repr__(self) -> str:
        return f"EmbeddedObjectStore(data_dir={str(self._data_dir)!r}, bucket={self.bucket!r})"

    @property
    def endpoint(self) -> str:
        if not self._ports:
            raise RuntimeError("the embedded object store was not started yet")
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def access_key(self) -> str:
        return self._credentials().access_key

    @property
    def secret_key(self) -> str:
        return self._credentials().secret_key

    @property
    def min_free_bytes(self) -> int:
        """Refuse new images when the disk has less free than this; a fuller one cannot recover by deleting."""
        return MIN_FREE_BYTES

    @property
    def child(self) -> ChildProcess | None:
        return self._child

    def start(self, cancel: threading.Event) -> None:
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._config.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._end_leftovers()
        keys = self._keys = self._keys or Credentials.load_or_create(self.credentials_path)
        if not self._opened:
            self._sockets.open()
            self._opened = True
        self._repair_after_power_cut()
        keep = self._ports.get("s3")
        for tries in reversed(range(_PORT_TRIES)):
            self._ports = choose_ports(self._config / "ports.json", self._wanted_port, keep_s3=keep)
            write_config(self._config, self._data, keys)
            # weed writes its options there and reads them back: only today's may count.
            (self._data / "mini.options").unlink(missing_ok=True)
            try:
                self._launch(keys, cancel)
                break
            except EmbeddedStartError as error:
                if not tries or not any(text in error.log_tail for text in _TAKEN):
                    raise
                _log.warning("object_store_port_taken", tries_left=tries)  # since it was looked at
        self._make_durable(cancel)

    def stop(self) -> bool:
        """SIGTERM: connections drain, volumes are synced and closed. Bounded (15 s); True when clean."""
        clean = True
        if self._child is not None:
            clean = self._child.stop((signal.SIGTERM, 15.0))
            if clean and self._child.exit_code is not None:
                self._mark_clean()
        remove_sockets(self._ports)
        self._sockets.close()
        self._opened = False
        return clean

    def _credentials(self) -> Credentials:
        if self._keys is None:
            raise RuntimeError("the embedded object store was not started yet")
        return self._keys

    def _end_leftovers(self) -> None:
        """A killed service's server gets SIGTERM from the kernel and needs some seconds; wait, then insist."""
        left = processes_in(self._config)
        if left:
            _log.warning("embedded_leftover_processes", part=PART, count=len(left))
            if not end_processes(left, signal.SIGTERM, 10.0):
                end_processes(processes_in(self._config), signal.SIGKILL, 10.0)
        if self._ports:
            remove_sockets(self._ports)

    def _launch(self, keys: Credentials, cancel: threading.Event) -> None:
        child = ChildProcess(
            [binary(), *arguments(self._config, self._data, self._sockets.path, self._ports)],
            cwd=self._config,
            env=environment(self._config, keys),
            log_path=self.log_path,
        )
        child.start()
        self._child = child
        up = wait_until(lambda: not child.running or self._ready(), _START_TIMEOUT, cancel)
        if not up or not child.running:
            child.stop((signal.SIGTERM, 5.0))
            what = f"it ended with exit code {child.exit_code}" if up else f"not ready after {_START_TIMEOUT:.0f} s"
            raise EmbeddedStartError(PART, what, child.log_tail())

    def _ready(self) -> bool:
        """S3 answers (403 without a signature), and the volume server has told the master that it has room."""
        if _get(f"{self.endpoint}/")[0] not in (200, 403):
            return False
        status, body = _get(f"http://127.0.0.1:{self._ports['master']}/dir/status")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return status == 200 and int(json.loads(body)["Topology"]["Max"]) > 0
        return False

    def _make_durable(self, cancel: threading.Event) -> None:
        if self._fsync_rule():
            return
        rule = f"fs.configure -locationPrefix=/buckets/{self.bucket}/ -fsync -apply\n"
        servers = [f"-{name}={self._address(name)}" for name in ("master", "filer")]
        argv: list[str | Path] = [binary(), f"-config_dir={self._config}", "shell", *servers]
        output = run_tool(
            PART,
            argv,
            cwd=self._config.parent,
            env=environment(self._config, self._credentials()),
            timeout=30,
            stdin=rule,
        )
        if not wait_until(self._fsync_rule, 5.0, cancel):
            self.stop()
            raise EmbeddedStartError(PART, "the fsync rule for the bucket did not take effect", output[-2000:])

    def _fsync_rule(self) -> bool:
        """The filer's rules as it serves them: ours must be there, and none below the bucket may differ."""
        url = f"http://127.0.0.1:{self._ports['filer']}{_FILER_CONF}"
        status, body = _get(url, {"Authorization": f"Bearer {self._credentials().filer_token()}"})
        if status != 200:
            return False
        prefix = f"/buckets/{self.bucket}/"
        locations: list[dict[str, Any]] = []
        with contextlib.suppress(ValueError, AttributeError):
            locations = json.loads(body).get("locations") or []
        return any(rule.get("locationPrefix") == prefix and rule.get("fsync") is True for rule in locations)

    def _address(self, service: str) -> str:
        return f"127.0.0.1:{self._ports[service]}.{grpc_port(service, self._ports)}"

    def _repair_after_power_cut(self) -> None:
        """Rebuild the volume indexes when the last run neither ended cleanly nor in this boot of the machine.

        A mere kill loses nothing that was written: the page cache stays.
        """
        boot = _boot_id()
        state = read_json(self._state)
        if state and not state.get("clean") and state.get("boot") != boot and any(self._data.glob("*.dat")):
            _log.warning("object_store_index_rebuild", reason="unclean end before the machine's last boot")
            for stale in (*self._data.glob("*.sdx"), *self._data.glob("*.ldb")):
                stale.unlink(missing_ok=True)
            argv: list[str | Path] = [binary(), "-logtostderr=true", "fix", "-ignoreError", self._data]
            env = environment(self._config, self._credentials())
            run_tool(PART, argv, cwd=self._config, env=env, timeout=3600)
        write_private(self._state, json.dumps({"boot": boot, "clean": False}))

    def _mark_clean(self) -> None:
        for index in self._data.glob("*.idx"):
            with contextlib.suppress(OSError), index.open("rb") as file:
                os.fsync(file.fileno())
        write_private(self._state, json.dumps({"boot": _boot_id(), "clean": True}))


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def _get(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body; (0, b"") when nobody answers."""
    try:
        with _http.open(urllib.request.Request(url, headers=headers or {}), timeout=2) as answer:  # noqa: S310
            return int(answer.status), bytes(answer.read(1_000_000))
    except urllib.error.HTTPError as error:
        return error.code, b""
    except (OSError, http.client.HTTPException):
        return 0, b""
