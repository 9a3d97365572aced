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
