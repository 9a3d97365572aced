"""What a capture is given, and what it consists of."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from config import RtspSettings
from models.entities import IngestionRequest
from models.values import CaptureParams, Claim
from repositories.database import Database
from services.quality.keeper import QualityKeeper
from services.rtsp_capture.captures.capture_clock import CaptureClock
from services.rtsp_capture.captures.capture_control import CaptureControl
from services.rtsp_capture.captures.request_state import RequestState
from services.rtsp_capture.frames.frame_pipeline import FramePipeline
from services.rtsp_capture.frames.picture_budget import PictureBudget
from services.rtsp_capture.frames.slot_ledger import SlotLedger
from services.rtsp_capture.frames.source_checks import SourceChecks
from services.rtsp_capture.streams.stream_hub import StreamHub
from services.rtsp_capture.timing.host_clock import HOST, HostClock
from services.spool.spool import Spool
from services.storage_service.service import StorageService
from utils.secret_box import SecretBox


@dataclass(slots=True)
class CaptureDeps:
    """What the captures of a process share. `now` is wall-clock seconds since the epoch; `host` is the clock of slots."""

    settings: RtspSettings
    database: Database
    storage: StorageService
    hub: StreamHub
    secrets: SecretBox
    pictures: PictureBudget
    spool: Spool
    quality: QualityKeeper
    now: Callable[[], float] = time.time
    host: HostClock = HOST
    checks: SourceChecks | None = None
    compare_keys: Callable[[], Awaitable[None]] | None = None  # `secrets` with the database


@dataclass(frozen=True, slots=True)
class CaptureContext:
    """The parts of one capture, which it shares with its mode, its slot filler and its end."""

    claim: Claim  # what fences every state write
    deps: CaptureDeps
    control: CaptureControl
    state: RequestState
    row: IngestionRequest
    params: CaptureParams
    clock: CaptureClock
    ledger: SlotLedger
    frames: FramePipeline
