"""Processes held to a part of a core by the kernel (control groups), so that cores are free beside them on a small machine.

`cpu.cfs_quota_us` of version 1, `cpu.max` of version 2 (Linux, cgroup-v1/scheduler.rst, cgroup-v2.rst). Root only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PERIOD = 10_000  # microseconds
_ROOTS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))


def _root() -> Path | None:
    for root in _ROOTS:
        if (root / "cpu.cfs_quota_us").exists() or (root / "cgroup.controllers").exists():
            return root if os.access(root, os.W_OK) else None
    return None


def possible() -> bool:
    """Whether this user may make control groups here."""
    return _root() is not None


@contextmanager
def limited(pids: Iterable[int], cores: float) -> Iterator[None]:
    """Each of these processes, with its threads, has at most so much of a core meanwhile. Raises OSError."""
    root = _root()
    assert root is not None
    quota, made = int(_PERIOD * cores), []
    try:
        for pid in pids:
            group = root / f"bench-{os.getpid()}-{pid}"
            group.mkdir()
            made.append((group, pid))
            if (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
                (group / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (group / "cpu.max").write_text(f"{quota} {_PERIOD}")
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for group, pid in made:
            with suppress(OSError):  # it has ended
                (root / "cgroup.procs").write_text(str(pid))
            for left in (group / "cgroup.procs").read_text().split():  # what it started meanwhile
                with suppress(OSError):
                    (root / "cgroup.procs").write_text(left)
            group.rmdir()
