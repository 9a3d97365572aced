"""Jobs for the worker processes of tests: they answer, spin, crash, take memory."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import time
from pathlib import Path
from typing import Any


def echo(*args: Any) -> list[Any]:
    return list(args)


def measured(data: bytes) -> tuple[list[Any], bytes]:
    """The size and the ends of the bytes that came with it."""
    return [len(data), data[:1].hex(), data[-1:].hex()], b""


def shrink(_data: bytes) -> tuple[list[str], bytes]:
    """Tries to take away the memory that the parent writes to; what became of it."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if "memfd:" in os.readlink(f"/proc/self/fd/{name}"):
                os.ftruncate(int(name), 0)
                found.append("shrunk")
        except PermissionError:
            found.append("refused")
        except FileNotFoundError:  # of the listing itself
            continue
    return found, b""


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


def touch(size: int) -> int:
    """Writes to so many bytes of memory, as a decoder to its pictures, and gives them back; the page faults of that."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


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


def reversed_bytes(attached: bytes) -> tuple[int, bytes]:
    return len(attached), attached[::-1]


def hostile_decode(spec: dict[str, Any], attached: bytes) -> tuple[dict[str, Any], bytes]:
    """`decode_job.decode` with holes: pictures of one width end it, those of another keep it busy for ever, and so do those
    at certain seconds of their stream."""
    from services.rtsp_capture.media.decode_job import decode

    width, wanted = spec["info"][2], spec["groups"][1][spec["index"]][1]
    if width == ABORTING_WIDTH or math.isclose(wanted, ABORTING_AT):
        os.abort()
    if width == SPINNING_WIDTH or math.isclose(wanted, SPINNING_AT):
        spin()
    return decode(spec, attached)


ABORTING_WIDTH = 336  # pixels
SPINNING_WIDTH = 368
ABORTING_AT = 0.44  # seconds of the stream
SPINNING_AT = 0.48
