"""What a subscription takes, and that the index finds whoever takes an event."""

from __future__ import annotations

import itertools
from uuid import UUID

from models.access import ALL_CAMERAS, NO_CAMERAS, CameraGrant
from models.values import LogEventType, LogFilter
from services.live.interest import Interest, keys_of
from services.reads.serializers.event_log import LogEvent

FIRST, SECOND = UUID(int=1), UUID(int=2)
EVENTS = [
    LogEvent(f"log.{number}", kind, b"{}", camera, None if request is None else str(request))
    for number, (kind, camera, request) in enumerate(
        itertools.product(("frame.stored", "request.started"), ("pit-1", "pit-2", "box-1", None), (FIRST, SECOND, None))
    )
]
FILTERS = [
    LogFilter(grant, types, camera_ids=cameras, request_ids=requests)
    for grant, types, cameras, requests in itertools.product(
        (ALL_CAMERAS, NO_CAMERAS, CameraGrant.of(["pit-1"]), CameraGrant.of(["pit-*"]), CameraGrant.of(["box-1", "pit-*"])),
        (None, (), (LogEventType.FRAME_STORED,)),
        (None, (), ("pit-1",), ("pit-1", "box-1")),
        (None, (), (FIRST,)),
    )
]


def _takes(wanted: LogFilter, event: LogEvent) -> bool:
    """In other words than the code's."""
    granted = wanted.cameras.patterns is None or (event.camera_id is not None and wanted.cameras.covers(event.camera_id))
    of_type = wanted.types is None or event.type in [item.value for item in wanted.types]
    of_camera = wanted.camera_ids is None or event.camera_id in wanted.camera_ids
    of_request = wanted.request_ids is None or event.request_id in [str(item) for item in wanted.request_ids]
    return granted and of_type and of_camera and of_request


def test_a_pair_is_told_to_who_sees_both_cameras() -> None:
    pair = LogEvent("log.1", "pair.created", b"{}", "pit-1", None, "pit-2")
    for cameras in (["pit-1"], ["pit-2"]):
        assert not Interest(LogFilter(CameraGrant.of(cameras))).takes_event(pair)
    for seen in (["pit-1", "pit-2"], ["pit-*"], None):
        assert Interest(LogFilter(CameraGrant.of(seen))).takes_event(pair)


def test_a_subscription_takes_what_its_filter_says_and_the_index_finds_it() -> None:
    taken = 0
    for wanted, event in itertools.product(FILTERS, EVENTS):
        interest = Interest(wanted)
        assert interest.takes_event(event) == _takes(wanted, event), (wanted, event)
        found = len(set(interest.index_keys()) & set(keys_of(event)))
        if interest.takes_event(event):
            taken += 1
            assert found == 1, (wanted, event)  # by exactly one key: it is told once
        assert found <= 1
    assert taken > 100
