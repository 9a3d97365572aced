"""How the process asks for memory."""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8  # mallopt(3)
_ARENAS = 2


def few_arenas() -> bool:
    """Lets glibc's threads share two arenas; whether it did. To be called before threads are started.

    A packet is allocated in a camera's thread and freed in another one: with an arena for each of a hundred threads,
    each keeps the most that it ever held (5 MB a camera, measured). MALLOC_ARENA_MAX in the environment wins.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not on musl, macOS, Windows
    return mallopt is not None and mallopt(_M_ARENA_MAX, _ARENAS) == 1
