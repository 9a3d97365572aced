"""The one hierarchy of errors.

Each has a stable `code` (the contract's), a message fit for the client, whether a retry can help, and details
without secrets. `api/http/errors.py` maps codes to HTTP statuses; nothing here knows HTTP.

Longer than 250 lines: a hierarchy of small classes, which is read as a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong in the input. `pointer` is a JSON pointer (RFC 6901) in a body, else empty."""

    location: Literal["body", "query", "path", "header", "form"]
    name: str
    code: str
    message: str
    pointer: str = ""


class IngestionException(Exception):
    """Base of every error that a client may see. `message` never carries input, URLs or secrets."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    default_message: ClassVar[str] = "An unexpected error in the service. The log has it under this trace_id."

    def __init__(
        self,
        message: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.errors = tuple(errors)
        self.retry_after = retry_after
        self.details = dict(details or {})
        super().__init__(self.message)


class MalformedRequest(IngestionException):
    code = "malformed_request"
    default_message = "The request cannot be parsed."


class InvalidRequest(IngestionException):
    code = "invalid_request"
    default_message = "The request is not valid; `errors` names each wrong field."

    @classmethod
    def of(
        cls,
        name: str,
        message: str,
        *,
        location: Literal["body", "query", "path", "header", "form"] = "body",
        code: str = "invalid",
        pointer: str | None = None,
    ) -> InvalidRequest:
        """An error about one field."""
        at = pointer if pointer is not None else (f"/{name}" if location == "body" else "")
        return cls(f"{name}: {message}", errors=[FieldError(location, name, code, message, at)])


class NotApplicable(InvalidRequest):
    code = "not_applicable"
    default_message = "A field does not apply to this capture_mode."


class TimestampOutOfRange(InvalidRequest):
    code = "timestamp_out_of_range"
    default_message = "The moment is further back than RTSP__RING_SECONDS, or too far ahead."


class Unauthorized(IngestionException):
    """No credential, or one that is wrong, expired or revoked: clients are not told which. `details["given"]`: there
    was one."""

    code = "unauthorized"
    default_message = "A valid credential is needed: Authorization: Bearer …"


class Forbidden(IngestionException):
    """`details["scope"]`: the scopes that the credential lacks, as RFC 6750 writes them."""

    code = "forbidden"
    default_message = "The caller is not allowed to do this."


class CsrfFailed(IngestionException):
    code = "csrf_failed"
    default_message = "A browser session needs X-CSRF-Token (from /api/v1/me) for this."


class KeyNotFound(IngestionException):
    code = "key_not_found"
    default_message = "There is no such API key."


class NoWorker(IngestionException):
    code = "no_worker"
    retryable = True
    default_message = "No process captures at the camera's site now. Try again."


class AnsweredElsewhere(IngestionException):
    """The error with which another process answered a call."""

    def __init__(self, code: str, message: str, *, retryable: bool, retry_after: float | None, details: Any) -> None:
        super().__init__(message, retry_after=retry_after, details=details)
        self.code = code  # type: ignore[misc]  # the class's, narrowed for this one
        self.retryable = retryable  # type: ignore[misc]


class WorkerNotFound(IngestionException):
    code = "worker_not_found"
    default_message = "No process with this id is alive."


class RateLimited(IngestionException):
    code = "rate_limited"
    retryable = True
    default_message = "Too many requests for this caller. Try again later."


class AddressNotAllowed(IngestionException):
    code = "address_not_allowed"
    default_message = "The camera's address is outside RTSP__ALLOWED_NETWORKS."


class RequestNotFound(IngestionException):
    code = "request_not_found"
    default_message = "There is no request with this id."


class FrameNotFound(IngestionException):
    code = "frame_not_found"
    default_message = "There is no frame with this id."


class CameraNotFound(IngestionException):
    code = "camera_not_found"
    default_message = "There is no camera with this id."


class CameraExists(IngestionException):
    code = "camera_exists"
    default_message = "A camera with this id already exists."


class CameraInUse(IngestionException):
    code = "camera_in_use"
    default_message = "Captures of this camera are waiting or running. Cancel them first."


class FrameOnHold(IngestionException):
    code = "frame_on_hold"
    default_message = "The frame is on hold. Release it first."


class FrameInPair(IngestionException):
    code = "frame_in_pair"
    default_message = "The frame is in a pair. Delete the pair first, or repeat with force=true: its pairs go with it."


class PairNotFound(IngestionException):
    code = "pair_not_found"
    default_message = "There is no such pair."


class PairNotAligned(IngestionException):
    code = "pair_not_aligned"
    default_message = "The frames could not be aligned, or were not to be: only before, after and side can be shown."


class NoFrame(InvalidRequest):
    code = "no_frame"
    default_message = "The camera has no frame within within_s of the moment."


class SameFrame(InvalidRequest):
    code = "same_frame"
    default_message = "before and after are the same frame."


class CameraDisabled(IngestionException):
    code = "camera_disabled"
    default_message = "This camera is disabled."


class NotRunning(IngestionException):
    code = "not_running"
    default_message = "The request is not running."


class CursorExpired(IngestionException):
    """`details["oldest_cursor"]`: the beginning of the kept events."""

    code = "cursor_expired"
    default_message = "Events after this cursor are no longer kept, or it belongs to another log: use oldest_cursor."


class RequestInProgress(IngestionException):
    code = "request_in_progress"
    retryable = True
    default_message = "A request with this Idempotency-Key is still running. Try again."


class IdempotencyKeyReused(IngestionException):
    code = "idempotency_key_reused"
    default_message = "This Idempotency-Key was used for another body. A new request needs a new key."


class RequestTimeout(IngestionException):
    code = "request_timeout"
    retryable = True
    default_message = "The body did not arrive in time."


class PayloadTooLarge(IngestionException):
    code = "payload_too_large"
    default_message = "The body is larger than this service accepts."


class TooManyFiles(IngestionException):
    code = "too_many_files"
    default_message = "More files than UPLOAD__MAX_BATCH_SIZE."


class ImageTooLarge(IngestionException):
    code = "image_too_large"
    default_message = "The picture has more pixels than UPLOAD__MAX_PIXELS."


class UnsupportedMediaType(IngestionException):
    code = "unsupported_media_type"
    default_message = "This endpoint does not accept this Content-Type."


class UnsupportedImageFormat(IngestionException):
    code = "unsupported_image_format"
    default_message = "The file is not of a kind that is taken (UPLOAD__FORMATS)."


class InvalidImage(IngestionException):
    code = "invalid_image"
    default_message = "The picture is damaged or cut off: it cannot be decoded completely."


class ImageTypeMismatch(IngestionException):
    code = "image_type_mismatch"
    default_message = "The file's bytes are not of the type that its name or Content-Type says."


class RangeNotSatisfiable(IngestionException):
    code = "range_not_satisfiable"
    default_message = "The range lies outside the object."


class TooManyPending(IngestionException):
    code = "too_many_pending"
    retryable = True
    default_message = "RTSP__MAX_PENDING captures are already waiting."


class SessionNotFound(IngestionException):
    code = "session_not_found"
    default_message = "There is no upload session with this id."


class SessionClosed(IngestionException):
    code = "session_closed"
    default_message = "The upload session was aborted or has expired. Begin a new one."


class SessionBusy(IngestionException):
    code = "request_in_progress"
    retryable = True
    default_message = "This upload session is being completed by another request. Try again."


class UploadIncomplete(IngestionException):
    code = "upload_incomplete"
    retryable = True
    default_message = "Parts of the file are missing. Send them, then complete again."


class ChecksumMismatch(IngestionException):
    code = "checksum_mismatch"
    default_message = "The received file does not have the announced SHA-256."


class UploadRefused(IngestionException):
    """A direct upload's file was refused; `code` is the refusal's. Stored with the session and raised at each `complete`."""

    code = "invalid_image"

    def __init__(self, code: str, message: str, *, retryable: bool, rejected: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(message, details={"rejected": list(rejected)})
        self.code = code  # type: ignore[misc]  # the class's, narrowed for this one
        self.retryable = retryable  # type: ignore[misc]


class StorageUnavailable(IngestionException):
    code = "storage_unavailable"
    retryable = True
    default_message = "The object store cannot be used right now. Nothing was stored; try again."


class BucketNotOurs(StorageUnavailable):
    """The bucket's marker does not let this database write, or delete, until an operator has looked."""

    default_message = "The object store's bucket belongs to another database. Nothing was stored; tell the operator."


class StorageFull(StorageUnavailable):
    """The object store has no space: a retry helps only after an operator has made some."""

    code = "disk_full"
    default_message = "The object store has no space left. Nothing was stored."


class ObjectMissing(IngestionException):
    """The store has no object under a key that a row names: an integrity violation, not a client's error."""

    default_message = "The stored object is missing."


class SecretUnreadable(IngestionException):
    """A stored secret cannot be decrypted: an operator's error. Names key ids, never keys."""

    default_message = "A stored camera URL cannot be decrypted with SECRETS__KEYS."


class SecretKeysMissing(SecretUnreadable):
    """This process lacks keys that the database holds something under; another process may have them."""

    code = "database_unavailable"
    retryable = True
    default_message = "SECRETS__KEYS of this process do not open what the database holds."


class DatabaseUnavailable(IngestionException):
    code = "database_unavailable"
    retryable = True
    default_message = "The database cannot be used right now. Try again."


class ShuttingDown(IngestionException):
    code = "shutting_down"
    retryable = True
    default_message = "The service is stopping. Try again."


class Overloaded(IngestionException):
    code = "overloaded"
    retryable = True
    default_message = "The service is at its limit of concurrent work. Try again."


class UpgradeRequired(IngestionException):
    code = "upgrade_required"
    default_message = "This address is a WebSocket's: connect with a WebSocket client (docs/websocket.md)."


class DiskFull(IngestionException):
    code = "disk_full"
    retryable = True
    default_message = "No disk space is left. Nothing was stored."


CaptureCode = Literal[
    "unauthorized_camera", "forbidden_camera", "stream_not_found", "camera_busy", "connection_refused",
    "connect_timeout", "read_timeout", "dns_failure", "tls_error", "no_video", "unsupported_codec",
    "transport_refused", "redirect_refused", "address_not_allowed", "stream_ended", "decode_failed",
    "timestamp_out_of_range", "lease_lost", "poisoned",
]  # fmt: skip

# Before the first picture these end a capture at once, because a retry cannot help (docs/api.md, "The end").
FATAL_BEFORE_FIRST_PICTURE: frozenset[str] = frozenset(
    {
        "unauthorized_camera", "forbidden_camera", "no_video", "unsupported_codec", "tls_error", "transport_refused",
        "redirect_refused", "address_not_allowed",
    }
)  # fmt: skip


class CaptureFailure(Exception):
    """What went wrong with a camera: kept as a request's `error`, and raised on the way there. Never holds a URL."""

    def __init__(self, code: CaptureCode, message: str) -> None:
        self.code = code
        self.message = message
        self.answered = False  # whether what is at the address has answered RTSP, now or before
        super().__init__(f"{code}: {message}")

    @property
    def retryable(self) -> bool:
        """Whether asking again, unchanged, can succeed."""
        return self.code not in FATAL_BEFORE_FIRST_PICTURE and self.code not in ("timestamp_out_of_range", "poisoned")


class CameraFailed(IngestionException):
    """A camera gave no picture: `code` is the capture's."""

    code = "stream_ended"
    default_message = "The camera gave no picture."

    def __init__(self, code: CaptureCode, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # the class's, narrowed for this one
        self.retryable = retryable  # type: ignore[misc]


class NotOnvif(IngestionException):
    code = "not_onvif"
    default_message = "There is no ONVIF device at this address."


class LeaseLost(Exception):
    """Another owner has a newer epoch, or the request is final: this process stops working on it, writes no state."""


class KeysCondemned(Exception):
    """The sweeper took objects between their PUT and their rows: their bytes are PUT again, under new keys."""

    def __init__(self, keys: frozenset[str]) -> None:
        self.keys = keys
        super().__init__(f"{len(keys)} object keys are condemned")
