"""The camera's clock by its sender reports, and when it is believed: pure, every clock injected."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest

from models.values import TimestampSource
from services.rtsp_capture.timing.camera_clock import MAX_AGE_SECONDS, SLEW, CameraClockMap
from services.rtsp_capture.timing.timestamp_source import PLAUSIBLE_DELAY_SECONDS, Stamp, TimestampSelector

T0 = 1_800_000_000.0
DELAY = 0.08
FRAME = 0.04
NTP_1970 = -2_208_988_800.0 + 3_600  # a camera that has just begun to count, an hour after 1900


class Feed:
    """A camera at 25 a second: its true time, what its reports say, and when packets are received."""

    def __init__(self, *, every: float = 5.0, jitter: float = 0.0, rtp_start: int = 0, seed: int = 1) -> None:
        self.every = every
        self.jitter = jitter
        self.rtp_start = rtp_start
        self.rng = random.Random(seed)
        self.error = 0.0  # of the camera's clock
        self.drift = 0.0  # of its RTP clock, seconds a second
        self.noise = 0.0  # of single reports
        self.reports = 0
        self.sending = True
        self._number = 0
        self._reported: float | None = None
        self._base: tuple[float, int] | None = None
        self._received = 0.0
        self.pts_shift = 0.0

    def packets(self, seconds: float) -> Iterator[tuple[float, float, float, float | None]]:
        """(true capture time, pts, receipt, the camera's clock as FFmpeg gives it)."""
        for _ in range(round(seconds / FRAME)):
            true = T0 + self._number * FRAME
            self._number += 1
            media = (true - T0) * (1 + self.drift)
            ticks = self.rtp_start + round(media * 90_000)
            if self.sending and (self._reported is None or true - self._reported >= self.every - 1e-6):
                self.reports += 1
                self._reported = true
                sent = true + self.rng.uniform(0, 0.01)  # between two pictures, its RTP time rounded to a tick
                at = self.rtp_start + round((sent - T0) * (1 + self.drift) * 90_000)
                ntp = sent + self.error + self.noise * self.rng.uniform(-1, 1)
                self._base = (round(ntp, 6), at)
            self._received = max(self._received, true + FRAME + DELAY + self.rng.expovariate(1 / (self.jitter or 1e-9)))
            camera = None
            if self._base is not None:
                ntp, at = self._base
                # As FFmpeg does: the difference of 32-bit RTP times, signed, rounded to microseconds.
                difference = (ticks - at + 2**31) % 2**32 - 2**31
                camera = ntp + round(difference / 90_000, 6)
            yield true, (ticks - self.rtp_start) / 90_000 + self.pts_shift, self._received, camera


def run(clock: TimestampSelector, feed: Feed, seconds: float) -> list[tuple[float, Stamp]]:
    """Stamps of all packets once the first burst is over, with the true times."""
    made = []
    for true, pts, received, camera in feed.packets(seconds):
        clock.observe(pts, received, camera)
        if clock.receipt.settled:
            made.append((true, clock.stamp(pts)))
    return made


def errors(made: list[tuple[float, Stamp]], source: TimestampSource) -> list[float]:
    return [stamp.at - true for true, stamp in made if stamp.source is source]


def test_from_the_second_report_on_times_are_the_cameras() -> None:
    feed, clock = Feed(jitter=0.01), TimestampSelector(FRAME, 1.0)
    made = run(clock, feed, 60)
    first = next(i for i, (_, stamp) in enumerate(made) if stamp.source is TimestampSource.RTCP)
    assert 5.0 <= made[first][0] - T0 <= 10.1  # a report is told from the former by its rounding only: mostly the second
    assert all(stamp.source is TimestampSource.RTCP for _, stamp in made[first:])
    assert max(map(abs, errors(made, TimestampSource.RTCP))) < 20e-6
    for true, stamp in made:
        if stamp.source is TimestampSource.RTCP:
            assert abs(stamp.at - true) <= stamp.uncertainty < 0.002
            assert stamp.camera_time == stamp.at
        else:
            assert (stamp.camera_time, stamp.offset) == (None, None)
    offset = made[-1][1].offset
    assert offset == pytest.approx(-DELAY, abs=0.002)  # in step, seen through the delay


def test_a_report_that_is_told_counts_even_when_it_says_the_same() -> None:
    clock = CameraClockMap()
    for n in range(50):
        clock.observe(n * FRAME, T0 + n * FRAME, T0 + n * FRAME, 7)
    assert clock.time_of(0.0) is None
    clock.observe(2.0, T0 + 2.0, T0 + 2.0, 8)
    assert clock.time_of(2.0) == T0 + 2.0


def test_one_report_is_not_believed() -> None:
    feed, clock = Feed(every=1e9), TimestampSelector(FRAME, 1.0)
    made = run(clock, feed, 30)
    assert {stamp.source for _, stamp in made} == {TimestampSource.RECEIPT}


def test_a_first_report_that_the_second_contradicts_is_dropped() -> None:
    """NTP came late: the first says 1900 or 1970, all others the truth."""
    for wrong in (NTP_1970 - T0, -T0 + 10.0, 0.5):
        feed, clock = Feed(), TimestampSelector(FRAME, 1.0)
        feed.error = wrong
        made = run(clock, feed, 4)
        feed.error = 0.0
        made += run(clock, feed, 26)
        rtcp = errors(made, TimestampSource.RTCP)
        assert len(rtcp) > 300
        assert max(map(abs, rtcp)) < 20e-6
        assert all(b.at > a.at - DELAY for (_, a), (_, b) in pairwise(made))


def test_a_clock_that_is_set_while_the_stream_runs() -> None:
    """Between the jump and the report that confirms it: receipt; never a time in between."""
    feed, clock = Feed(every=1.0), TimestampSelector(FRAME, 10.0)
    before = run(clock, feed, 10)
    feed.error = 5.0
    after = run(clock, feed, 10)
    assert before[-1][1].source is TimestampSource.RTCP
    offs = {round(stamp.at - true) for true, stamp in after if stamp.source is TimestampSource.RTCP}
    assert offs <= {0, 5}
    assert 5 in offs
    doubtful = [true for true, stamp in after if stamp.source is TimestampSource.RECEIPT]
    assert 0.9 < doubtful[-1] - doubtful[0] < 2.1
    assert after[-1][1].uncertainty >= 5.0 - DELAY - 0.01  # it is ahead: that much is certain


def test_a_single_report_that_is_wrong_costs_one_interval() -> None:
    feed, clock = Feed(every=1.0), TimestampSelector(FRAME, 1.0)
    run(clock, feed, 6)
    feed.error = 0.7
    made = run(clock, feed, 0.9)
    feed.error = 0.0
    made += run(clock, feed, 6)
    assert max(map(abs, errors(made, TimestampSource.RTCP))) < 20e-6
    assert made[-1][1].source is TimestampSource.RTCP


def test_noisy_reports_are_smoothed() -> None:
    feed, clock = Feed(every=5.0), TimestampSelector(FRAME, 1.0)
    feed.noise = 0.008
    made = run(clock, feed, 200)
    rtcp = [(true, stamp) for true, stamp in made if stamp.source is TimestampSource.RTCP]
    assert len(rtcp) > 4000
    assert all(abs(stamp.at - true) <= 0.017 for true, stamp in rtcp)
    steps = [(b.at - a.at) - FRAME for (_, a), (_, b) in pairwise(rtcp)]
    assert max(map(abs, steps)) <= SLEW * FRAME + 5e-6  # no jumps with each report
    covered = sum(abs(stamp.at - true) <= stamp.uncertainty for true, stamp in rtcp) / len(rtcp)
    assert covered > 0.75


def test_an_rtp_clock_that_drifts_is_followed() -> None:
    feed, clock = Feed(), TimestampSelector(FRAME, 1.0)
    feed.drift = 100e-6
    made = run(clock, feed, 120)
    assert max(map(abs, errors(made, TimestampSource.RTCP))) < 0.003
    assert max(map(abs, errors(made[1000:], TimestampSource.RTCP))) < 0.002


def test_an_rtp_clock_that_drifts_faster_than_is_slewed_is_stepped_after() -> None:
    feed, clock = Feed(), TimestampSelector(FRAME, 1.0)
    feed.drift = 2e-3
    made = run(clock, feed, 200)
    rtcp = errors(made[1000:], TimestampSource.RTCP)
    assert len(rtcp) == len(made) - 1000
    assert max(map(abs, rtcp)) < 0.035


def test_reports_that_cease_are_forgotten() -> None:
    feed, clock = Feed(), TimestampSelector(FRAME, 1.0)
    run(clock, feed, 20)
    feed.sending = False
    made = run(clock, feed, MAX_AGE_SECONDS + 10)
    assert made[0][1].source is TimestampSource.RTCP
    assert made[-1][1].source is TimestampSource.RECEIPT
    assert made[100][1].uncertainty < made[6000][1].uncertainty


@pytest.mark.parametrize("error", [-2.0, 3.0, -3600.0, 3600.0 * 24 * 365])
def test_a_clock_that_is_far_off_is_shown_and_not_used(error: float) -> None:
    feed, clock = Feed(), TimestampSelector(FRAME, 1.0)
    feed.error = error
    made = run(clock, feed, 20)
    assert {stamp.source for _, stamp in made} == {TimestampSource.RECEIPT}
    assert not clock.trusted
    true, stamp = made[-1]
    assert stamp.at - true == pytest.approx(DELAY, abs=1e-3)
    assert stamp.camera_time == pytest.approx(true + error, abs=1e-5)
    assert stamp.offset == pytest.approx(error - DELAY, abs=1e-3)


@pytest.mark.parametrize("error", [-0.9, -0.5, 0.4])
def test_a_clock_that_is_off_within_the_limit_says_how_far_it_may_be(error: float) -> None:
    feed, clock = Feed(), TimestampSelector(FRAME, 1.0)
    feed.error = error
    _, stamp = run(clock, feed, 20)[-1]
    assert stamp.source is TimestampSource.RTCP
    assert stamp.uncertainty >= abs(error) - (DELAY if error > 0 else PLAUSIBLE_DELAY_SECONDS) - 0.001


def test_a_clock_near_the_limit_does_not_flap() -> None:
    feed, clock = Feed(every=1.0), TimestampSelector(FRAME, 1.0)
    changes = []
    for n in range(20):
        feed.error = 1.0 + DELAY + (0.03 if n % 2 else -0.03)
        before = clock.trusted
        run(clock, feed, 4)
        if clock.trusted is not before:
            changes.append(n)
    assert changes == [1]
    feed.error = 0.5
    run(clock, feed, 4)
    assert clock.trusted


def test_the_rtp_clock_wraps() -> None:
    """FFmpeg unwraps stream times; the signed 32-bit difference to the report does the rest."""
    feed, clock = Feed(rtp_start=2**32 - 90_000 * 12), TimestampSelector(FRAME, 1.0)
    made = run(clock, feed, 30)
    assert max(map(abs, errors(made, TimestampSource.RTCP))) < 20e-6
    assert all(b.at > a.at - DELAY - 0.01 for (_, a), (_, b) in pairwise(made))
    assert made[-1][1].source is TimestampSource.RTCP


@pytest.mark.parametrize("limit", [1.0, 1e6], ids=["of a second", "hardly any"])
@pytest.mark.parametrize("jump", [-15.0, 5000.0, -5000.0])
def test_a_new_timeline_is_learnt_anew(jump: float, limit: float) -> None:
    """The camera restarted: old reports with new RTP times would give any time at all."""
    feed, clock = Feed(every=2.0), TimestampSelector(FRAME, limit)
    before = run(clock, feed, 20)
    assert before[-1][1].source is TimestampSource.RTCP
    made = []
    for true, pts, received, camera in feed.packets(20):
        assert camera is not None
        old = true - T0 < 21.9  # until the next report FFmpeg extrapolates from the old one
        clock.observe(pts + jump, received, camera + jump if old else camera)
        if clock.receipt.settled:
            made.append((true, clock.stamp(pts + jump)))
    assert max(abs(stamp.at - true) for true, stamp in made) < DELAY + FRAME
    assert max(map(abs, errors(made, TimestampSource.RTCP))) < 20e-6
    assert made[-1][1].source is TimestampSource.RTCP
