"""The ring of encoded packets."""

from services.rtsp_capture.media.gop_buffer import Packet, Ring


def packet(at: float, *, key: bool = False, size: int = 10, segment: int = 1) -> Packet:
    return Packet(b"x" * size, at, key, at, at, 0.0, segment)


def fill(ring: Ring, seconds: int, *, start: float = 0.0, segment: int = 1, size: int = 10) -> None:
    """10 pictures a second, a keyframe a second."""
    for n in range(seconds * 10):
        ring.append(packet(start + n / 10, key=n % 10 == 0, segment=segment, size=size))


def test_nothing_before_the_first_keyframe() -> None:
    ring = Ring(10, 1000)
    assert ring.append(packet(0.0)) is None
    assert ring.newest() is None
    assert ring.append(packet(0.1, key=True)) is not None
    assert ring.bytes == 10


def test_bounded_by_seconds_in_whole_groups() -> None:
    ring = Ring(3, 1_000_000)
    fill(ring, 20)
    assert [gop.packets[0].pts for gop in ring] == [16.0, 17.0, 18.0, 19.0]  # reaches back 3 s from 19.9
    assert ring.bytes == sum(gop.size for gop in ring) == 400


def test_bounded_by_bytes() -> None:
    ring = Ring(1000, 250)
    fill(ring, 20)
    assert ring.bytes == 200
    assert [gop.packets[0].pts for gop in ring] == [18.0, 19.0]


def test_a_group_larger_than_the_bound_is_given_up_until_the_next_keyframe() -> None:
    """A camera that sends one keyframe and never another must not fill the memory."""
    ring = Ring(1000, 250)
    kept = [ring.append(packet(n / 10, key=n == 0)) for n in range(100)]
    assert ring.bytes == 0
    assert all(kept[:25])
    assert not any(kept[25:])
    assert ring.append(packet(10.0, key=True)) is not None


def test_a_new_connection_begins_anew() -> None:
    ring = Ring(10, 1000)
    fill(ring, 2)
    assert ring.append(packet(0.5, segment=2)) is None
    assert list(ring) == []
    assert ring.bytes == 0
    picture = ring.append(packet(0.0, key=True, segment=2))
    assert picture is not None
    assert picture.to_decode() == [picture.packet]


def test_what_to_decode_begins_at_the_keyframe_and_ends_with_the_picture() -> None:
    ring = Ring(10, 1000)
    packets = [packet(1.0, key=True), packet(1.3), packet(1.1), packet(1.2), packet(2.0, key=True), packet(2.3), packet(2.1)]
    pictures = [ring.append(p) for p in packets]
    assert pictures[3] is not None
    assert pictures[6] is not None
    assert pictures[3].to_decode() == packets[:4]
    assert pictures[6].to_decode() == packets[4:7]


def test_pictures_shown_before_their_keyframe_need_the_group_before() -> None:
    ring = Ring(10, 1000)
    first = ring.append(packet(1.0, key=True))
    leading = ring.append(packet(0.9))
    assert first is not None
    assert leading is not None
    assert (first.decodable, leading.decodable) == (True, False)
    ring.append(packet(1.2))
    ring.append(packet(2.0, key=True))
    open_gop = ring.append(packet(1.9))
    assert open_gop is not None
    assert open_gop.decodable
    assert [p.pts for p in open_gop.to_decode()] == [1.0, 0.9, 1.2, 2.0, 1.9]


def test_a_chosen_picture_stays_decodable_while_the_ring_goes_on() -> None:
    """It may wait for its decoder while further groups come and its own leaves the ring."""
    ring = Ring(1, 1000)
    for at, key in ((1.0, True), (1.1, False), (2.0, True)):
        ring.append(packet(at, key=key))
    chosen = ring.append(packet(1.9))
    assert chosen is not None
    before = chosen.to_decode()
    fill(ring, 10, start=3.0)
    assert chosen.decodable
    assert chosen.to_decode() == before
    assert ring.bytes == sum(gop.size for gop in ring)


def test_newest_is_the_picture_shown_last() -> None:
    ring = Ring(10, 1000)
    for at, key in ((0.0, True), (0.3, False), (0.1, False), (0.2, False)):
        ring.append(packet(at, key=key))
    newest = ring.newest()
    assert newest is not None
    assert newest.packet.pts == 0.3
    assert [p.pts for p in newest.to_decode()] == [0.0, 0.3]
