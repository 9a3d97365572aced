"""The Celery application of WORKERS__MODE=celery: messages that wake workers, and nothing else.

`celery -A services.execution.celery_app worker` is a worker with this project's ordinary runtime in it, as `ROLE=worker
python main.py` is one with a consumer in it. The one task posts to the runtime of its process and returns: no capture
runs inside a task. Who runs what is decided by leases in PostgreSQL, so a message that comes twice, late or never changes
nothing.

Imported only where Celery is used: it reads the settings, and Celery is 0.3 s of CPU.
"""

from __future__ import annotations

import os
import signal
import ssl
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any
from urllib.parse import quote

from celery import Celery, signals
from kombu.entity import Queue

from config import RedisSettings, get_settings
from services.execution.chores import QUEUE
from utils.logger import get_logger
from utils.metrics import WAKES_RECEIVED

log = get_logger(__name__)

WAKE, HOUSEKEEPING = "trackshift.wake", "trackshift.housekeeping"
EXPIRES = 60  # seconds after which a message is thrown away unread: the claims' poll has long found the capture
START_TIMEOUT = 120.0  # seconds in which the runtime inside `celery worker` must be up
Stop = Callable[[], None]


def queue_of(site: str) -> str:
    """The queue of a site's captures."""
    return f"captures.{site}"


def broker_url(redis: RedisSettings) -> str:
    """With user and password quoted; Celery's log masks them."""
    user, password = quote(redis.USER, safe=""), quote(redis.PASSWORD.get_secret_value(), safe="")
    login = f"{user}:{password}@" if user or password else ""
    return f"{'rediss' if redis.TLS else 'redis'}://{login}{redis.HOST}:{redis.PORT}/{redis.DB}"


def make_app() -> Celery:
    """Configured for messages that may be lost at any moment."""
    settings = get_settings()
    made = Celery("trackshift", broker=broker_url(settings.REDIS), set_as_current=False)
    made.conf.update(
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=queue_of(settings.WORKERS.SITE),
        task_queues=[Queue(queue_of(settings.WORKERS.SITE)), Queue(QUEUE)],  # type: ignore[no-untyped-call]
        task_create_missing_queues=True,
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 3, "interval_start": 0.5, "interval_step": 0, "interval_max": 0.5},
        worker_pool="solo",  # a task takes microseconds; no process is forked beside the runtime's threads
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,  # a worker is drained by POST /api/v1/workers/{worker_id}/drain, or SIGTERM
        broker_connection_timeout=3,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_timeout": 5, "socket_connect_timeout": 3, "health_check_interval": 5, "max_retries": 3,
        },
    )  # fmt: skip
    if settings.REDIS.TLS:
        made.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": settings.REDIS.TLS_CA}
    return made


app = make_app()
hosted = False  # whether the process is `celery worker`: it consumes by itself
_wake: Callable[[], None] | None = None
_chore: Callable[[str, int], None] | None = None


def on_wake(callback: Callable[[], None] | None) -> None:
    """What a message does in this process: called in the consumer's thread, and must return at once."""
    global _wake
    _wake = callback


def on_chore(callback: Callable[[str, int], None] | None) -> None:
    """What a message of housekeeping does in this process: `callback(kind, sample)`, as that of `on_wake`."""
    global _chore
    _chore = callback


@app.task(name=WAKE)  # type: ignore[untyped-decorator]
def wake(request_id: str) -> None:
    """There may be a capture to claim."""
    WAKES_RECEIVED.inc()
    log.debug("woken", ingestion_id=str(request_id)[:36])
    if _wake is not None:
        _wake()


@app.task(name=HOUSEKEEPING)  # type: ignore[untyped-decorator]
def housekeeping(kind: str, sample: int = 0) -> None:
    """There may be work for `sweeper` or `retention`; or `sample` frames are to be read (`verify`)."""
    WAKES_RECEIVED.inc()
    if _chore is not None:
        _chore(str(kind), int(sample))


def post_chore(kind: str, sample: int) -> None:
    """Sends the message, as `post` does."""
    app.send_task(HOUSEKEEPING, args=[kind, sample], queue=QUEUE, expires=EXPIRES, ignore_result=True)


def post(request_id: str, site: str) -> None:
    """Sends the message; blocks for some seconds when the broker is slow or away. Raises what kombu raises."""
    app.send_task(WAKE, args=[request_id], queue=queue_of(site), expires=EXPIRES, ignore_result=True)


# -- the runtime inside `celery -A services.execution.celery_app worker` ----------------------------------------------------


class _Runtime:
    """main.py's service in a thread: Celery has the main one, and the signals."""

    def __init__(self) -> None:
        self._stop: Stop | None = None
        self._asked = False  # to stop
        self._up = threading.Event()
        self._code: int | None = None
        self._thread = threading.Thread(target=self._run, name="runtime", daemon=True)

    def start(self) -> None:
        """Returns when it serves. Raises SystemExit when it does not come up."""
        self._thread.start()
        self._up.wait(START_TIMEOUT)
        if self._stop is None:
            raise SystemExit(self._code or 1)

    def stop(self) -> None:
        """Captures are handed over, streams closed. Repeating it is fine."""
        if self._stop is not None and not self._asked:
            self._asked = True
            self._stop()

    def join(self) -> None:
        self._thread.join(get_settings().API.SHUTDOWN_TIMEOUT + 5)

    def _run(self) -> None:
        try:
            # By name: nothing under services/ knows main, and this is the one place where a process begins elsewhere.
            self._code = import_module("main").main(self._ready)
        finally:
            if self._up.is_set() and not self._asked:
                os.kill(os.getpid(), signal.SIGTERM)  # a consumer without a runtime would swallow messages
            self._up.set()

    def _ready(self, stop: Stop) -> None:
        self._stop = stop
        self._up.set()


_runtime: _Runtime | None = None


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]
def _host(**_: Any) -> None:
    """Of `celery worker` only: the process's own consumer (`celery_consumer`) does not send this signal."""
    global hosted, _runtime
    hosted = True
    os.environ.update(ROLE="worker", WORKERS__MODE="celery")
    get_settings.cache_clear()
    _runtime = _Runtime()
    _runtime.start()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stopping(**_: Any) -> None:
    if _runtime is not None:
        _runtime.stop()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _stopped(**_: Any) -> None:
    if _runtime is not None:
        _runtime.stop()
        _runtime.join()
