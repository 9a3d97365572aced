"""Source pictures for tests: files as the capture makes them, and damaged ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from services.rtsp_capture.media.gop_buffer import Packet, Picture
from services.rtsp_capture.media.packets import PictureFile
from services.rtsp_capture.media.source_file import source_file
from tests.unit.services.rtsp_capture.capture_films import FILMS, Film, encode, film, received


def keyframes(name: str = "h264") -> list[Picture]:
    """The keyframes of one of capture_films' films, in decoding order."""
    made = film(name)
    return [picture for picture in received(made.packets, made.info) if picture.packet.key]


def file_of(name: str = "h264", number: int = 1) -> PictureFile:
    """That of the film's keyframe of this number."""
    return source_file(film(name).info, keyframes(name)[number], lossy=False)


def black_file() -> PictureFile:
    """A picture of a camera whose lens is covered, of the size of the other films'."""
    like = file_of()
    planes = np.full((like.height * 3 // 2, like.width), 128, np.uint8)
    planes[: like.height] = 16
    made = encode("h264", FILMS["h264"][1], [planes])
    return source_file(made.info, received(made.packets, made.info)[0], lossy=False)


def damaged_file(name: str = "h264", *, silent: bool = False) -> PictureFile:
    """One whose slices' data is garbage in the middle; headers and container are as they should be."""
    whole: Film = film(name)
    packets: list[Packet] = []
    for packet in whole.packets:
        half = len(packet.data) // 2
        packets.append(replace(packet, data=packet.data[:half] + b"\xa5" * 200 + packet.data[half + 200 :]))
    picture = next(one for one in received(packets, whole.info) if one.packet.key)
    return replace(source_file(whole.info, picture, lossy=False), silent=silent)
