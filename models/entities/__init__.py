"""The tables (SQLAlchemy 2 declarative), by subject. Migrations in repositories/migrations make them; a test compares both.

Every time is `timestamptz`. Queries say what they load: a relationship or a deferred column that was not loaded raises.
Everything is imported here, so that `Base.metadata` knows all tables.
"""

from models.entities.access import AccessState, ApiKey, Audit, BrowserSession, DeletedCamera, WsTicket
from models.entities.base import SEALED_PREFIX, Base, Json, SlotRanges
from models.entities.cameras import CameraConfiguration
from models.entities.events import Event, EventLogState, OutboxPending
from models.entities.frames import Frame, IntegrityViolation, ObjectKey
from models.entities.housekeeping import (
    RetentionPolicy,
    RetentionTally,
    SchemaStep,
    SecretCanary,
    StorageChange,
    StorageUsage,
    SweeperState,
)
from models.entities.pairs import Pair
from models.entities.quality import CameraQuality
from models.entities.requests import (
    CaptureEvent,
    CaptureGap,
    CaptureLease,
    IngestionRequest,
    count_slots,
    dropped_column,
)
from models.entities.uploads import IdempotencyKey, UploadSession
from models.entities.workers import KeptStream, Worker, WorkerCall

__all__ = [
    "SEALED_PREFIX",
    "AccessState",
    "ApiKey",
    "Audit",
    "Base",
    "BrowserSession",
    "CameraConfiguration",
    "CameraQuality",
    "CaptureEvent",
    "CaptureGap",
    "CaptureLease",
    "DeletedCamera",
    "Event",
    "EventLogState",
    "Frame",
    "IdempotencyKey",
    "IngestionRequest",
    "IntegrityViolation",
    "Json",
    "KeptStream",
    "ObjectKey",
    "OutboxPending",
    "Pair",
    "RetentionPolicy",
    "RetentionTally",
    "SchemaStep",
    "SecretCanary",
    "SlotRanges",
    "StorageChange",
    "StorageUsage",
    "SweeperState",
    "UploadSession",
    "Worker",
    "WorkerCall",
    "WsTicket",
    "count_slots",
    "dropped_column",
]  # fmt: skip
