"""What all unit tests share."""

from __future__ import annotations

import structlog

# The default renderer draws the local variables of each frame: up to 40 s for one logged exception of an application.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)
