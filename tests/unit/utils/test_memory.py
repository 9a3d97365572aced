"""How the process asks for memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# 16 threads hold 60 kB each at the same time; glibc would give each an arena of its own, up to 8 a core.
_CODE = """
import ctypes, re, sys, threading
from utils.memory import few_arenas
if sys.argv[1] == "few":
    assert few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
barrier = threading.Barrier(17)
def hold():
    held = [libc.malloc(600) for _ in range(100)]
    barrier.wait(); barrier.wait()
    for each in held: libc.free(each)
for _ in range(16): threading.Thread(target=hold).start()
barrier.wait()
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.open_memstream.restype = ctypes.c_void_p
libc.open_memstream.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
text, size = ctypes.c_char_p(), ctypes.c_size_t()
stream = libc.open_memstream(ctypes.byref(text), ctypes.byref(size))
libc.malloc_info(0, stream); libc.fclose(stream)
print(len(re.findall(rb"<heap nr", text.value)))
barrier.wait()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_threads_share_two_arenas() -> None:
    def arenas(how: str) -> int:
        environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
        done = subprocess.run([sys.executable, "-c", _CODE, how], cwd=ROOT, env=environment, capture_output=True, check=True)
        return int(done.stdout)

    assert arenas("few") <= 2 < arenas("many")


# What a decoder does with each picture: takes blocks of several MB, touches all of their pages, frees them.
_PICTURES = """
import ctypes, resource, sys
from utils.memory import keep_large_blocks
if sys.argv[1] == "keep":
    assert keep_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def picture():
    held = [libc.malloc(6_000_000) for _ in range(4)]
    for each in held: ctypes.memset(each, 1, 6_000_000)
    for each in held: libc.free(each)
picture()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): picture()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_blocks_of_pictures_are_kept_for_the_next_picture() -> None:
    def faults(how: str) -> int:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        done = subprocess.run(
            [sys.executable, "-c", _PICTURES, how], cwd=ROOT, env=environment, capture_output=True, check=True
        )  # fmt: skip
        return int(done.stdout)

    assert faults("keep") < 1000
    assert faults("glibc's way") > 5000
