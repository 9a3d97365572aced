"""Which pictures are compared for a slot, and when none are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from config import RtspSettings
from models.schemas import BurstRequest, RTSPIngestionRequest, SnapshotRequest
from models.values import CaptureMode, CaptureParams, PickParams, Sampling, Transport
from services.rtsp_capture.captures.continuous_mode import ContinuousMode
from services.rtsp_capture.frames.picking import PICK_SECONDS, picture_of
from services.rtsp_capture.grid.sampler import Choice, Chosen
from services.rtsp_capture.media.gop_buffer import Gop, Packet, Picture


class Asked:
    """A stream's decoder that takes the last picture for the sharpest."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sharpest(self, pictures: Sequence[Picture], seconds: float) -> Picture:
        self.seconds.append(seconds)
        return pictures[-1]

    async def decode(self, picture: Picture, quality: int) -> Any: ...

    async def snapshot(self, picture: Picture, quality: int) -> Any: ...

    async def original(self, picture: Picture) -> Any: ...


async def test_a_capture_that_is_behind_compares_nothing() -> None:
    packets = [Packet(b"x", n / 25, n == 0, 0.0, n / 25, 0.0, 1) for n in range(3)]
    shown = [Picture(packet, Gop(packets), n) for n, packet in enumerate(packets)]
    asked = Asked()
    chosen = Chosen(0, shown[1], tuple(shown))
    assert await picture_of(chosen, asked, max_lag=60, waiting=1) is shown[2]
    assert await picture_of(chosen, asked, max_lag=0.6, waiting=2) is shown[2]
    assert asked.seconds == [PICK_SECONDS, pytest.approx(0.2)]
    assert await picture_of(chosen, asked, max_lag=5, waiting=3) is shown[1]
    assert await picture_of(Chosen(0, shown[1]), asked, max_lag=5, waiting=1) is shown[1]
    assert len(asked.seconds) == 2


def _params(**fields: Any) -> CaptureParams:
    return CaptureParams(CaptureMode.CONTINUOUS, 2.0, 5.0, Sampling.AUTO, None, 90, Transport.TCP, **fields)


def test_a_takeover_goes_on_with_it() -> None:
    params = _params(pick=PickParams(25, 5))
    assert CaptureParams.from_json(params.to_json()) == params
    old = params.to_json()
    del old["pick"]
    assert CaptureParams.from_json(old) == _params()


def test_a_slot_has_at_most_five_candidates_of_its_own_time() -> None:
    settings = RtspSettings()
    assert ContinuousMode.grid(_params(pick=PickParams(25, 5)), settings).choice == Choice(5, 0.25)
    assert ContinuousMode.grid(_params(pick=PickParams(3, 0.1)), settings).choice == Choice(3, 0.1)
    assert ContinuousMode.grid(_params(), settings).choice is None


GOOD = {"of": 5, "within_s": 0.5, "best": "sharpest"}


@pytest.mark.parametrize(
    "pick",
    [
        {**GOOD, "of": 1}, {**GOOD, "of": 26}, {**GOOD, "of": "5"}, {**GOOD, "of": 5.5}, {**GOOD, "within_s": -0.1},
        {**GOOD, "within_s": 5.1}, {**GOOD, "best": "brightest"}, {**GOOD, "worst": 1}, {"within_s": 1}, {"of": 5}, [], 5,
    ],
)  # fmt: skip
def test_other_values_are_refused(pick: Any) -> None:
    for model, others in (
        (RTSPIngestionRequest, {"camera_id": "gate"}), (SnapshotRequest, {}), (BurstRequest, {"camera_ids": ["a", "b"]})
    ):  # fmt: skip
        assert model.model_validate({**others, "pick": GOOD}).pick is not None
        with pytest.raises(ValidationError):
            model.model_validate({**others, "pick": pick})


def test_an_event_has_no_one_moment() -> None:
    body = {"camera_id": "gate", "capture_mode": "event_driven", "pick": GOOD}
    with pytest.raises(ValidationError) as refused:
        RTSPIngestionRequest.model_validate(body)
    assert refused.value.errors()[0]["type"] == "not_applicable"
