"""A stream proves itself in a worker process: what its pictures do there, and when threads take over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest

from config import RtspSettings
from services.rtsp_capture.media import decode_job
from services.rtsp_capture.media.decoder import PictureDecoder
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.media.luma import Luma
from services.rtsp_capture.media.parameter_sets import SeenSets
from services.rtsp_capture.streams.stream_decoder import StreamDecoder
from services.rtsp_capture.streams.trials import (
    CONDEMNED_SECONDS,
    DEATH_SECONDS,
    MAX_DEATHS,
    PROOF,
    Record,
    Trials,
)
from tests.kits import worker_jobs
from tests.unit.services.rtsp_capture.capture_films import FILMS, encode, film, received, scene
from tests.unit.services.rtsp_capture.scripted import jpeg_of
from utils.exceptions import CaptureFailure
from utils.metrics import TRIAL_PICTURES
from utils.pool import WorkerPool

HOSTILE = f"{worker_jobs.__name__}:hostile_decode"


@pytest.fixture(scope="module")
async def trials() -> AsyncIterator[Trials]:
    threads = WorkerPool("trials-test", 1)
    made = Trials(RtspSettings(TRIAL_PROCESSES=1), threads)
    yield made
    await made.close()
    await threads.close()
    left = [child for child in psutil.Process().children() if "worker_process" in " ".join(child.cmdline())]
    assert left == []


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """The pictures that are decoded in this process."""
    seen: list[Picture] = []
    decode, luma = PictureDecoder.decode, PictureDecoder.luma

    def decoded(self: PictureDecoder, picture: Picture, quality: int) -> Any:
        seen.append(picture)
        return decode(self, picture, quality)

    def looked_at(self: PictureDecoder, picture: Picture, width: int) -> Luma:
        seen.append(picture)
        return luma(self, picture, width)

    monkeypatch.setattr(PictureDecoder, "decode", decoded)
    monkeypatch.setattr(PictureDecoder, "luma", looked_at)
    return seen


def pictures(name: str) -> list[Picture]:
    return received(film(name).packets, film(name).info)


def made(trials: Trials, name: str, key: object = None) -> StreamDecoder:
    decoder = StreamDecoder(trials.threads, lossy=False, trial=trials.of("pit-1", key, lossy=False))
    decoder.opened(film(name).info, 1)
    return decoder


@pytest.mark.parametrize("name", ["h264", "h264 b open", "h264 refresh", "hevc b open"])
async def test_the_worker_makes_the_same_picture_as_a_thread(trials: Trials, name: str) -> None:
    source, found = film(name), pictures(name)
    trial = trials.of("pit-1", None, lossy=False)
    for index in (0, 1, 26, 30, 55):
        picture = found[index]
        if not picture.decodable:
            with pytest.raises(CaptureFailure, match="from before the connection"):
                await trial.jpeg(source.info, picture, 80)
            continue
        assert await trial.jpeg(source.info, picture, 80) == PictureDecoder(source.info).decode(picture, 80)
        assert np.array_equal(await trial.luma(source.info, picture, 64), PictureDecoder(source.info).luma(picture, 64))


async def test_threads_take_over_once_a_stream_has_proved_itself(trials: Trials, in_threads: list[Picture]) -> None:
    decoder, found = made(trials, "h264", "camera"), pictures("h264")
    for number in range(PROOF - 1):
        await decoder.decode(found[number], 80)
    assert await decoder.inspect(found[PROOF - 1], 64, lambda luma: luma.shape[1]) == 64
    assert in_threads == []
    await decoder.decode(found[PROOF], 80)
    await decoder.snapshot(found[PROOF + 1], 80)
    assert await decoder.inspect(found[PROOF + 2], 64, lambda luma: luma.shape[1]) == 64
    assert in_threads == found[PROOF : PROOF + 3]
    again, other = made(trials, "h264", "camera"), made(trials, "h264", "another camera")
    await again.decode(found[0], 80)
    await other.decode(found[0], 80)
    assert in_threads[3:] == [found[0]]
    for each in (decoder, again, other):
        await each.close()


async def test_new_parameter_sets_are_proven_anew(trials: Trials, in_threads: list[Picture]) -> None:
    """The camera switches its size in mid-stream; the same connection, the same information about it."""
    first = film("h264")
    small = encode("h264", FILMS["h264"][1], scene(30, 192, 112))
    later = [replace(packet, pts=packet.pts + 4, timestamp=packet.timestamp + 4) for packet in small.packets]
    found = received([*first.packets[:50], *later], first.info)
    decoder = made(trials, "h264")
    for number in range(PROOF + 1):
        await decoder.decode(found[number], 80)
    assert in_threads == [found[PROOF]]
    sizes = [await decoder.decode(found[50 + number], 80) for number in range(PROOF)]
    assert {(jpeg.width, jpeg.height) for jpeg in sizes} == {(192, 112)}
    assert in_threads == [found[PROOF]]
    await decoder.decode(found[50 + PROOF], 80)
    await decoder.decode(found[49], 80)  # the former ones stay proven
    assert in_threads == [found[PROOF], found[50 + PROOF], found[49]]
    await decoder.close()


@pytest.mark.parametrize(("marked", "outcome"), [(11, "crashed"), (12, "timeout")], ids=["aborts", "spins"])
async def test_a_picture_that_kills_its_worker_is_one_picture_less(
    trials: Trials, monkeypatch: pytest.MonkeyPatch, marked: int, outcome: str
) -> None:
    """The picture, and those that need the same data; the next group is decoded, in a worker, while others go on."""
    monkeypatch.setattr(decode_job, "DECODE", HOSTILE)
    monkeypatch.setattr(trials.pool, "_timeout", 2.0)
    decoder, other, found = made(trials, "h264"), made(trials, "hevc"), pictures("h264")
    count = TRIAL_PICTURES.labels(outcome=outcome)._value
    before = count.get()
    await decoder.decode(found[marked - 2], 80)
    bad = asyncio.create_task(decoder.decode(found[marked], 80))
    await asyncio.sleep(0)
    assert (await other.decode(pictures("hevc")[0], 80)).width == 320
    for failed in (bad, decoder.decode(found[marked], 80), decoder.decode(found[marked + 5], 80)):
        with pytest.raises(CaptureFailure, match="decode_failed"):
            await failed
    assert (await decoder.decode(found[25], 80)).width == 320
    assert count.get() == before + 1
    await decoder.close()
    await other.close()


async def test_a_stream_that_kills_its_workers_is_condemned(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_job, "DECODE", HOSTILE)
    source = encode("h264", FILMS["h264"][1], scene(110, worker_jobs.ABORTING_WIDTH, 192))
    found, told = received(source.packets, source.info), []
    trial = trials.of("pit-1", "hostile", lossy=False)
    trial.on_condemned = lambda: told.append(1)
    for number in range(MAX_DEATHS):
        assert trial.condemned is None
        with pytest.raises(CaptureFailure, match="decode_failed"):
            await trial.jpeg(source.info, found[25 * number], 80)
    crashed = TRIAL_PICTURES.labels(outcome="crashed")._value.get()
    assert told == [1]
    for each in (trial, trials.of("pit-1", "hostile", lossy=False)):  # a new stream of the same camera, too
        with pytest.raises(CaptureFailure, match="again and again"):
            await each.jpeg(source.info, found[75], 80)
    assert TRIAL_PICTURES.labels(outcome="crashed")._value.get() == crashed


async def test_the_worker_tells_of_damage(trials: Trials) -> None:
    """A slice that cannot be decoded spoils the pictures after it, as in a thread."""
    source = film("h264")
    packets = list(source.packets[:40])
    packets[5] = replace(packets[5], data=packets[5].data[:12] + b"\xff" * 200)
    trial = trials.of("pit-1", None, lossy=False)
    found, alone = received(packets, source.info), received(packets, source.info)
    with pytest.raises(CaptureFailure):
        PictureDecoder(source.info).decode(alone[9], 80)
    with pytest.raises(CaptureFailure):
        await trial.jpeg(source.info, found[9], 80)
    assert found[9].gop.damage == alone[9].gop.damage
    assert found[9].gop.damage.any


async def test_pictures_that_are_too_large_reach_no_decoder(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials.settings, "MAX_PIXELS", 320 * 100)
    with pytest.raises(CaptureFailure, match="RTSP__MAX_PIXELS"):
        await trials.of("pit-1", None, lossy=False).jpeg(film("h264").info, pictures("h264")[0], 80)


def test_an_answer_that_is_none_of_ours_is_no_picture() -> None:
    [picture, *_] = pictures("h264")
    for answer in ({}, None, {"damage": 1}, {"damage": [[None] * 3] * 3, "failed": "\x00" * 10_000}):
        with pytest.raises(CaptureFailure, match="could not be decoded whole"):
            decode_job.learn(answer, picture)
    whole = jpeg_of(1)
    good = [32, 16, "verified"]
    assert decode_job.jpeg_of({"jpeg": good}, whole).width == 32
    wrong = ([0, *good[1:]], [32, 16, "x"], [32, 16, None], "abc")
    for told, data in ((good, b"MZ"), *((each, whole) for each in wrong)):
        with pytest.raises(CaptureFailure):
            decode_job.jpeg_of({"jpeg": told}, data)
    for shape, data in (([2, 2], b"123"), ([-1, -1], b"1"), (3, b"123"), (["a", 1], b"1")):
        with pytest.raises(CaptureFailure):
            decode_job.luma_of({"luma": shape}, data)


def test_a_record_forgets_deaths_and_counts_each_set_by_itself() -> None:
    now = 0.0
    record = Record(lambda: now)
    one, two = frozenset((b"a",)), frozenset((b"a", b"b"))
    for _ in range(PROOF):
        record.worked(one)
    assert record.proven(one)
    assert not record.proven(two)
    for _ in range(MAX_DEATHS):
        now += DEATH_SECONDS
        assert not record.died()
    now += 1
    assert not record.died()
    now += 1
    assert record.died()
    assert record.condemned == CONDEMNED_SECONDS
    now += CONDEMNED_SECONDS + 1
    assert not record.condemned
    assert record.died()  # one more is enough


def test_parameter_sets_are_found_wherever_they_are() -> None:
    source = film("h264")
    packets = [packet for packet in source.packets if packet.key]
    sets = SeenSets().scan("h264", packets, 1)
    assert len(sets.found) == 2
    assert sets.pixels == 320 * 192
    moved = SeenSets()
    moved.note("h264", source.packets[1].data + packets[0].data)
    assert moved.found == sets.found
    hevc = SeenSets().scan("hevc", film("hevc").packets, 1)
    assert len(hevc.found) == 3
    many = SeenSets()
    many.note("h264", b"".join(b"\0\0\1\x68" + bytes((n, 1)) for n in range(1, 200)))
    assert many.too_many


def test_a_jpegs_tables_are_those_that_decide_how_it_is_decoded() -> None:
    def tables(data: bytes) -> set[bytes]:
        seen = SeenSets()
        seen.note("mjpeg", data)
        return seen.found

    assert tables(jpeg_of(1)) == tables(jpeg_of(2))
    plain = jpeg_of(1)
    taller = plain.replace(b"\xff\xc0\x00\x11\x08\x00\x10", b"\xff\xc0\x00\x11\x08\x01\x10")
    assert taller != plain
    assert tables(taller) != tables(plain)
    at = plain.index(b"\xff\xc4") + 25
    assert tables(plain[:at] + bytes([plain[at] ^ 1]) + plain[at + 1 :]) != tables(plain)
    at = plain.index(b"\xff\xdb") + 20
    assert tables(plain[:at] + bytes([plain[at] ^ 1]) + plain[at + 1 :]) == tables(plain)
    for broken in (b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\0", b"\xff\xd8\xff\xe0\0\0" * 9):
        tables(broken)
