"""What can go wrong when an embedded part starts. Both messages are meant for an operator's terminal."""

from __future__ import annotations

from pathlib import Path


class EmbeddedStartError(RuntimeError):
    """A part did not come up. ``reason`` is one sentence; ``log_tail`` the last lines the part wrote."""

    def __init__(self, part: str, reason: str, log_tail: str = "") -> None:
        self.part = part
        self.reason = reason
        self.log_tail = log_tail
        tail = f"\n--- last lines of its log ---\n{log_tail}" if log_tail else ""
        super().__init__(f"embedded {part} did not start: {reason}{tail}")


class DataDirLocked(RuntimeError):
    """Another service already works on this DATA_DIR."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        self.data_dir = data_dir
        self.pid = pid
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"DATA_DIR {data_dir} is in use by {holder}. Stop that service, or give this one a DATA_DIR of its own."
        )
