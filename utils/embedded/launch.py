"""The last steps before exec, as a program of its own: ``python -I -S launch.py '<json>'``.

Run between fork and exec (``preexec_fn``) this code could deadlock on a lock that another thread of the
service held at the fork. As a separate program it costs 20 ms and may call what it likes. It imports nothing
of the project, and everything it needs before it gives up root, since Python itself may live under /root.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _drop_to(libc: ctypes.CDLL, uid: int, gid: int, capability: int | None) -> None:
    """Become uid:gid for good, keeping at most the one capability that lets it pass through folders."""
    if capability is not None:
        # Capabilities then outlast the change of user, and access(2) takes them into account, which it otherwise
        # does for root only: initdb and postgres ask access(2) whether they may run their own binaries. The bit
        # needs CAP_SETPCAP and outlasts exec and fork.
        _check(libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "PR_SET_SECUREBITS")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if capability is not None:
        bit = 1 << capability
        data = (_CapData * 2)(_CapData(bit, bit, bit), _CapData(0, 0, 0))
        _check(libc.capset(ctypes.byref(_CapHeader(_CAPABILITY_VERSION_3, 0)), data), "capset")
        _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0), "PR_CAP_AMBIENT_RAISE")


def main() -> None:
    spec: dict[str, Any] = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    # Sockets and files of the parts are nobody else's business.
    os.umask(0o077)
    os.chdir(spec["cwd"])
    if spec["uid"] is not None:
        _drop_to(libc, spec["uid"], spec["gid"], spec["capability"])
    if sys.platform == "linux":
        # After the change of user, which clears it.
        _check(libc.prctl(_PR_SET_PDEATHSIG, spec["death_signal"], 0, 0, 0), "PR_SET_PDEATHSIG")
        if os.getppid() != spec["parent"]:
            sys.exit("launch: the service died before its child was started")
    argv: list[str] = spec["argv"]
    os.execve(argv[0], argv, os.environ)  # noqa: S606


if __name__ == "__main__":
    main()
