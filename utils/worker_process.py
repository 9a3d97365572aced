"""The program of a worker process: `python -I worker_process.py '<json>'`, started by utils/process_pool.py alone.

It runs one job after the other, each within the memory that its caller grants, and ends with its parent. What it is
given may be hostile and its decoders may have holes, so it starts without the service's environment (no secret is in
it), cannot write files, and answers with JSON, which, unlike a pickle, cannot run code in the parent.

Lines of JSON over one socket: {"call": "module:function", "args": [...], "memory": bytes} is answered by
{"result": ...} or {"error": an exception's type}, with "grown": bytes that the process keeps after the job. A job with
"bytes" is followed by so many bytes; one with "shared" has so many in the memory that its parent shares with it. Its
function takes them as its last argument and returns (result, bytes), and the answer is followed by those, "bytes" of them.

What a job leaves behind is cleared away after its answer, once no other has come for a second: doing it before the answer
made each picture of a stream 46 ms late.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import mmap
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_FILES = 64
_IDLE = 1000  # milliseconds without a job, after which memory is given back
_KEEP = 33_554_432  # bytes that a job may leave behind until then; more is given back before its answer
_OOM_SCORE = "800"  # where the machine's memory ends all the same, the kernel ends this process rather than the service


def _die_with(parent: int) -> None:
    """Linux: the kernel ends this process when its parent's thread that started it ends, also in mid-job."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it died before the first line
        sys.exit(1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def _no_writing() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _address_space() -> int:
    """Bytes mapped by this process; 0 where that is not to be had."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # ten times as fast as Path, once a job
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _limit_memory(size: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def _function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _run(job: dict[str, Any], attached: bytes | None) -> tuple[dict[str, Any], bytes]:
    back = b""
    try:
        function = _function(job["call"])
        before = _address_space()
        if before:
            _limit_memory(before + job["memory"])
        try:
            if attached is None:
                answer = {"result": function(*job["args"])}
            else:
                result, back = function(*job["args"], attached)
                answer = {"result": result, "bytes": len(back)}
        finally:
            _limit_memory(resource.RLIM_INFINITY)
    except Exception as error:
        # The type alone: a text may quote the input.
        return {"error": type(error).__name__}, b""
    if _address_space() - before > _KEEP:
        _give_back()
    return {**answer, "grown": max(0, _address_space() - before)}, back


def _shared(spec: dict[str, Any]) -> Any:
    """The memory in which the parent lays a job's bytes; it never reads there."""
    if "shared" not in spec:
        return b""
    mapped = mmap.mmap(spec["shared"], 0, prot=mmap.PROT_READ)
    os.close(spec["shared"])
    return mapped


def _give_back() -> None:
    """Memory that is not used."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _serve(channel: socket.socket, shared: Any) -> None:
    """One job after the other, until the parent closes its end."""
    coming = select.poll()
    coming.register(channel, select.POLLIN)
    tidy = True
    with channel.makefile("rb") as lines:
        while True:
            if not tidy and not coming.poll(_IDLE):
                _give_back()
                tidy = True
            line = lines.readline()
            if not line:
                return
            job = json.loads(line)
            attached = lines.read(job["bytes"]) if "bytes" in job else shared[: job["shared"]] if "shared" in job else None
            answer, back = _run(job, attached)
            channel.sendall(json.dumps(answer).encode() + b"\n")
            channel.sendall(back)
            tidy = False


def main() -> None:
    spec: dict[str, Any] = json.loads(sys.argv[1])
    channel = socket.socket(fileno=spec["fd"])
    try:
        if sys.platform == "linux":
            _die_with(spec["parent"])
        sys.path.insert(0, spec["root"])
        for name in spec["preload"]:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()  # what is loaded stays: collections need not look through it
        _no_writing()
    except Exception as error:
        channel.sendall(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        return
    channel.sendall(b'{"ready": true}\n')
    _serve(channel, _shared(spec))


if __name__ == "__main__":
    main()
