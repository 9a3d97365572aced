"""Fixtures that the capture tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", params=["opencv", "pyav"])
def reader(request: pytest.FixtureRequest) -> str:
    """RTSP__READER: whoever takes it (a module's `kit` does: `open_kit(..., READER=reader)`) runs on both readers."""
    return str(request.param)
