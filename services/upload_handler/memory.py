"""How much memory a picture takes while it is checked: known from its headers, before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable

MARGIN = 16_777_216  # bytes: the decoders' own tables and buffers, and Python's objects


class NeedsMemory(Exception):
    """The check was granted less than it needs. Nothing has been decoded."""

    def __init__(self, size: int) -> None:
        self.size = size  # bytes, of the whole check
        super().__init__(f"{size} bytes")


Afford = Callable[[int], None]
"""Called with the bytes that decoding takes beside the file itself. Raises NeedsMemory."""


def to_read(file_size: int) -> int:
    """Bytes that a check needs before it knows the picture: the file, and a copy of what its decoder is given."""
    return 2 * file_size + MARGIN


def granted(file_size: int, memory: int) -> Afford:
    """What a check with `memory` bytes may afford."""

    def afford(decoding: int) -> None:
        need = to_read(file_size) + decoding
        if need > memory:
            raise NeedsMemory(need)

    return afford
