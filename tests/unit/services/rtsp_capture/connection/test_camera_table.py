"""The table of cameras (`tests/kits/camera_table.py`) by both readers: whole pictures, in order, and their times.

Nothing waits for real time: the cameras' packets come on the script's clock. `make bench-cameras` prints the table.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest

from services.rtsp_capture.media.jpeg import received_jpeg
from tests.kits.camera_table import CAMERAS, Camera
from tests.kits.scripted_camera import T0, Script, Told, play_native, play_opencv, shown

SECONDS = 12.0
PLAYED = [(name, reader) for name, camera in CAMERAS.items() for reader in ("native", "opencv")[: 1 + camera.opencv]]
_told: dict[tuple[str, str], Told] = {}


@cache
def script(name: str) -> Script:
    return CAMERAS[name].made(SECONDS)


async def play(name: str, reader: str) -> Told:
    if (name, reader) not in _told:
        made = script(name)
        _told[name, reader] = play_native(made) if reader == "native" else await play_opencv(made)
    return _told[name, reader]


def whole(name: str, reader: str, told: Told, camera: Camera) -> None:
    """Every picture once, in order, from the first that can be decoded on, and looking as the camera made it."""
    packets = told.packets
    first = next(at for at, packet in enumerate(packets) if packet.key)
    numbers = [told.number(packet) for packet in packets[first:]]
    keys = [shot.number for shot in told.script.shots if shot.key]
    assert numbers[0] == keys[0]
    assert numbers == list(range(keys[0], keys[0] + len(numbers)))
    # The last ones may wait for what would follow; FFmpeg's parser waits for the next one.
    assert told.script.shots[-1].number - 2 <= (numbers[-1] or 0) <= told.script.shots[-1].number
    assert not any(packet.corrupt or packet.lost for packet in packets[first:])
    untimed = sum(not packet.timed for packet in packets)
    assert untimed <= camera.untimed * len(packets) * (reader == "native")
    if camera.film:
        seen = shown(told, camera.film, camera.seen)
        assert all(told_ == seen_ for told_, seen_ in seen), [pair for pair in seen if pair[0] != pair[1]][:5]
        assert len(seen) >= min(camera.seen * 3 // 4, len(packets) - first - 3)
    else:
        assert all(received_jpeg(packet.data).width == told.infos[0].width for packet in packets[:20])


@pytest.mark.parametrize(("name", "reader"), PLAYED)
async def test_pictures_come_whole_and_rightly_timed(name: str, reader: str) -> None:
    camera, told = CAMERAS[name], await play(name, reader)
    whole(name, reader, told, camera)
    rows = told.rows()
    within, count = told.within
    assert within >= camera.within * count, (within, count)
    off = [error for number, error, packet in rows if packet.received > T0 + camera.settled]
    assert max(map(abs, off)) <= camera.off
    assert all(a[2].timestamp < b[2].timestamp + 1e-6 for a, b in pairwise(rows[-50:]))
    assert told.packets[-1].source == (camera.source if reader == "native" else "receipt")
    if camera.source in ("rtcp", "rtp") and reader == "native":
        exact = [abs(error) for _, error, packet in rows if packet.source == camera.source]
        assert max(exact) < 0.001
        assert len(exact) == len(rows) if camera.source == "rtp" else len(exact) > 0.3 * len(rows) - 200


@pytest.mark.parametrize("reader", ["native", "opencv"])
async def test_over_the_whole_table_frames_lie_within_their_uncertainty(reader: str) -> None:
    """At least 99 % of them."""
    within = count = 0
    for name, each in PLAYED:
        if each == reader:
            found = (await play(name, reader)).within
            within, count = within + found[0], count + found[1]
    assert count > 5000
    assert within >= 0.99 * count, (within, count)
