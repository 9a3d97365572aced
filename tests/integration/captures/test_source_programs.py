"""Source pictures in the programs that people have: ffmpeg, OpenCV, VLC, a browser. Each shows the very same picture."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from services.rtsp_capture.media.source_file import source_file
from services.rtsp_capture.media.source_reading import open_source, rgb
from tests.kits.browser import Tab, browser, tab  # noqa: F401
from tests.kits.source_pictures import file_of
from tests.unit.services.rtsp_capture.capture_films import encode, pixels, received, scene

FILMS = ["h264", "h264 b open", "h264 interlaced", "hevc", "hevc b open"]
MAX_PIXELS = 50_000_000
NOBODY = 65534
SHOW = """
async ([data, width, height]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const video = document.createElement('video');
  video.muted = true;
  video.src = URL.createObjectURL(new Blob([bytes], {type: 'video/mp4'}));
  await new Promise((good, bad) => {
    video.requestVideoFrameCallback(good);
    video.onerror = () => bad(new Error(video.error.message));
  });
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0, width, height);
  const shown = Array.from(context.getImageData(0, 0, width, height).data);
  return {width: video.videoWidth, height: video.videoHeight, duration: video.duration, shown};
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that other users may write to."""
    for above in (tmp_path, *tmp_path.parents):
        if above.owner() == tmp_path.owner() and above != Path("/tmp"):
            above.chmod(above.stat().st_mode | 0o055)
    tmp_path.chmod(0o777)
    return tmp_path


def program_of(variable: str, name: str) -> str:
    program = os.environ.get(variable) or shutil.which(name)
    if program is None:
        reason = f"no {name}: `make {name}` installs Debian's, or set {variable} to one"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return program


def picture_of(data: bytes) -> Any:
    return open_source(data, MAX_PIXELS).frame


@pytest.mark.parametrize("name", FILMS)
def test_ffmpeg_shows_it(tmp_path: Path, name: str) -> None:
    program = program_of("FFMPEG", "ffmpeg")
    path = tmp_path / "picture.mp4"
    path.write_bytes(file_of(name).data)
    command = [program, "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    assert done.stderr == b""
    assert done.stdout == pixels(picture_of(file_of(name).data)).tobytes()


# OpenCV 5 shows interlaced pictures black, those of ordinary films too.
@pytest.mark.parametrize("name", [name for name in FILMS if "interlaced" not in name])
def test_opencv_shows_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "picture.mp4"
    path.write_bytes(file_of(name).data)
    opened = cv2.VideoCapture(str(path))
    good, image = opened.read()
    assert good
    assert not opened.read()[0]
    assert difference(np.asarray(image, np.uint8), rgb(picture_of(file_of(name).data))[:, :, ::-1]) < 2


@pytest.mark.parametrize("name", FILMS)
def test_vlc_takes_it_apart(folder: Path, name: str) -> None:
    """Its demuxer and packetizer hand the picture on to its own writer of Matroska."""
    program = program_of("VLC", "vlc")
    (folder / "picture.mp4").write_bytes(file_of(name).data)
    (folder / "picture.mp4").chmod(0o644)
    command = [
        program, "-I", "dummy", "--no-audio", "--play-and-exit",
        "--sout", f"#std{{access=file,mux=mkv,dst={folder}/out.mkv}}", str(folder / "picture.mp4"),
    ]  # fmt: skip
    other = NOBODY if os.geteuid() == 0 else None  # VLC does not run as root
    home = {"HOME": str(folder), "PATH": os.environ["PATH"], "TMPDIR": str(folder)}  # PulseAudio leaves a folder there
    done = subprocess.run(command, capture_output=True, timeout=60, env=home, check=False, user=other, group=other)
    assert (folder / "out.mkv").exists(), done.stderr.decode()
    with av.open(str(folder / "out.mkv")) as file:
        (frame,) = file.decode(video=0)
    assert np.array_equal(pixels(frame), pixels(picture_of(file_of(name).data)))


@pytest.mark.parametrize("name", ["h264", "h264 b open", "h264 interlaced"])
async def test_a_browser_shows_it_in_a_video_element(tab: Tab, name: str) -> None:  # noqa: F811
    file = file_of(name)
    found = await shown(tab, file.data, file.width, file.height)
    assert (found["width"], found["height"]) == (file.width, file.height)
    assert found["duration"] == pytest.approx(1 / 25, abs=0.001)
    seen = np.array(found["shown"], np.uint8).reshape(file.height, file.width, 4)[:, :, :3]
    assert difference(seen, rgb(picture_of(file.data))) < 4


async def test_a_browser_shows_pixels_in_their_shape_and_colours(tab: Tab) -> None:  # noqa: F811
    """Which it takes from the file's own boxes alone."""
    params = "sar=4\\:3:fullrange=on:colorprim=bt709:transfer=bt709:colormatrix=bt709:keyint=5"
    made = encode("h264", {"x264-params": params}, scene(6, 320, 180))
    picture = next(one for one in received(made.packets, made.info) if one.packet.key)
    data = source_file(made.info, picture, lossy=False).data
    found = await shown(tab, data, 320, 180)
    assert (found["width"], found["height"]) in ((427, 180), (426, 180))
    seen = np.array(found["shown"], np.uint8).reshape(180, 320, 4)[:, :, :3]
    assert difference(seen, rgb(picture_of(data))) < 4


async def shown(tab: Tab, data: bytes, width: int, height: int) -> dict[str, Any]:  # noqa: F811
    await tab.page.goto("about:blank")
    found: dict[str, Any] = await tab.page.evaluate(SHOW, [base64.b64encode(data).decode(), width, height])
    return found


def difference(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean difference (of 255) of what is left once both are blurred: programs draw chroma in ways of their own."""
    assert image.shape == other.shape
    smooth = [cv2.blur(np.ascontiguousarray(one), (8, 8)) for one in (image, other)]
    return float(cv2.absdiff(*smooth).mean())
