"""Types of path and query parameters, as strict as the bodies: no coercion beyond text to its type."""

from __future__ import annotations

import re
from typing import Annotated, Any
from uuid import UUID

from annotated_types import Ge, Le, MaxLen, MinLen
from fastapi import Path, Query
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from models.schemas.base import TEXT_PATTERN

CURSOR_PATTERN = r"^[!-~]+$"
KEY_ID_PATTERN = r"^[0-9A-Za-z]{1,64}$"
_UUID = re.compile(r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
DECIMAL = re.compile(r"^[0-9]{1,9}(\.[0-9]{1,6})?\Z")
_INTEGER = re.compile(r"^-?(0|[1-9][0-9]{0,17})\Z")


def _uuid(value: Any) -> Any:
    if isinstance(value, str) and not _UUID.match(value):  # pydantic takes urn:uuid:, braces and bare hex too
        raise PydanticCustomError("uuid_parsing", "must be a UUID")
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, str) and not _INTEGER.match(value):  # pydantic takes 5.0, +5 and 1_0 too
        raise PydanticCustomError("int_parsing", "must be an integer")
    return value


def _seconds(value: Any) -> Any:
    if isinstance(value, str) and not DECIMAL.match(value):  # pydantic takes 1e1, nan, +5 and 1_0 too
        raise PydanticCustomError("float_parsing", "must be a number of seconds")
    return value


def _boolean(value: Any) -> Any:
    if isinstance(value, str) and value not in ("true", "false"):
        raise PydanticCustomError("bool_parsing", "must be true or false")
    return value


StrictUuid = Annotated[UUID, BeforeValidator(_uuid, json_schema_input_type=UUID)]
RequestId = Annotated[StrictUuid, Path(description="The request's id.")]
FrameId = Annotated[StrictUuid, Path(description="The frame's id.")]
# Bounds stand before the validator: after it they would not be in the JSON schema.
StrictInteger = BeforeValidator(_integer)
StrictSeconds = BeforeValidator(_seconds)
Limit = Annotated[int, Ge(1), Le(200), StrictInteger, Query(description="Items a page.")]
Flag = Annotated[bool, BeforeValidator(_boolean, json_schema_input_type=bool)]
MetaText = Annotated[str, MinLen(1), MaxLen(1000), Field(pattern=TEXT_PATTERN)]
Cursor = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=2048,
        pattern=CURSOR_PATTERN,
        description="`next_cursor` of the page before, with the same filters.",
    ),
]
