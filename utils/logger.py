"""structlog for the whole process: one line per event, JSON or console, secrets masked by a processor.

No value begins a line: JSON escapes control characters, and the console's lines do so too; a traceback's lines are indented
behind a bar.

uvicorn's and the libraries' standard logging records go through the same processors. `request_id` and
`camera_id` are bound with `structlog.contextvars` and appear on every line of that task.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import MutableMapping
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from utils.urls import MASK, mask_text

# Where rich is installed (Typer needs it) structlog imports it, to colour tracebacks that our lines do not have: 0.1 s of
# CPU a process. None says "not installed" to an import.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    del sys.modules["rich"]
    if _rich is not None:
        sys.modules["rich"] = _rich

if TYPE_CHECKING:
    from structlog.types import EventDict, Processor

_SECRET_KEYS = ("password", "secret", "token", "authorization", "credential", "api_key")


def _masked(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, bytes):
        return mask_text(value.decode("utf-8", "replace"))
    if depth < 4 and isinstance(value, dict):
        return {key: _mask_item(str(key), item, depth + 1) for key, item in value.items()}
    if depth < 4 and isinstance(value, (list, tuple, set)):
        return [_masked(item, depth + 1) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return mask_text(str(value))


@lru_cache(maxsize=1000)
def _names_secret(key: str) -> bool:
    lowered = key.lower()
    return any(word in lowered for word in _SECRET_KEYS)


def _mask_item(key: str, value: Any, depth: int) -> Any:
    if value and _names_secret(key):
        return MASK
    return _masked(value, depth)


def mask_secrets(_logger: Any, _method: str, event_dict: EventDict) -> EventDict:
    """structlog processor: masks URLs' passwords, secret query values and secret-named keys in the whole line."""
    return {key: _mask_item(key, value, 0) for key, value in event_dict.items()}


def _printable(text: str) -> str:
    """`text` with control characters, line separators, marks of direction and lone surrogates as their escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _behind_a_bar(text: str) -> str:
    """A traceback: its own line breaks stay, and none of its lines can be taken for one of the log."""
    return "\n".join(f"  | {_printable(line)}" for line in text.split("\n"))


def escape_controls(_logger: Any, _method: str, event_dict: EventDict) -> EventDict:
    """structlog processor before the console's renderer, which writes texts as they are (of other values their repr)."""
    return {
        _printable(key): value if not isinstance(value, str)
        else _behind_a_bar(value) if key in ("exception", "stack") else _printable(value)
        for key, value in event_dict.items()
    }  # fmt: skip


def _json(value: Any, **options: Any) -> str:
    return json.dumps(value, **options).replace("\x7f", "\\u007f")  # the one control character that json leaves


def _drop_color_message(_logger: Any, _method: str, event_dict: EventDict) -> EventDict:
    event_dict.pop("color_message", None)  # uvicorn's second copy of its message
    return event_dict


_json_handler: logging.StreamHandler[Any] | None = None


def info_line(logger: str, event: str, fields: dict[str, Any]) -> None:
    """Writes what `get_logger(logger).info(event, **fields)` writes, in a fifth of the time: for a line of every request.

    For values that hold no `exc_info`. Where the log is not JSON, or has other handlers, it goes the usual way.
    """
    handler, standard = _json_handler, logging.getLogger(logger)
    if handler is None or standard.handlers or logging.root.handlers != [handler]:
        get_logger(logger).info(event, **fields)
        return
    if not standard.isEnabledFor(logging.INFO):
        return
    at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    context = structlog.contextvars.get_contextvars()
    line = {**context, **fields, "event": event, "logger": logger, "level": "info", "timestamp": at}
    text = _json(mask_secrets(None, "info", line)) + handler.terminator
    with handler.lock or nullcontext():
        try:
            handler.stream.write(text)
            handler.flush()
        except (OSError, ValueError):  # as logging: a full disk or a closed pipe ends no request
            pass


def configure_logging(level: str = "INFO", fmt: str = "json") -> None:
    """Sets up structlog and the root logger to write to stderr. Call once, before anything logs."""
    global _json_handler
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _drop_color_message,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if fmt == "console"
        else structlog.processors.JSONRenderer(_json)
    )
    # Tracebacks are turned into text before masking: exception texts of FFmpeg and drivers hold whole URLs.
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        mask_secrets,
        *([escape_controls] if fmt == "console" else []),
        renderer,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    _json_handler = None if fmt == "console" else handler
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # our middleware writes the access line
    for name in ("botocore", "boto3", "urllib3", "s3transfer", "PIL", "asyncio", "alembic", "python_multipart", "libav"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The module's logger."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


class Throttle:
    """Says whether a repeated line may be written now: the first of a key, then one in `interval` seconds.

    `clock` is monotonic seconds. Holds at most `max_keys` keys, the oldest go.
    """

    def __init__(self, interval: float, clock: Any, max_keys: int = 1000) -> None:
        self._interval = interval
        self._clock = clock
        self._max = max_keys
        self._last: MutableMapping[str, tuple[float, int]] = {}

    def allow(self, key: str) -> int | None:
        """How many lines of this key were withheld since the last one, or None: withhold this one too."""
        now = self._clock()
        last = self._last.get(key)
        if last is not None and now - last[0] < self._interval:
            self._last[key] = (last[0], last[1] + 1)
            return None
        if last is None and len(self._last) >= self._max:
            self._last.pop(next(iter(self._last)))
        self._last[key] = (now, 0)
        return last[1] if last else 0
