"""TrackShift Ingestion: `create_app()` for servers and tests, `python main.py` to serve."""

from __future__ import annotations

import gc

if __name__ == "__main__":
    # What imports make stays, and collections that look for garbage among it are a tenth of a start's CPU.
    # services.runtime turns the collector on.
    gc.disable()

import errno
import sys
from collections.abc import Callable

from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import SettingsError
from starlette.middleware import Middleware

from api.console import pages
from api.endpoints import (
    api_keys,
    audit,
    burst,
    cameras,
    capture_events,
    events,
    frame_pictures,
    frames,
    health,
    latest,
    live,
    pairs,
    requests,
    sessions,
    timelines,
    upload,
    upload_sessions,
    workers,
)  # fmt: skip
from api.http.access.boundary import Boundary
from api.http.errors import install_error_handlers
from api.http.openapi import install_docs
from api.http.routing import declared_routes
from api.http.state import AppState
from api.http.validation import message_of
from api.lifespan import OpenServices, make_lifespan
from api.middleware import Cors, Head, RequestContext, UnexpectedErrors
from config import VERSION, ConfigurationError, Role, Settings, get_settings

_DESCRIPTION = """Captures images from trackside cameras (RTSP) and takes uploads, proves where and when each came
from, and stores them.

Input is strict: unknown fields, form parts and query parameters are 422. Times are RFC 3339 with an offset. Errors
are `application/problem+json` with a stable `code`. HEAD works wherever GET does."""
_TAGS = [
    {"name": "ingest", "description": "Captures and uploads, their state, cancelling."},
    {"name": "frames", "description": "Stored pictures and their metadata."},
    {"name": "pairs", "description": "Before and after: how two frames lie on each other, and what changed."},
    {"name": "cameras", "description": "The camera registry; trying a camera, one picture now."},
    {"name": "events", "description": "What happened, in order: how consumers take frames over (docs/integration.md)."},
    {"name": "access", "description": "Who may call: keys, browser sessions, the audit (docs/security.md)."},
    {"name": "operations", "description": "Health, metrics, and the processes of this deployment."},
]
_EXPOSED = [
    "Location", "ETag", "Retry-After", "X-Request-ID", "Idempotent-Replayed", "RateLimit", "RateLimit-Policy",
    "WWW-Authenticate", "X-Picture-Timestamp", "X-Picture-Age", "X-Picture-Source",
]  # fmt: skip


Ready = Callable[[Callable[[], None]], None]


def create_app(settings: Settings | None = None, *, open_services: OpenServices | None = None) -> FastAPI:
    """The application. Raises ConfigurationError when the settings do not allow a start.

    `open_services` stands in for services.runtime.open_services in tests.
    """
    settings = settings or get_settings()
    settings.check_start()
    state = AppState(settings)
    middleware = [Middleware(RequestContext, state=state)]
    if settings.API.CORS_ORIGINS:
        middleware.append(
            Middleware(
                Cors,
                allow_origins=settings.API.CORS_ORIGINS,
                allow_credentials=settings.API.CORS_CREDENTIALS,
                allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
                allow_headers=["*"],
                expose_headers=_EXPOSED,
            )
        )
    app = FastAPI(
        telemetry={"tracing": False, "metrics": False, "logs": False},  # 3 % of a hot read to find that nobody asked for it
        title="TrackShift Ingestion",
        version=VERSION,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        openapi_url=None,  # install_docs serves it and its pages
        redirect_slashes=False,
        lifespan=make_lifespan(state, open_services),
        middleware=[*middleware, Middleware(Boundary, settings), Middleware(UnexpectedErrors), Middleware(Head)],
    )
    app.state.trackshift = state
    install_error_handlers(app)
    if settings.ROLE is Role.WORKER:  # it captures; whoever asks for more asks a process that answers
        app.router.routes.extend(health.router.routes)
        declared_routes(app)
        return app
    ingestion = (
        burst,
        capture_events,
        requests,
        upload,
        upload_sessions,
        timelines,  # before frames, which would take "histogram" for an id
        frames,
        frame_pictures,
        cameras,
        latest,
        pairs,
        events,
        live,
    )
    for module in (*ingestion, api_keys, sessions, audit, workers, health, *([pages] if settings.CONSOLE.ENABLED else [])):
        # include_router would make each route a second time, which is for prefixes and dependencies that we do not add.
        app.router.routes.extend(module.router.routes)
    install_docs(app)
    declared_routes(app)
    return app


def _settings_problems(error: Exception) -> list[str]:
    """One line a setting, by its environment variable's name; never its value."""
    if isinstance(error, ConfigurationError):
        return error.reasons
    if not isinstance(error, ValidationError):
        return [str(error)]  # SettingsError: names the field and the source only
    lines = []
    for item in error.errors(include_url=False):
        # pydantic-settings lowers names that it does not know; an index is inside one setting.
        name = "__".join(part.upper() for part in item["loc"] if isinstance(part, str)) or "settings"
        message = message_of(item)
        if item["type"] == "value_error" and repr(str(item["input"])) not in item["msg"]:
            message = item["msg"].removeprefix("Value error, ")  # one of ours, which explains without quoting
        lines.append(f"{name}: {message}")
    return lines


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def main(ready: Ready | None = None) -> int:
    """Serves until a signal. Exit codes: 0 stopped, 1 cannot run, 2 the settings are wrong.

    `ready`: for a thread, which gets no signals: it is given what stops the service, once that listens.
    """
    from api.processes import Supervisor, child_number, die_with_parent
    from api.server import bind, serve
    from utils.exceptions import IngestionException
    from utils.logger import configure_logging

    try:
        settings = get_settings()
        settings.check_start()
        several = settings.processes > 1
        app = None if several else create_app(settings)
    except (ConfigurationError, ValidationError, SettingsError) as error:
        return _fail("The settings do not allow a start:\n  " + "\n  ".join(_settings_problems(error)), 2)
    configure_logging(settings.LOG.LEVEL, settings.LOG.FORMAT)
    api, number = settings.API, child_number()
    if number is not None:
        die_with_parent()
    shared = settings.ROLE is Role.API and (several or number is not None)
    try:
        listener = bind(api.HOST, api.PORT, shared=shared)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _fail(f"Port {api.PORT} on {api.HOST} is taken: set API__PORT to another, or to 0 for a free one.", 1)
        return _fail(f"Cannot listen on {api.HOST}:{api.PORT} (API__HOST, API__PORT): {error.strerror}.", 1)
    if app is None:  # the port is held for the processes; nothing listens here
        port = listener.getsockname()[1] if shared else api.PORT
        if not shared:
            listener.close()
        return Supervisor(settings, settings.processes, port).run()
    # Late: cv2 and boto3 are not needed to say that a setting or a port is wrong.
    from services.runtime import StartError

    try:
        serve(app, settings, listener, ready)
    except (StartError, IngestionException) as error:
        return _fail(f"Cannot start: {error}", 1)
    except ConfigurationError as error:
        return _fail("The settings do not allow a start:\n  " + "\n  ".join(error.reasons), 2)
    return 0


if __name__ == "__main__":
    code = main()
    gc.freeze()  # else the interpreter's last collections visit every object: a second of CPU before the process is gone
    sys.exit(code)
