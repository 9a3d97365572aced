"""OpenCV's odd packet times, put right. The sequences are those that FFmpeg 8 gave on real connections."""

import random
from collections.abc import Set

import pytest

from services.rtsp_capture.connection.opencv_timestamps import OpenCvTimestamps

NO_VALUE = -9.223372036854776e18


def play(
    fps: float | None, true: list[float], starts: list[float], untimed: Set[int] = frozenset(), frames: bool = True
) -> list[float | None]:
    """What comes out for pictures at `true` when start_time is `starts[n]` at packet n."""
    times = OpenCvTimestamps()
    made = []
    last = 0.0
    for n, at in enumerate(true):
        position = 0.0 if n in untimed else at - starts[n]
        last = last if n in untimed else float(round(at * (fps or 25)))
        made.append(times.next(position, last if frames else NO_VALUE, fps))
    return made


def even(fps: float, count: int = 100) -> list[float]:
    return [n / fps for n in range(count)]


@pytest.mark.parametrize("fps", [8.0, 25.0, 29.97])
@pytest.mark.parametrize("jump", ["one frame", 0.24, 0.3, 2.0])
def test_the_jump_is_repaired(fps: float, jump: float | str) -> None:
    size = 1 / fps if isinstance(jump, str) else jump
    for begins in range(1, 12):
        times = play(fps, even(fps), [size if n >= begins else 0.0 for n in range(100)])
        worst = max(abs(at - n / fps) for n, at in enumerate(times) if at is not None)
        assert worst <= (0.001 if isinstance(jump, str) else 0.51 / fps), begins


@pytest.mark.parametrize("jump", [0.0, 0.04, 0.24, 0.28])
def test_a_packet_without_a_time_is_told_and_confuses_nothing(jump: float) -> None:
    times = play(25.0, even(25), [jump if n >= 6 else 0.0 for n in range(100)], {0, 6})
    assert times[6] is None
    assert [round(at * 25, 3) for at in times if at is not None] == [n for n in range(100) if n != 6]


@pytest.mark.parametrize("fps", [25.0, None])
@pytest.mark.parametrize(
    ("starts", "untimed"),
    [([0.0], set()), ([0.0, 0.04], {0}), ([0.0, 0.0, 0.0, 0.12], {0, 2}), ([0.0], {0, 2}), ([0.0] * 6 + [0.24], {0})],
)
def test_without_frame_counts_packets_are_counted(fps: float | None, starts: list[float], untimed: set[int]) -> None:
    starts = starts + starts[-1:] * 100
    times = play(fps, even(25), starts, untimed, frames=False)
    assert [round(at * 25, 3) for at in times if at is not None] == list(range(100))


@pytest.mark.parametrize("order", [[0, 3, 1, 2], [0, 4, 2, 1, 3], [0, 3, 2, 1]])
def test_b_pictures_that_begin_before_the_start_time(order: list[int]) -> None:
    group = len(order) - 1
    numbers = [0, *(n + group * k for k in range(20) for n in order[1:])]
    times = play(25.0, [n / 25 for n in numbers], [0.0, *[order[1] / 25] * 200], {0})
    assert [round(at * 25, 3) for at in times if at is not None] == numbers


def test_irregular_times_are_left_alone() -> None:
    rng = random.Random(5)
    true = [n / 15 + rng.uniform(-0.4, 0.4) / 15 for n in range(2000)]
    assert play(15.0, true, [0.0] * 2000) == pytest.approx(true, abs=1e-9)


def test_times_that_stray_from_the_frame_rate_are_left_alone() -> None:
    """CAP_PROP_PTS is rounded up or down by accident where they are half-way between two frames."""
    rng = random.Random(5)
    true = [n / 25 * 1.003 + rng.choice([-1e-4, 1e-4]) for n in range(2000)]
    assert play(25.0, true, [0.0] * 2000) == pytest.approx(true, abs=1e-9)
