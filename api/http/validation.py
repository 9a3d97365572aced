"""pydantic's errors as the contract's `errors`, without any of the input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

from pydantic_core.core_schema import ErrorType

from utils.exceptions import FieldError, InvalidRequest, NotApplicable

Location = Literal["body", "query", "path", "header", "form"]
MAX_ERRORS = 100
_LOCATIONS = ("body", "query", "path", "header", "form")
_PYDANTIC_TYPES: frozenset[str] = frozenset(get_args(ErrorType))
# Messages of these are made of the schema only. Others (uuid_parsing, datetime_parsing, json_invalid, value_error,
# ...) may quote the value.
_SAFE_TYPES = frozenset(
    {
        "missing", "extra_forbidden", "string_type", "string_too_short", "string_too_long", "string_pattern_mismatch",
        "int_type", "int_parsing", "int_from_float", "float_type", "float_parsing", "bool_type", "bool_parsing",
        "greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number", "literal_error",
        "enum", "list_type", "dict_type", "model_type", "model_attributes_type", "too_long", "too_short",
    }
)  # fmt: skip
_OWN_MESSAGES = {
    "extra_forbidden": "is not a known field",
    "missing": "is required",
    "uuid_type": "must be a UUID",
    "uuid_parsing": "must be a UUID",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}
_NAME = re.compile(r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,128}$")


def safe_message(kind: str, message: str) -> str:
    """The message of an error of this type when it cannot hold the input, else a general one."""
    if own := _OWN_MESSAGES.get(kind):
        return own
    if kind in _SAFE_TYPES or kind not in _PYDANTIC_TYPES:  # not pydantic's: a PydanticCustomError of ours
        return message
    return "is not valid"


def pointer(parts: Sequence[int | str]) -> str:
    """RFC 6901; the whole document is the empty string."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def field_error(error: dict[str, Any], location: Location | None = None) -> FieldError:
    """One of pydantic's `errors()`. Without `location` its path begins with one, as FastAPI's do."""
    path: list[int | str] = list(error["loc"])
    if location is None:
        location = cast(Location, path.pop(0)) if path and path[0] in _LOCATIONS else "body"
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "not_applicable":  # of the whole model, but about one field
        path.append(str(context.get("field", "")))
    # A field's name that nobody can read or print is not repeated: the pointer then ends at its parent.
    path = [part for part in path if isinstance(part, int) or _NAME.match(part)]
    in_document = location == "body" or (location == "form" and len(path) > 1)
    name = str(path[-1]) if path else ("body" if location == "body" else "")
    return FieldError(location, name, kind, safe_message(kind, error["msg"]), pointer(path) if in_document else "")


def invalid(errors: Sequence[dict[str, Any]], location: Location | None = None) -> InvalidRequest:
    """The exception for pydantic's errors."""
    fields = [field_error(error, location) for error in errors[:MAX_ERRORS]]
    return invalid_fields(fields)


def invalid_fields(fields: Sequence[FieldError]) -> InvalidRequest:
    """NotApplicable when that is all there is, else InvalidRequest; a single error also speaks in `detail`."""
    kind = NotApplicable if fields and all(item.code == "not_applicable" for item in fields) else InvalidRequest
    message = f"{fields[0].name}: {fields[0].message}" if len(fields) == 1 else None
    if kind is NotApplicable and len(fields) == 1:
        message = fields[0].message
    return kind(message, errors=fields[:MAX_ERRORS])
