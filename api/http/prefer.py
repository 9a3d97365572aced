"""`Prefer: wait=N` (RFC 7240).

By hand (20 lines): PyPI has no parser of RFC 7240, and a preference is no structured field (RFC 9651), whose parsers refuse
the whole header for one unknown preference with a form of its own. The contract leaves out what cannot be parsed.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING
from uuid import UUID

from starlette.datastructures import MutableHeaders
from starlette.requests import Request

from api.http.access.check import credential_ended, ended, waiting
from api.http.state import AppState
from api.http.waiting import disconnected
from utils.tasks import first_of

if TYPE_CHECKING:
    from services.runtime import Services

MAX_WAIT = 60
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_ITEM = re.compile(
    rf'\s*({_WORD})(?:\s*=\s*({_WORD}|"(?:[^"\\]|\\.)*"))?\s*((?:;[^,"]*(?:"(?:[^"\\]|\\.)*"[^,"]*)*)?)(?:,|$)'
)


def preferences(headers: list[str]) -> dict[str, str]:
    """Preferences by lower-case name; of one given twice the first counts. What cannot be parsed is left out."""
    found: dict[str, str] = {}
    for header in headers:
        position = 0
        while position < len(header):
            item = _ITEM.match(header, position)
            if item is None:  # skip to the next comma
                comma = header.find(",", position)
                if comma < 0:
                    break
                position = comma + 1
                continue
            value = item[2] or ""
            if value.startswith('"'):
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            found.setdefault(item[1].lower(), value)
            position = item.end()
    return found


def wait_seconds(request: Request) -> int | None:
    """N of `Prefer: wait=N`, at most 60; None when absent or malformed."""
    value = preferences(request.headers.getlist("prefer")).get("wait", "")
    if not (value.isascii() and value.isdigit()):
        return None
    return MAX_WAIT if len(value.lstrip("0")) > 2 else min(int(value), MAX_WAIT)


async def wait_final(
    request: Request, headers: MutableHeaders, state: AppState, services: Services, request_id: UUID
) -> bool:
    """Whether the request became final in the time the client prefers to wait; False at once without a preference. The
    answer's `headers` say what was applied.

    Ends early when the service stops or the client goes away. Raises Unauthorized when the caller's credential ends.
    """
    seconds = wait_seconds(request)
    if seconds is None:
        return False
    headers["Preference-Applied"] = f"wait={seconds}"
    with waiting(request):
        finished = services.orchestrator.wait_final(request_id, float(seconds))
        revoked = asyncio.ensure_future(ended(request))
        final = await first_of(finished, state.stopping.wait(), disconnected(request), revoked)
        if final is None and not revoked.cancelled():
            raise credential_ended()
        return final is not None and final.result()
