"""Names to addresses, in threads of their own: a resolver that hangs holds up nothing else.

The system's resolver blocks for as long as its name servers are silent, and cannot be cancelled. So each name that is
looked up has one daemon thread, however many wait for it, and there are at most MOST of them. While that many hang, new
names fail at once, and names that were found before have as many threads again: whoever asks for names that nobody
answers keeps no known camera away. Addresses need no thread.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from utils.exceptions import CaptureFailure
from utils.metrics import QUEUE_DEPTH

MOST = 64  # threads; as many again for names that were found before
_MAX_FOUND = 10_000  # names that are remembered to have been found
_DEPTH = QUEUE_DEPTH.labels(queue="lookups")

GetAddresses = Callable[[str], list[str]]


def system_addresses(host: str) -> list[str]:
    """By the system's resolver; blocks. Raises OSError, UnicodeError."""
    return _addresses(host, 0)


class Lookups:
    """One a process. From any thread and event loop."""

    def __init__(self, get_addresses: GetAddresses = system_addresses, most: int = MOST) -> None:
        """`most`: threads for names that were never found, and as many again for names that were."""
        self._get_addresses, self._most = get_addresses, most
        self._guard = threading.Lock()
        self._running: dict[str, Future[list[str]]] = {}
        self._found: OrderedDict[str, None] = OrderedDict()

    async def addresses(self, host: str, timeout: float) -> list[str]:
        """All addresses of a name, or the one that `host` writes. `timeout`: seconds. Raises CaptureFailure dns_failure."""
        if (literal := _literal(host)) is not None:
            return literal
        lookup = self._join(_plain(host))
        if lookup is None:
            raise CaptureFailure("dns_failure", "Too many names are being looked up, and none is answered.")
        try:
            async with asyncio.timeout(timeout):
                # Shielded: who gives up must not cancel it for the others.
                return await asyncio.shield(asyncio.wrap_future(lookup))
        except TimeoutError:
            raise CaptureFailure("dns_failure", "The camera's name was not resolved in time.") from None
        except (OSError, UnicodeError):
            raise CaptureFailure("dns_failure", "The camera's name cannot be resolved.") from None

    def _join(self, name: str) -> Future[list[str]] | None:
        """The lookup of the name that is under way, or a new one; None when there is no thread for it."""
        with self._guard:
            if (running := self._running.get(name)) is not None:
                return running
            most = 2 * self._most if name in self._found else self._most
            if len(self._running) >= most:
                return None
            future = self._running[name] = Future()
            _DEPTH.inc()
        # Daemons: the process does not wait for a resolver when it ends.
        threading.Thread(target=self._run, args=(name, future), name="lookup", daemon=True).start()
        return future

    def _run(self, name: str, future: Future[list[str]]) -> None:
        try:
            found = self._get_addresses(name)
        except Exception as error:
            self._ended(name, found=False)
            future.set_exception(error)
        else:
            self._ended(name, found=True)
            future.set_result(found)

    def _ended(self, name: str, *, found: bool) -> None:
        with self._guard:
            del self._running[name]
            if found:
                self._found[name] = None
                self._found.move_to_end(name)
                if len(self._found) > _MAX_FOUND:
                    self._found.popitem(last=False)
        _DEPTH.dec()


def _plain(host: str) -> str:
    return host.lower().rstrip(".") or host


def _literal(host: str) -> list[str] | None:
    """The address that is written, in any form that the system takes (127.1, 0x7f000001); None for a name."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        return _addresses(host, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None


def _addresses(host: str, flags: int) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(str(info[4][0]) for info in found))
