"""How slowly a body may move, in either direction: arithmetic without a clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from config import ApiSettings


@dataclass(frozen=True, slots=True)
class Pace:
    """What is asked of the other side of a connection.

    It has `silence` seconds to spare. Waiting for it uses them up, `rate` bytes earn a second back, up to `silence`. So no
    pause is longer than `silence`, no stretch is slower than `rate` (0: any byte earns all back), and what came fast at the
    beginning does not pay for hours of drops at the end. `total`: seconds of waiting in all.
    """

    silence: float
    rate: int = 0  # bytes a second
    total: float = math.inf


class BodyProgress:
    """One body under a Pace."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._spare, self._rest = pace.silence, pace.total

    @property
    def seconds_left(self) -> float:
        """Seconds to wait for the next bytes; zero or less: it is over."""
        return min(self._spare, self._rest)

    def waited(self, seconds: float) -> None:
        """Only time spent waiting for the other side; what this side delayed is not its fault."""
        self._spare -= seconds
        self._rest -= seconds

    def moved(self, size: int) -> None:
        """`size` bytes have come, or gone."""
        if size > 0:
            pace = self._pace
            self._spare = min(pace.silence, self._spare + size / pace.rate) if pace.rate else pace.silence


def request_pace(api: ApiSettings, size: int) -> Pace:
    """For a request's body of at most `size` bytes: API__BODY_TIMEOUT, API__MIN_BODY_RATE and API__MAX_BODY_TIME."""
    whole = api.BODY_TIMEOUT + size / api.MIN_BODY_RATE if api.MIN_BODY_RATE else math.inf
    return Pace(api.BODY_TIMEOUT, api.MIN_BODY_RATE, min(whole, api.MAX_BODY_TIME))


def answer_pace(api: ApiSettings) -> Pace:
    """For an answer on its way to its client."""
    return Pace(api.BODY_TIMEOUT, api.MIN_BODY_RATE)
