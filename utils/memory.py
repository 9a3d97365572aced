"""How the process asks for memory."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)
_ARENAS = 2
_LARGE_BLOCK = 32 * 1024 * 1024  # bytes, the largest that glibc allows; a decoded 4K picture has 12 MB
_KEPT_FREE = 128 * 1024 * 1024  # bytes at the end of an arena: what four threads of pictures free and take again


def _mallopt(variable: str, parameter: int, value: int) -> bool:
    """Whether it was set; the environment variable of the same meaning wins."""
    if variable in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not on musl, macOS, Windows
    return mallopt is not None and mallopt(parameter, value) == 1


def few_arenas() -> bool:
    """Lets glibc's threads share two arenas; whether it did. To be called before threads are started.

    A packet is allocated in a camera's thread and freed in another one: with an arena for each of a hundred threads,
    each keeps the most that it ever held (5 MB a camera, measured). MALLOC_ARENA_MAX in the environment wins.
    """
    return _mallopt("MALLOC_ARENA_MAX", _M_ARENA_MAX, _ARENAS)


def keep_large_blocks() -> bool:
    """Lets glibc keep the blocks of pictures for the next picture; whether it did.

    Else each plane of each picture is mapped, touched page by page and unmapped again: 2,000 page faults for one picture
    of 1080p. What is free at the end of an arena beyond 128 MB still goes back. MALLOC_MMAP_THRESHOLD_ and
    MALLOC_TRIM_THRESHOLD_ in the environment win.
    """
    kept = _mallopt("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, _LARGE_BLOCK)
    return _mallopt("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, _KEPT_FREE) and kept
