"""Jobs for the worker processes of tests: they answer, spin, crash, take memory."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import Any


def echo(*args: Any) -> list[Any]:
    return list(args)


def pid() -> int:
    return os.getpid()


def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def spin() -> None:
    while True:
        pass


def end(how: str) -> None:
    if how == "null":
        ctypes.string_at(0)
    if how == "abort":
        os.abort()
    os._exit(0)


def fail(text: str) -> None:
    raise ValueError(text)


def take(size: int) -> int:
    """Takes memory as C libraries do, and gives it back."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    block = libc.malloc(size)
    if not block:
        raise MemoryError
    libc.free(block)
    return size


_kept: list[bytearray] = []


def keep(size: int) -> int:
    """Keeps memory after its end."""
    _kept.append(bytearray(size))
    return os.getpid()


def secrets() -> dict[str, str]:
    return dict(os.environ)


def write(path: str) -> str:
    try:
        Path(path).write_bytes(b"x" * 100)
    except OSError as error:
        return type(error).__name__
    return "written"
