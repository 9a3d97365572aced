"""Which picture fills which slot: the sampler against a brute-force oracle over random streams."""

import math
import random
from collections.abc import Sequence
from fractions import Fraction

import pytest

from models.values import CaptureMode, CaptureParams, Sampling, Transport
from services.rtsp_capture.grid.sampler import Choice, SlotSampler
from services.rtsp_capture.media.gop_buffer import Packet, Picture, Ring

T0 = 1_800_000_000.0  # some time of day


def packet(pts: float, *, key: bool = False, segment: int = 1, at: float | None = None) -> Packet:
    timestamp = T0 + pts if at is None else at
    return Packet(b"x", pts, key, timestamp + 0.1, timestamp, 0.02, segment)


def coded(count: int, gop: int, b: int) -> list[tuple[int, bool]]:
    """(number in the order of showing, keyframe) in decoding order: closed GOPs with `b` B-pictures between others."""
    order: list[tuple[int, bool]] = []
    for start in range(0, count, gop):
        end = min(start + gop, count)
        order.append((start, True))
        shown = start + 1
        while shown < end:
            anchor = min(shown + b, end - 1)
            order.append((anchor, False))
            middle = list(range(shown, anchor))
            if len(middle) == 3:  # a pyramid, as encoders make them
                middle = [middle[1], middle[0], middle[2]]
            order += [(number, False) for number in middle]
            shown = anchor + 1
    return order


def stream(rng: random.Random) -> list[Packet]:
    """A few seconds of a random camera."""
    fps = rng.choice([5.0, 10.0, 12.5, 24.0, 25.0, 29.97, 30.0])
    b = rng.choice([0, 0, 1, 2, 3])
    count = int(fps * rng.uniform(3, 9))
    jitter = rng.uniform(0, 0.45) / fps if b == 0 else 0.0
    times = [n / fps + rng.uniform(-jitter, jitter) for n in range(count)]
    made = [packet(times[n], key=key) for n, key in coded(count, rng.choice([1, 5, 12, 25, 50, 400]), b)]
    if rng.random() < 0.5:  # pictures lost on the way
        made = [p for i, p in enumerate(made) if i < 6 or p.key or rng.random() > 0.1]
    if rng.random() < 0.3:  # silence
        begin = rng.uniform(1, 3)
        end = begin + rng.uniform(0.2, 2)
        made = [p for i, p in enumerate(made) if i < 6 or not begin < p.pts < end]
    return made


def pictures(packets: Sequence[Packet]) -> list[Picture]:
    ring = Ring(1000, 1_000_000)
    return [picture for p in packets if (picture := ring.append(p)) is not None]


def oracle(
    shown: Sequence[Picture], start: float, fps: float, sampling: Sampling, slots: range
) -> tuple[dict[int, Packet], list[int]]:
    """The contract, literally: each picture belongs to its nearest slot; of a slot's the nearest one fills it."""
    chosen: dict[int, Packet] = {}
    missed = []
    for k in slots:
        due = start + k / fps
        mine = [
            p.packet for p in shown
            if p.decodable and math.floor((p.packet.timestamp - start) * fps + 0.5 + 1e-6) == k
        ]  # fmt: skip
        keys = [p for p in mine if p.key]
        allowed = mine if sampling is Sampling.EXACT else keys if sampling is Sampling.KEYFRAME else keys or mine
        if allowed:
            chosen[k] = min(allowed, key=lambda p: abs(p.timestamp - due))
        else:
            missed.append(k)
    return chosen, missed


def run(sampler: SlotSampler, shown: Sequence[Picture]) -> tuple[dict[int, Packet], list[int]]:
    chosen: dict[int, Packet] = {}
    missed: list[int] = []
    decided: list[int] = []
    results = [sampler.offer(picture) for picture in shown]
    results.append(sampler.expire(math.inf if sampler._last is not None else T0 + 60))
    for some, none in results:
        for item in some:
            assert item.slot not in chosen
            chosen[item.slot] = item.picture.packet
            decided.append(item.slot)
        missed += none
        decided += none
    assert sorted(decided) == list(range(min(decided), min(decided) + len(decided))) if decided else True
    return chosen, missed


@pytest.mark.parametrize("sampling", list(Sampling))
def test_every_slot_gets_its_nearest_picture(sampling: Sampling) -> None:
    for seed in range(100):
        rng = random.Random(seed)
        shown = pictures(stream(rng))
        fps = rng.choice([0.3, 0.5, 1.0, 2.0, 3.0, 7.0, 10.0, 25.0, 30.0])
        first = rng.choice([0, 0, 0, 2])
        slots = range(first, first + max(1, math.ceil(rng.uniform(0.2, 12) * fps)))
        start = shown[0].packet.timestamp + rng.choice([0, 0, 0.013, -0.4])
        expected = oracle(shown, start, fps, sampling, slots)
        got = run(SlotSampler(start, fps, sampling, slots.start, slots.stop), shown)
        assert got[0] == expected[0], f"seed {seed}"
        assert sorted(got[1]) == expected[1], f"seed {seed}"
        used = [id(p) for p in got[0].values()]
        assert len(used) == len(set(used)), f"seed {seed}: a picture fills two slots"


@pytest.mark.parametrize("sampling", list(Sampling))
def test_candidates_of_a_slot_are_its_nearest_pictures(sampling: Sampling) -> None:
    for seed in range(60):
        rng = random.Random(seed)
        shown = pictures(stream(rng))
        fps = rng.choice([0.3, 0.5, 1.0, 2.0, 7.0])
        choice = Choice(rng.choice([2, 3, 5]), rng.choice([0.0, 0.1, 0.3, 0.5 / fps]))
        start = shown[0].packet.timestamp
        sampler = SlotSampler(start, fps, sampling, 0, math.ceil(4 * fps), choice)
        found = [one for picture in shown for one in sampler.offer(picture)[0]] + sampler.expire(math.inf)[0]
        taken: set[int] = set()
        for one in found:
            due = start + one.slot / fps
            mine = [
                picture for picture in shown
                if sampler.slot_of(picture.timestamp) == one.slot and picture.usable
                and (picture.packet.key or sampling is not Sampling.KEYFRAME)
            ]  # fmt: skip
            near = sorted(abs(picture.timestamp - due) for picture in mine)
            assert abs(one.picture.timestamp - due) == near[0], f"seed {seed}"  # which is there whatever happens
            wanted = [distance for distance in near if distance <= choice.within + 1e-6][: choice.of]
            got = sorted(abs(picture.timestamp - due) for picture in one.candidates)
            assert got == (wanted if len(wanted) > 1 else []), f"seed {seed}"
            assert not taken & {id(picture) for picture in one.candidates}, f"seed {seed}: of two slots"
            taken |= {id(picture) for picture in one.candidates}


def test_a_slot_is_decided_once_its_candidates_are_there() -> None:
    """As soon as no nearer picture can come, not at the end of the time."""
    sampler = SlotSampler(T0 + 1, 0.1, Sampling.EXACT, 0, 1, Choice(5, 4.0))
    for number, picture in enumerate(pictures([packet(n / 25, key=n % 25 == 0) for n in range(50)])):
        chosen, _ = sampler.offer(picture)
        if chosen:
            assert number == 27
            assert [round(one.packet.pts * 25) for one in chosen[0].candidates] == [23, 24, 25, 26, 27]
            return
    pytest.fail("never decided")


def test_b_pictures_at_the_streams_own_rate_fill_every_slot() -> None:
    shown = pictures([packet(n / 25, key=key) for n, key in coded(100, 25, 3)])
    chosen, missed = run(SlotSampler(T0, 25.0, Sampling.EXACT, 0, 100), shown)
    assert missed == []
    assert [round(chosen[k].pts * 25) for k in range(100)] == list(range(100))


def test_more_slots_than_pictures_leaves_slots_without() -> None:
    shown = pictures([packet(n / 10, key=n == 0) for n in range(30)])
    chosen, missed = run(SlotSampler(T0, 25.0, Sampling.EXACT, 0, 70), shown)
    assert len(chosen) == 28
    assert len(missed) == 42
    assert sorted([*chosen, *missed]) == list(range(70))


def test_exact_waits_no_longer_than_it_must() -> None:
    """A slot is decided by the first picture that is as far behind its time as the best one is before it."""
    shown = pictures([packet(n / 25, key=n == 0) for n in range(60)])
    sampler = SlotSampler(T0 + 0.01, 1.0, Sampling.EXACT, 0, 3)
    decided = {}
    for n, picture in enumerate(shown):
        for item in sampler.offer(picture)[0]:
            decided[item.slot] = (n, round(item.picture.packet.pts * 25))
    assert decided == {0: (4, 0), 1: (26, 25), 2: (51, 50)}  # 4: the order of showing is known from the fifth packet on


def test_a_picture_at_its_slots_very_time_is_taken_at_once() -> None:
    picture = pictures([packet(0.0, key=True)])[0]
    sampler = SlotSampler(T0, 1.0, Sampling.EXACT, 0, 1)
    assert [item.slot for item in sampler.offer(picture)[0]] == [0]
    assert sampler.done


def test_keyframes_win_within_half_a_slot_in_auto() -> None:
    shown = pictures([packet(n / 10, key=n % 14 == 0) for n in range(60)])  # keys at 0, 1.4, 2.8, 4.2, 5.6
    chosen, missed = run(SlotSampler(T0, 1.0, Sampling.AUTO, 0, 6), shown)
    assert [round(chosen[k].pts, 1) for k in range(6)] == [0.0, 1.4, 2.0, 2.8, 4.2, 5.0]
    assert missed == []
    chosen, missed = run(SlotSampler(T0, 1.0, Sampling.KEYFRAME, 0, 6), shown)
    assert {k: round(p.pts, 1) for k, p in chosen.items()} == {0: 0.0, 1: 1.4, 3: 2.8, 4: 4.2}
    assert missed == [2, 5]


def test_a_new_connection_continues_the_grid_and_its_stream_time_means_nothing() -> None:
    before = [packet(n / 10, key=n % 10 == 0) for n in range(21)]
    after = [packet(n / 10, key=n % 10 == 0, segment=2, at=T0 + 5.03 + n / 10) for n in range(30)]
    chosen, missed = run(SlotSampler(T0, 1.0, Sampling.EXACT, 0, 8), pictures([*before, *after]))
    assert missed == [3, 4]
    assert [round(chosen[k].timestamp - T0, 2) for k in (0, 1, 2, 5, 6, 7)] == [0.0, 1.0, 2.0, 5.03, 6.03, 7.03]


def test_leading_pictures_without_their_reference_are_passed_over() -> None:
    """After a join in an open GOP what is shown before the first keyframe cannot be decoded."""
    shown = pictures([packet(0.2, key=True), packet(0.1), packet(0.15), packet(0.5), packet(0.3), packet(0.4)])
    chosen, _ = run(SlotSampler(T0 + 0.1, 10.0, Sampling.EXACT, 0, 5), shown)
    assert {k: p.pts for k, p in chosen.items()} == {1: 0.2, 2: 0.3, 3: 0.4, 4: 0.5}


def test_expire_gives_up_only_what_has_passed() -> None:
    sampler = SlotSampler(T0, 2.0, Sampling.EXACT, 0, None)
    assert sampler.expire(T0 + 1.2) == ([], [0, 1])  # slot 2 lasts until T0 + 1.25
    assert sampler.expire(T0 + 1.25) == ([], [2])
    assert sampler.next_slot == 3
    assert not sampler.done


def test_a_silent_streams_best_is_taken_on_expiry() -> None:
    sampler = SlotSampler(T0 + 0.1, 1.0, Sampling.EXACT, 0, 2)
    for picture in pictures([packet(0.0, key=True)]):
        assert sampler.offer(picture) == ([], [])
    chosen, missed = sampler.expire(T0 + 5)
    assert [item.slot for item in chosen] == [0]
    assert missed == [1]


def test_due_counts_slots_whose_time_has_come() -> None:
    sampler = SlotSampler(T0, 0.1, Sampling.EXACT, 0, 5)
    assert [sampler.due(T0 + t) for t in (-100, -0.001, 0, 9.9, 10, 39.99, 40, 1000)] == [0, 0, 1, 1, 2, 4, 5, 5]
    assert SlotSampler(T0, 1.0, Sampling.EXACT, 7, None).due(T0) == 7  # after a resume


@pytest.mark.parametrize(
    ("duration", "fps"),
    [
        (5, 0.1), (0.3, 10), (3600, 30), (0.1, 3), (1.1, 10), (2.3, 10), (0.7, 0.1), (3600, 29.97), (33.3, 3),
        (1e-6, 1e-3), (10, 0.3),
    ],
)  # fmt: skip
def test_a_capture_has_ceil_of_duration_times_fps_slots(duration: float, fps: float) -> None:
    params = CaptureParams(CaptureMode.CONTINUOUS, fps, duration, Sampling.AUTO, None, 90, Transport.TCP)
    assert params.slots == math.ceil(Fraction(str(duration)) * Fraction(str(fps)))


def test_slots_of_random_captures_are_exact() -> None:
    rng = random.Random(1)
    for _ in range(5000):
        duration, fps = round(rng.uniform(0.1, 3600), rng.randrange(4)), round(rng.uniform(0.001, 30), rng.randrange(1, 4))
        if duration <= 0 or fps <= 0:
            continue
        params = CaptureParams(CaptureMode.CONTINUOUS, fps, duration, Sampling.AUTO, None, 90, Transport.TCP)
        assert params.slots == math.ceil(Fraction(str(duration)) * Fraction(str(fps))), (duration, fps)
