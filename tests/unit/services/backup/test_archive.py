"""The archive's files, and the loop that copies objects."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.backup.archive import Archive, ArchiveFile, BackupError
from services.backup.objects import CopyProgress, side_by_side
from utils import retrying
from utils.exceptions import ObjectMissing, StorageUnavailable
from utils.retrying import retry_unavailable

QUIET = CopyProgress(lambda _: None, str)


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a/.", "a/..", "a/"])
def test_no_key_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(BackupError):
        Archive(tmp_path).object_path(key)


@pytest.mark.parametrize("file", ["../x.gz", "/x.gz", "rows/../../x.gz", "a/b/c.gz", "rows/x", ""])
def test_no_part_leads_out_of_the_folder(file: str) -> None:
    with pytest.raises(ValidationError):
        ArchiveFile(file=file, bytes=0, sha256="")


def test_a_packed_part_comes_back_and_a_changed_one_is_seen(tmp_path: Path) -> None:
    archive = Archive.create(tmp_path / "b")
    with archive.packing("rows/t.gz") as packed:
        packed.write(b"1\tone\n2\ttwo\n")
    part = archive.packed("rows/t.gz")
    archive.check(part)
    assert list(archive.lines(part.file)) == [["1", "one"], ["2", "two"]]
    assert b"".join(archive.chunks(part.file)) == b"1\tone\n2\ttwo\n"
    assert (tmp_path / "b" / "rows" / "t.gz").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "b" / "rows").stat().st_mode & 0o777 == 0o700
    (tmp_path / "b" / "rows" / "t.gz").write_bytes(b"x")
    with pytest.raises(BackupError, match="damaged"):
        archive.check(part)
    with pytest.raises(BackupError, match="not empty"):
        Archive.create(tmp_path / "b")


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    def half() -> None:
        with Archive(tmp_path).writing(tmp_path / "objects" / "x") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list((tmp_path / "objects").iterdir()) == []


async def test_so_many_at_once_and_the_first_error_ends_it() -> None:
    running = most = 0
    seen: list[int] = []

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        if item == 10:
            raise StorageUnavailable
        seen.append(item)

    await side_by_side(range(10), work, 3, QUIET)
    assert (most, sorted(seen)) == (3, list(range(10)))
    with pytest.raises(StorageUnavailable):
        await side_by_side(range(10, 1000), work, 3, QUIET)
    assert len(seen) < 20


async def test_a_store_that_is_away_is_tried_again_and_a_missing_object_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE", 0)
    tries: list[type[Exception]] = [StorageUnavailable, StorageUnavailable]

    async def work() -> str:
        if tries:
            raise tries.pop()
        return "there"

    assert await retry_unavailable(work) == "there"
    tries += [StorageUnavailable] * retrying.ATTEMPTS
    with pytest.raises(StorageUnavailable):
        await retry_unavailable(work)
    tries[:] = [StorageUnavailable, ObjectMissing]
    with pytest.raises(ObjectMissing):
        await retry_unavailable(work)
    assert tries == [StorageUnavailable]
