"""Memory in which a parent lays a job's bytes for its worker process: one copy, a socket takes two and more wake-ups."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Self

SIZE = 8_388_608  # bytes
_KEPT = 1_048_576  # bytes of a job whose pages stay; those of a larger one go back


class SharedBytes:
    """Written by the parent alone. Its size is sealed: a worker that a picture has taken over cannot shorten it, which would
    end the parent at its next write. The parent never reads from it, so whatever else the worker does is its own loss."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._mapped = mmap.mmap(fd, SIZE)

    @classmethod
    def made(cls) -> Self | None:
        """None where the system has no such memory (all but Linux): then the bytes go by the socket."""
        if not hasattr(os, "memfd_create"):
            return None
        fd = os.memfd_create("job", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, SIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            return cls(fd)
        except OSError:
            os.close(fd)
            raise

    def hold(self, parts: Sequence[bytes], size: int) -> bool:
        """Lays down `size` bytes; False, and nothing, when they are too many."""
        if size > SIZE:
            return False
        at = 0
        for part in parts:
            self._mapped[at : at + len(part)] = part
            at += len(part)
        return True

    def trim(self, size: int) -> None:
        """Gives back the pages of a job of `size` bytes that has ended."""
        if size > _KEPT:
            self._mapped.madvise(mmap.MADV_REMOVE)

    def close_fd(self) -> None:
        """The worker has it now; the mapping stays, and ends with this object."""
        os.close(self.fd)
