"""A private folder for unix sockets whose path is short enough.

The kernel takes 107 bytes of socket path (103 on macOS), and a DATA_DIR may be deeper than that.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from .account import Account

_LIMIT = 107 if sys.platform == "linux" else 103
_PREFIX = "trackshift-"


class SocketFolder:
    """``data_dir/run/<part>`` (0700), or a private temporary folder where that is too long.

    The temporary folder's name is noted beside it, so that the next start removes what a killed service left.
    ``open`` raises OSError; ``close`` never raises. Use under the DATA_DIR lock.
    """

    def __init__(self, data_dir: Path, part: str, longest_name: str) -> None:
        self._inside = data_dir / "run" / part
        self._note = data_dir / "run" / f"{part}.tmpdir"
        fits = len(os.fsencode(self._inside / longest_name)) <= _LIMIT
        self._temporary = not fits
        self.path = self._inside

    def open(self, account: Account | None = None) -> Path:
        self._remove_noted()
        if self._temporary:
            self._note.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))  # 0700 by definition
            self._note.write_text(str(self.path))
        else:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
        if account is not None:
            os.chown(self.path, account.uid, account.gid)
        return self.path

    def close(self) -> None:
        self._remove_noted()

    def _remove_noted(self) -> None:
        try:
            noted = Path(self._note.read_text())
            # The note is only believed as far as this module would have written it.
            if noted.name.startswith(_PREFIX) and noted.parent == Path(tempfile.gettempdir()):
                shutil.rmtree(noted, ignore_errors=True)
            self._note.unlink()
        except OSError:
            return
