"""Starts the embedded parts, brings back one that died, and stops them."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import structlog

from .errors import EmbeddedStartError
from .lock import DataDirLock
from .object_store import EmbeddedObjectStore
from .postgres import EmbeddedPostgres
from .process import Cancelled, ChildProcess

_log = structlog.get_logger(__name__)

OnEvent = Callable[[str, str, dict[str, Any]], None]
_POLL = 0.1
_TRIM_EVERY = 10.0
_BACKOFF_FIRST = 0.2
_BACKOFF_LAST = 5.0
_STABLE_AFTER = 30.0


class EmbeddedPart(Protocol):
    name: str

    @property
    def child(self) -> ChildProcess | None: ...

    def start(self, cancel: threading.Event) -> None: ...

    def stop(self) -> bool: ...


class _Keeper(threading.Thread):
    """One thread a part, for the service's whole life: it alone starts, watches, restarts and stops it.

    That thread is also the one whose end the kernel takes for the parent's death (PR_SET_PDEATHSIG), hence
    no thread pool. A daemon, so that a service that forgets to stop still ends (atexit then stops it).
    """

    def __init__(self, part: EmbeddedPart, on_event: OnEvent) -> None:
        super().__init__(name=f"embedded-{part.name}", daemon=True)
        self.part = part
        self.first_start = threading.Event()
        self.error: BaseException | None = None
        self.up = False
        self.cancel = threading.Event()
        self._on_event = on_event

    def run(self) -> None:
        try:
            self._bring_up("ready")
        except BaseException as error:
            self.error = error
            self._shut_down()
            return
        finally:
            self.first_start.set()
        self._watch()
        self._shut_down()

    def _watch(self) -> None:
        started = trimmed = time.monotonic()
        backoff = _BACKOFF_FIRST
        while not self.cancel.wait(_POLL):
            child = self.part.child
            now = time.monotonic()
            if child is not None and child.running:
                if now - trimmed > _TRIM_EVERY:
                    trimmed = now
                    child.trim_log()
                continue
            if self.up:
                self.up = False
                if now - started > _STABLE_AFTER:
                    backoff = _BACKOFF_FIRST
                self._report("died", exit_code=child.exit_code if child else None)
            if self.cancel.wait(backoff):
                return
            backoff = min(backoff * 2, _BACKOFF_LAST)
            try:
                self._bring_up("restarted")
            except Cancelled:
                return
            except Exception as error:  # for ever: the parts are this service's only store
                self._report("restart_failed", reason=str(error), retry_in_s=backoff)
            else:
                started = time.monotonic()

    def _bring_up(self, event: str) -> None:
        begun = time.monotonic()
        self.part.start(self.cancel)
        self.up = True
        self._report(event, seconds=round(time.monotonic() - begun, 3))

    def _shut_down(self) -> None:
        self.up = False
        try:
            clean = self.part.stop()
        except Exception as error:
            self._report("stop_failed", reason=str(error))
        else:
            self._report("stopped", clean=clean)

    def _report(self, event: str, **details: Any) -> None:
        try:
            self._on_event(self.part.name, event, details)
        except Exception:
            _log.exception("embedded_event_handler_failed", part=self.part.name, event_name=event)


class EmbeddedParts:
    """PostgreSQL and the object store of one DATA_DIR, under its lock.

    ``on_event(part, event, details)`` is called from the part's own thread, with part ``postgres`` or
    ``object_store`` and event ``ready``, ``died``, ``restarted``, ``restart_failed``, ``stopped`` or
    ``stop_failed``. It should return soon; what it raises is logged.

    Threads: ``start`` and ``stop`` block (seconds) and may be called from any thread, one at a time;
    ``alive`` is cheap. After a ``stop`` the object is spent.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        postgres: bool,
        object_store: bool,
        database: str,
        bucket: str,
        on_event: OnEvent,
        object_store_port: int | None = None,
        lock: DataDirLock | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.postgres = EmbeddedPostgres(self.data_dir, database) if postgres else None
        self.object_store = EmbeddedObjectStore(self.data_dir, bucket, object_store_port) if object_store else None
        parts: list[EmbeddedPart] = [part for part in (self.postgres, self.object_store) if part is not None]
        self._keepers = {part.name: _Keeper(part, on_event) for part in parts}
        self._lock = lock or DataDirLock(self.data_dir)
        self._own_lock = lock is None
        self._stopping = threading.Lock()

    def start(self) -> None:
        """Start all parts at once and return when every one is ready.

        Raises DataDirLocked, or EmbeddedStartError of the first part that failed, with nothing left running.
        """
        if self._own_lock:
            self._lock.acquire()
        atexit.register(self.stop)
        for keeper in self._keepers.values():
            keeper.start()
        for keeper in self._keepers.values():
            keeper.first_start.wait()
        failed = [keeper for keeper in self._keepers.values() if keeper.error is not None]
        if failed:
            self.stop()
            error = failed[0].error
            if isinstance(error, EmbeddedStartError):
                raise error
            raise EmbeddedStartError(failed[0].part.name, f"{type(error).__name__}: {error}") from error

    def stop(self) -> None:
        """Shut all parts down in order, then let go of the folder. Idempotent. Takes 1-2 s; bounded by a minute,
        after which what does not end has been killed."""
        with self._stopping:
            running = [keeper for keeper in self._keepers.values() if keeper.is_alive()]
            for keeper in running:
                keeper.cancel.set()
            for keeper in running:
                keeper.join(60.0)
            atexit.unregister(self.stop)
            if self._own_lock:
                self._lock.release()

    def alive(self, part: str) -> bool:
        """True when ``part`` has come up and its process is there now; False for a part not asked for."""
        keeper = self._keepers.get(part)
        if keeper is None or not keeper.up:
            return False
        child = keeper.part.child
        return child is not None and child.running
