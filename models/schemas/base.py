"""The parts of every schema: strict input, output, times, ids, bounded objects.

Input is strict: no coercion, unknown fields refused, times RFC 3339 with an offset. Output times are UTC, `Z`, six
digits.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from models.values import CAMERA_ID_PATTERN, Phase

MAX_META_BYTES = 16 * 1024
TEXT_PATTERN = r"^[^\x00]+$"  # NUL is in no text that PostgreSQL keeps
RTSP_URL_PATTERN = r"^[Rr][Tt][Ss][Pp][Ss]?://"
_RFC3339 = re.compile(r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})$")


def parse_time(value: Any) -> Any:
    """RFC 3339 text to an aware UTC datetime (microseconds); raises a validation error for anything else."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC3339.match(value):
        raise PydanticCustomError("timestamp", "must be an RFC 3339 time with an offset, e.g. 2026-05-04T13:30:00Z")
    text = value.upper().replace(" ", "T")
    head, dot, tail = text.partition(".")
    if dot:  # datetime takes six digits at most
        digits = re.match(r"\d+", tail)
        fraction = digits.group() if digits else ""
        text = f"{head}.{fraction[:6].ljust(6, '0')}{tail[len(fraction) :]}"
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError("timestamp", "is not a time that exists") from None


def format_time(value: datetime) -> str:
    """UTC, `Z`, six digits."""
    if value.tzinfo is not UTC:
        value = value.astimezone(UTC)
    # strftime's %Y has fewer than four digits before the year 1000; isoformat takes twice as long with an offset, an
    # f-string of seven formats three times.
    return "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ" % (  # noqa: UP031
        value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond
    )  # fmt: skip


Timestamp = Annotated[
    datetime,
    BeforeValidator(parse_time, json_schema_input_type=str),
    PlainSerializer(format_time, return_type=str, when_used="json"),
    Field(json_schema_extra={"format": "date-time", "examples": ["2026-05-04T13:30:00.000000Z"]}),
]


def _not_only_dots(value: str) -> str:
    if not value.strip("."):
        raise PydanticCustomError("camera_id", "must not be only dots")
    return value


CameraId = Annotated[
    str,
    Field(pattern=CAMERA_ID_PATTERN, min_length=1, max_length=100, examples=["pit-lane-1"]),
    AfterValidator(_not_only_dots),
]


RtspUrl = Annotated[
    str,
    Field(min_length=8, max_length=2048, pattern=RTSP_URL_PATTERN, examples=["rtsp://192.168.1.20:554/stream1"]),
]


# `defer_build`: a model, and what FastAPI makes of it, is built when it is first used. All of them at every start are 0.2 s.
class Input(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, defer_build=True)


class NullIsAbsent(Input):
    """Input that takes null for each field that may be absent, and says so in its JSON schema."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return without_nulls(value, cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        model = handler.resolve_ref_schema(schema)
        for name, value in model["properties"].items():
            if name not in model.get("required", ()) and {"type": "null"} not in value.get("anyOf", ()):
                model["properties"][name] = {"anyOf": [value, {"type": "null"}]}
        return schema


class Output(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)


def without_nulls(value: Any, model: type[BaseModel]) -> Any:
    """The object without the model's fields that are null (null means absent); anything else unchanged."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if item is not None or key not in model.model_fields}


def _bounded_object(limit: int) -> Any:
    def check(value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value, ensure_ascii=False).encode()) > limit:
            raise PydanticCustomError("object_too_large", "is larger than {limit} bytes", {"limit": limit})
        return value

    return AfterValidator(check)


BoundedObject = Annotated[dict[str, Any], _bounded_object(MAX_META_BYTES)]


class FrameMeta(Input):
    """Free to fill; stored with the request and every frame."""

    session: str | None = Field(None, examples=["FP1"])
    subject: str | None = Field(None, min_length=1, max_length=200, description="What is shown.", examples=["car-44"])
    phase: Phase | None = Field(None, strict=False, description="Before or after what is to be compared.")
    timestamp_ref: Timestamp | None = None
    location: str | None = None
    camera_angle: str | None = None
    exposure: float | None = Field(None, ge=0, description="Seconds.")
    sensor_info: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> FrameMeta:
        if self.model_fields_set and len(json.dumps(self.to_json(), ensure_ascii=False).encode()) > MAX_META_BYTES:
            raise PydanticCustomError("meta_too_large", "meta is larger than 16 KiB")
        return self

    def to_json(self) -> dict[str, Any]:
        """Only what was sent, as JSON."""
        return {} if not self.model_fields_set else self.model_dump(mode="json", exclude_none=True)
