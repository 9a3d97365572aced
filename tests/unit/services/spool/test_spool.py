"""The spool on disk: its record's format, what a power cut may leave, its limits."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from config import SpoolSettings
from models.values import Integrity
from services.spool.folder import Files, SpoolFolder
from services.spool.index import SpoolEntry, SpoolIndex
from services.spool.record import HEAD_BYTES, MAGIC, DamagedRecord, SpoolRecord, decode, decode_header, encode
from services.spool.spool import Spool
from tests.kits.spool_frames import FPS, GRID, frame_of, picture
from utils.ids import new_id
from utils.metrics import SPOOL_DEAD, SPOOL_DROPPED, SPOOL_FRAMES

NOW = datetime(2026, 5, 4, 14, 0, tzinfo=UTC)


def record_of(data: bytes, slot: int = 3) -> SpoolRecord:
    return SpoolRecord(frame_of(new_id(), slot, data), GRID, FPS, 7, NOW)


def test_a_record_says_all_that_is_known() -> None:
    data = picture()
    record = record_of(data)
    assert decode(encode(record, data) + data) == (record, data)
    assert decode_header(encode(record, data), len(encode(record, data)) + len(data)) == record


def test_integrity_is_told_and_records_of_before_there_was_any_are_read() -> None:
    data = picture()
    record = record_of(data)
    told = replace(record, frame=replace(record.frame, integrity=Integrity.UNDECODED, format="h264"))
    assert decode(encode(told, data) + data) == (told, data)
    for meta, found in (({}, Integrity.VERIFIED), ({"integrity": "unknown"}, Integrity.UNKNOWN)):
        fields = json.loads(encode(record, data)[HEAD_BYTES:])
        del fields["frame"]["integrity"]
        fields["frame"]["meta"] = meta
        header = json.dumps(fields).encode()
        head = struct.pack(">8sI32s", MAGIC, len(header), hashlib.sha256(header).digest())
        assert decode(head + header + data)[0].frame.integrity is found


def test_a_record_carries_its_quality_and_one_of_before_has_none() -> None:
    data = picture()
    record = record_of(data)
    judged = replace(record, frame=replace(record.frame, quality={"verdict": "bad", "reasons": ["dark"], "sharpness": 1.5}))
    assert decode(encode(judged, data) + data) == (judged, data)
    fields = json.loads(encode(judged, data)[HEAD_BYTES:])
    del fields["frame"]["quality"]
    header = json.dumps(fields).encode()
    head = struct.pack(">8sI32s", MAGIC, len(header), hashlib.sha256(header).digest())
    assert decode(head + header + data)[0].frame.quality is None


def test_a_newer_versions_record_is_read_without_what_is_new() -> None:
    data = picture()
    record = record_of(data)
    fields = json.loads(encode(record, data)[HEAD_BYTES:])
    fields["frame"]["of_a_later_version"] = fields["of_a_later_version"] = {"x": 1}
    header = json.dumps(fields).encode()
    head = struct.pack(">8sI32s", MAGIC, len(header), hashlib.sha256(header).digest())
    assert decode(head + header + data) == (record, data)


def test_a_record_cut_anywhere_is_recognised() -> None:
    data = picture()
    whole = encode(record_of(data), data) + data
    for end in range(len(whole)):
        with pytest.raises(DamagedRecord):
            decode(whole[:end])
        with pytest.raises(DamagedRecord):
            decode_header(whole[:end], end)  # without a look at the picture's bytes
    with pytest.raises(DamagedRecord):
        decode(whole + b"x")


def test_a_flipped_bit_anywhere_is_recognised() -> None:
    data = picture()
    whole = bytearray(encode(record_of(data), data) + data)
    for at in range(len(whole)):
        bit = 1 << (at % 8)
        whole[at] ^= bit
        with pytest.raises(DamagedRecord):
            decode(bytes(whole))
        whole[at] ^= bit
    decode(bytes(whole))


def test_what_is_half_written_goes_and_what_is_damaged_is_put_aside(tmp_path: Path) -> None:
    folder, data = SpoolFolder(tmp_path), picture()
    folder.open()
    head = encode(record_of(data), data)
    folder.write("whole", (head, data), 0)
    for n, end in enumerate(range(0, len(head) + len(data), 29)):
        (folder.records / f"cut-{n}").write_bytes((head + data)[:end])
        (folder.records / f".half-{n}").write_bytes((head + data)[:end])
    found = folder.scan()
    assert [entry.name for entry, _ in found.entries] == ["whole"]
    assert found.half_written == found.damaged == n + 1
    assert [path.name for path in folder.records.iterdir()] == ["whole"]
    assert len(list(folder.dead.iterdir())) == n + 1
    assert len(folder.scan_dead()) == n + 1
    (folder.records / "whole").write_bytes(head + data[:-1] + bytes([data[-1] ^ 1]))
    assert len(folder.scan().entries) == 1  # a start does not read every picture
    with pytest.raises(DamagedRecord):
        folder.read("whole")


# -- the power goes ----------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    pass


@dataclass
class Inode:
    content: bytes = b""
    durable: bytes = b""


class Unreliable(Files):
    """A file system of which a power cut leaves the least, or the worst, that POSIX allows.

    File contents are durable when they were synced; names when their folder was. Names that were not may be lost, or be
    there all the same (`names_survive`), before the content.
    """

    def __init__(self, cut_at: int, names_survive: bool) -> None:
        self.cut_at = cut_at
        self.names_survive = names_survive
        self.steps = 0
        self._names: dict[Path, Inode] = {}
        self._durable: dict[Path, Inode] = {}
        self._open: dict[int, Inode] = {}

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self.cut_at:
            raise PowerCut

    def create(self, path: Path) -> int:
        self._step()
        fd = super().create(path)
        self._open[fd] = self._names[path] = Inode()
        return fd

    def write(self, fd: int, data: bytes) -> None:
        self._step()
        super().write(fd, data)
        self._open[fd].content += data

    def sync(self, fd: int) -> None:
        self._step()
        self._open[fd].durable = self._open[fd].content

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)
        self._names[target] = self._names.pop(source)

    def sync_folder(self, path: Path) -> None:
        self._step()
        self._durable = {name: inode for name, inode in self._names.items() if name.parent == path}

    def after_the_cut(self, folder: SpoolFolder) -> None:
        """Writes what is left into another folder."""
        for name, inode in (self._names if self.names_survive else self._durable).items():
            (folder.records / name.name).write_bytes(inode.durable)


@pytest.mark.parametrize("names_survive", [False, True])
def test_a_record_that_was_acknowledged_outlives_a_power_cut_and_none_is_half(tmp_path: Path, names_survive: bool) -> None:
    data = picture()
    record = record_of(data)
    parts = (encode(record, data), data)
    for cut_at in range(1, 20):
        files = Unreliable(cut_at, names_survive)
        folder, left = SpoolFolder(tmp_path / f"a{cut_at}", files), SpoolFolder(tmp_path / f"b{cut_at}")
        for each in (folder, left):
            each.path.mkdir()
            each.records.mkdir()
            each.dead.mkdir()
        acknowledged = False
        try:
            folder.write("one", parts, 0)
            acknowledged = True
        except PowerCut:
            pass
        files.after_the_cut(left)
        found = left.scan()
        assert found.damaged == 0, f"step {cut_at}: a record that is not whole under its final name"
        assert not acknowledged or [record for _, record in found.entries] == [record], f"lost, step {cut_at}"
        for entry, _ in found.entries:
            assert left.read(entry.name) == (record, data)
        if acknowledged:
            return
    raise AssertionError("never written")


# -- the index ---------------------------------------------------------------------------------------------------


def test_requests_take_turns_and_each_gives_its_oldest_first() -> None:
    index, ids = SpoolIndex(), [new_id() for _ in range(3)]
    slots = [(0, slot) for slot in range(500)] + [(1, slot) for slot in range(5)] + [(2, 9)]
    random.Random(1).shuffle(slots)
    for n, slot in slots:
        index.add(SpoolEntry(f"{n}-{slot}", ids[n], slot, 100, 0.0))
    order = [(ids.index(entry.request_id), entry.slot) for entry in iter(lambda: index.take(0), None)]
    assert len(order) == 506
    assert max(order.index((1, slot)) for slot in range(5)) <= 3 * 5  # 500 of another do not delay 5
    assert order.index((2, 9)) < 3
    for n in range(3):
        mine = [slot for request, slot in order if request == n]
        assert mine == sorted(mine)
    assert index.bytes == 506 * 4096


def test_what_failed_waits_in_its_place_or_for_its_time() -> None:
    index, one = SpoolIndex(), new_id()
    entries = [SpoolEntry(str(slot), one, slot, 100, 0.0) for slot in range(3)]
    for entry in entries:
        index.add(entry)
    assert index.take(0) is entries[0]
    index.back(entries[0])
    assert index.take(0) is entries[0]
    index.postpone(entries[0], 10)
    assert index.take(9) is entries[1]
    assert index.take(10) is entries[0]
    assert index.remove(entries[2])
    assert not index.remove(entries[2])
    assert index.take(10) is None
    assert index.slots_of(one) == {0, 1}
    assert index.oldest is entries[0]


# -- limits ------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.at = NOW.timestamp()

    def __call__(self) -> float:
        return self.at


def dropped(reason: str) -> float:
    return float(SPOOL_DROPPED.labels(reason=reason)._value.get())


async def opened(path: Path, clock: Clock | None = None, files: Files | None = None, **settings: object) -> Spool:
    made = SpoolSettings.model_validate({"DISK_RESERVE": 0, **settings})
    spool = Spool(made, path, files=files, now=clock or Clock())
    await spool.open()
    return spool


async def put(spool: Spool, request_id: UUID, slot: int, size: int = 100) -> bool:
    data = picture(size)
    return await spool.put(frame_of(request_id, slot, data), data, grid_start=GRID, fps=FPS, epoch=1)


def slots(spool: Spool, request_id: UUID) -> list[int]:
    return sorted(spool.index.slots_of(request_id))


async def test_what_was_spooled_is_there_after_a_restart(tmp_path: Path) -> None:
    spool, one = await opened(tmp_path), new_id()
    told: list[tuple[int, str]] = []
    assert spool.follow(one, lambda *what: told.append(what)) == set()
    assert all(await asyncio.gather(*(put(spool, one, slot) for slot in range(20))))
    assert sorted(told) == [(slot, "spooled") for slot in range(20)]
    await spool.close()
    spool = await opened(tmp_path)
    assert slots(spool, one) == list(range(20))
    assert spool.follow(one, lambda *_: None) == set(range(20))
    assert spool.grids == {one: GRID}
    assert SPOOL_FRAMES._value.get() == 20
    assert spool.arrived.is_set()
    await spool.close()


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
async def test_the_limit_by_bytes(tmp_path: Path, policy: str) -> None:
    spool, one = await opened(tmp_path, MAX_BYTES=1_048_576, POLICY=policy), new_id()
    told: list[tuple[int, str]] = []
    spool.follow(one, lambda *what: told.append(what))
    before = dropped("bytes")
    answers = [await put(spool, one, slot, 100_000) for slot in range(15)]
    room = 1_048_576 // 102_400
    if policy == "drop_newest":
        assert answers == [True] * room + [False] * (15 - room)
        assert slots(spool, one) == list(range(room))
    else:
        assert all(answers)
        assert slots(spool, one) == list(range(15 - room, 15))
        assert [slot for slot, outcome in told if outcome == "dropped"] == list(range(15 - room))
        assert spool.take_abandoned() == (one, set(range(15 - room)))
    assert dropped("bytes") - before == 15 - room
    assert spool.state().full
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 1_048_576
    await spool.close()


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
async def test_the_limit_by_age(tmp_path: Path, policy: str) -> None:
    clock, one = Clock(), new_id()
    spool = await opened(tmp_path, clock, MAX_AGE=100, POLICY=policy)
    before = dropped("age")
    for slot in range(3):
        assert await put(spool, one, slot)
        clock.at += 40
    assert spool.state().oldest == 120
    assert await put(spool, one, 3) is (policy == "drop_oldest")
    assert slots(spool, one) == ([1, 2, 3] if policy == "drop_oldest" else [0, 1, 2])
    assert dropped("age") - before == 1
    await spool.close()


async def test_the_disk_keeps_its_reserve(tmp_path: Path) -> None:
    class Small(Files):
        def free(self, path: Path) -> int:
            return 1_000_000

    spool, one = await opened(tmp_path, files=Small(), DISK_RESERVE=950_000), new_id()
    before = dropped("disk")
    assert await put(spool, one, 0, 10_000)
    assert not await put(spool, one, 1, 60_000)
    assert (slots(spool, one), dropped("disk") - before) == ([0], 1)
    await spool.close()


async def test_a_disk_that_is_too_slow_or_broken_bounds_memory_and_fails_nothing(tmp_path: Path) -> None:
    class Broken(Files):
        def sync(self, fd: int) -> None:
            raise OSError(5, "Input/output error")

    spool, one = await opened(tmp_path, files=Broken(), BUFFER=1_048_576), new_id()
    busy, errors = dropped("busy"), dropped("error")
    assert await asyncio.gather(*(put(spool, one, slot, 100_000) for slot in range(20))) == [False] * 20
    assert dropped("error") - errors == 10
    assert dropped("busy") - busy == 10
    assert list(spool.folder.records.iterdir()) == []
    await spool.close()


async def test_dead_records_are_kept_while_there_is_room(tmp_path: Path) -> None:
    spool, one = await opened(tmp_path, MAX_BYTES=1_048_576), new_id()
    before = SPOOL_DEAD.labels(reason="refused")._value.get()
    for slot in range(10):
        assert await put(spool, one, slot, 100_000)
        if slot < 4:
            entry = spool.index.take(0)
            assert entry is not None
            await spool.remove(entry, "dead", "refused")
    assert SPOOL_DEAD.labels(reason="refused")._value.get() - before == 4
    assert len(list(spool.folder.dead.iterdir())) == 4
    assert spool.take_abandoned() == (one, {0, 1, 2, 3})
    for slot in range(10, 13):
        assert await put(spool, one, slot, 100_000)
    assert slots(spool, one) == list(range(4, 13))
    assert len(list(spool.folder.dead.iterdir())) == 1
    await spool.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "spool-test", str(path)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {made.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
async def test_a_full_disk_is_a_limit_and_leaves_nothing_half(small_disk: Path, policy: str) -> None:
    spool, one = await opened(small_disk, POLICY=policy), new_id()
    before = dropped("disk")
    answers = await asyncio.gather(*(put(spool, one, slot, 90_000) for slot in range(8)))
    answers += [await put(spool, one, slot, 90_000) for slot in range(8, 20)]
    kept = slots(spool, one)
    assert len(kept) >= 8
    if policy == "drop_newest":
        assert answers[: len(kept)] == [True] * len(kept)
        assert answers[len(kept) :] == [False] * (20 - len(kept))
    else:
        assert all(answers)
        assert kept[-1] == 19
    assert dropped("disk") - before == 20 - len(kept)
    assert not [path for path in spool.folder.records.iterdir() if path.name.startswith(".")]
    await spool.close()
    again = await opened(small_disk)
    assert slots(again, one) == kept
    for entry in iter(lambda: again.index.take(0), None):
        again.folder.read(entry.name)
    await again.close()
