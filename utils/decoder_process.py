"""One decoder process as its parent sees it: started, called, ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from utils.shared_bytes import SharedBytes

_PROGRAM = Path(__file__).with_name("worker_process.py")
_START_TIMEOUT = 60.0  # seconds; a busy machine imports slowly
_END_TIMEOUT = 2.0  # seconds for an idle one to end by itself
_MAX_ANSWER = 1_048_576  # bytes of one answer; a longer one is no answer of ours
# Few threads and arenas: each reserves address space, which the memory limit counts.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
# Large blocks go back to the kernel when they are freed, and the process does not stay as large as its largest job.
_RETURNING = {"MALLOC_MMAP_THRESHOLD_": "4194304"}
# Jobs that are much alike use the same blocks again: asking the kernel for each took a decoder 2,300 page faults a picture.
_REUSING = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "134217728"}


class StartFailed(Exception):
    """The process ended before it was ready; the text says why where it could say so."""


class WorkerDied(Exception):
    """The process ended, or said something that is no answer, while it was asked."""


class DecoderProcess:
    """On the event loop. `jobs`: how many it was given."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        shared: SharedBytes | None,
    ) -> None:  # fmt: skip
        self._process = process
        self._reader = reader
        self._writer = writer
        self._busy = True  # with its start, then with a job
        self._lost = False  # the connection; the process has ended or is about to
        self._killed = False  # by us
        self._shared = shared
        self.jobs = 0

    @classmethod
    async def start(cls, preload: list[str], *, reuse: bool = False) -> Self:
        """Returns when its modules are loaded. `reuse`: see ProcessPool. Raises StartFailed, OSError."""
        ours, theirs = socket.socketpair()
        shared = SharedBytes.made()
        with theirs:
            spec = {"fd": theirs.fileno(), "parent": os.getpid(), "root": str(_PROGRAM.parents[1]), "preload": preload}
            passed = [theirs.fileno()]
            if shared is not None:
                spec["shared"] = shared.fd
                passed.append(shared.fd)
            bytecode = ["-B"] if sys.dont_write_bytecode else []
            # Where the interpreter's own libraries are, if somewhere unusual; nothing else of the service's environment.
            libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", *bytecode, str(_PROGRAM), json.dumps(spec),
                    stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                    pass_fds=passed, env=_ENVIRONMENT | (_REUSING if reuse else _RETURNING) | libraries,
                    start_new_session=True,  # a terminal's Ctrl-C stops the service, which lets running jobs end
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
            finally:
                if shared is not None:
                    shared.close_fd()
        ours.setblocking(False)
        try:
            worker = cls(process, *await asyncio.open_connection(sock=ours, limit=_MAX_ANSWER), shared)
        except BaseException:  # cancelled: nobody would wait for the process
            process.kill()
            await asyncio.shield(process.wait())
            raise
        try:
            said = await asyncio.wait_for(worker._answer(), _START_TIMEOUT)
        except (WorkerDied, TimeoutError):
            raise StartFailed(f"it ended with {await worker.end()} before it was ready") from None
        except BaseException:
            await asyncio.shield(worker.end())
            raise
        worker._busy = False
        if "failed" in said:
            await worker.end()
            raise StartFailed(str(said["failed"]))
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None and not self._reader.at_eof()

    async def call(self, job: dict[str, Any], attached: Sequence[bytes] = (), most: int = 0) -> tuple[dict[str, Any], bytes]:
        """The answer to one job, and the bytes that came with it, at most `most`.

        Raises WorkerDied; after that, or a cancelled call, it can only be ended.
        """
        self.jobs += 1
        self._busy = True
        size = sum(map(len, attached))
        if attached:
            by_memory = self._shared is not None and self._shared.hold(attached, size)
            job = {**job, "shared" if by_memory else "bytes": size}
            if by_memory:
                attached = ()
        self._writer.write(json.dumps(job).encode() + b"\n")
        for part in attached:
            self._writer.write(part)
        answer = await self._answer()
        back = await self._bytes(answer.get("bytes", 0), most)
        self._busy = False
        if self._shared is not None:
            self._shared.trim(size)
        return answer, back

    async def cause(self) -> Literal["crashed", "killed"]:
        """Why it died. "killed": by a signal that decoders do not end by, sent from outside."""
        code = await self.end()
        return "killed" if code in (-signal.SIGKILL, -signal.SIGTERM) and not self._killed else "crashed"

    async def end(self) -> int:
        """Ends it, and returns its exit code, negative for a signal. Repeating it is fine."""
        self._writer.close()  # an idle one ends by that; one that is at work is killed
        if self._busy and not self._lost:
            self._kill()
        try:
            return await asyncio.wait_for(self._process.wait(), _END_TIMEOUT)
        except TimeoutError:
            self._kill()
            return await self._process.wait()

    def abandon(self) -> None:
        """Ends it at once, without waiting: its caller was cancelled."""
        self._writer.close()
        self._kill()

    def _kill(self) -> None:
        if self._process.returncode is None:
            self._killed = True
            self._process.kill()

    async def _bytes(self, count: Any, most: int) -> bytes:
        if not isinstance(count, int) or not 0 <= count <= most:
            raise WorkerDied
        try:
            return await self._reader.readexactly(count)
        except (OSError, asyncio.IncompleteReadError):
            self._lost = True
            raise WorkerDied from None

    async def _answer(self) -> dict[str, Any]:
        line, answer = b"", None
        try:
            line = await self._reader.readline()
            answer = json.loads(line) if line.endswith(b"\n") else None
        except OSError:
            pass
        except ValueError:  # too long, or no JSON
            line = b"?"
        if not isinstance(answer, dict):
            self._lost = not line
            raise WorkerDied
        return answer
