"""How a running capture is controlled from outside: told to end or to hand back, or that another process has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class CaptureControl:
    """Set by the runner, read by the capture. On the event loop."""

    def __init__(self, may_act: Callable[[], bool], on_handed_back: Callable[[], None] = lambda: None) -> None:
        """`may_act`: whether the lease holds by this host's own clock. `on_handed_back`: called when it is anybody's again,
        while pictures may still be stored."""
        self._may_act = may_act
        self.on_handed_back = on_handed_back
        self.cancelled = False  # the client asked for the end; frames captured before are stored
        self.handing_back = False  # the process stops: pending frames are stored, another process continues
        self.lost = False  # another owner has a newer epoch
        self.wake = asyncio.Event()

    @property
    def stopping(self) -> bool:
        return self.cancelled or self.handing_back or self.lost

    @property
    def fenced(self) -> bool:
        """Whether another process may own the capture by now: until that is known it writes no state and decides no slot.

        Its pictures are evidence: they are stored or spooled all the same.
        """
        return not self._may_act()

    @property
    def given_up(self) -> bool:
        """Whether waiting for the database is pointless."""
        return self.lost or self.handing_back

    async def sleep(self, seconds: float) -> None:
        """Until something happened, at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            pass
        self.wake.clear()
