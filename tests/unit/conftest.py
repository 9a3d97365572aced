"""What all unit tests share."""

from __future__ import annotations

import pytest
import structlog


@pytest.fixture(autouse=True)
def plain_tracebacks() -> None:
    """The default renderer draws the local variables of each frame: up to 40 s for one logged exception."""
    if not structlog.is_configured():  # some tests put the defaults back
        plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])
