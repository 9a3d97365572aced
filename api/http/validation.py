"""pydantic's errors as the contract's `errors`: in words for a person, without any of the input."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

from pydantic_core.core_schema import ErrorType

from api.http.params import CURSOR_PATTERN, KEY_ID_PATTERN
from config import BUCKET_NAME_PATTERN, SITE_PATTERN
from models.schemas.base import RTSP_URL_PATTERN, TEXT_PATTERN
from models.schemas.uploads import CONTENT_TYPE_PATTERN, ETAG_PATTERN, SHA256_PATTERN
from models.values import CAMERA_ID_PATTERN
from utils.exceptions import FieldError, InvalidRequest, NotApplicable

Location = Literal["body", "query", "path", "header", "form"]
MAX_ERRORS = 100
_LOCATIONS = ("body", "query", "path", "header", "form")
_PYDANTIC_TYPES: frozenset[str] = frozenset(get_args(ErrorType))
# What a value must be, by pydantic's type of the error; the braces are the error's context, which is of the schema only.
# Other types (json_invalid, value_error, ...) may quote the value: "is not valid".
_WORDS = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} characters",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be greater than {gt:.15g}",
    "greater_than_equal": "must be at least {ge:.15g}",
    "less_than": "must be less than {lt:.15g}",
    "less_than_equal": "must be at most {le:.15g}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "list_type": "must be a list",
    "too_short": "must have at least {min_length} item(s)",
    "too_long": "must have at most {max_length} items",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "uuid_type": "must be a UUID",
    "uuid_parsing": "must be a UUID",
}
# What each pattern of the schemas and parameters asks for. A pattern that is not here is "has the wrong form".
PATTERN_WORDS = {
    CAMERA_ID_PATTERN: "may hold letters, digits, '.', '_' and '-', at most 100",
    RTSP_URL_PATTERN: "must begin with rtsp:// or rtsps://",
    CONTENT_TYPE_PATTERN: "must be 1 to 255 visible ASCII characters or spaces",
    SHA256_PATTERN: "must be 64 hexadecimal digits in lower case",
    ETAG_PATTERN: "must be 1 to 200 visible ASCII characters",
    BUCKET_NAME_PATTERN: "may hold lower-case letters, digits, '.' and '-', 3 to 63, and begins and ends with no sign",
    KEY_ID_PATTERN: "may hold letters and digits, at most 64",
    SITE_PATTERN: "may hold lower-case letters, digits and '-', at most 40",
    CURSOR_PATTERN: "must be visible ASCII characters only",
    TEXT_PATTERN: "must be a text without NUL",
}
# What a field may be called to be repeated in an answer: a slip of the keyboard is, a URL or a key that went astray is not.
SHOWN_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_.\[\]-]{0,39}\Z")


def message_of(error: Mapping[str, Any]) -> str:
    """One of pydantic's `errors()` in words for a person. The text never holds the input."""
    kind, context = error["type"], error.get("ctx") or {}
    if kind not in _PYDANTIC_TYPES:  # a PydanticCustomError of ours
        return str(error["msg"])
    if kind == "string_pattern_mismatch":
        return PATTERN_WORDS.get(context.get("pattern", ""), "has the wrong form")
    words = _WORDS.get(kind, "is not valid")
    try:
        return words.format(**context)
    except (KeyError, ValueError):  # the context is not this type's: raised by hand
        return "is not valid"


def pointer(parts: Sequence[int | str]) -> str:
    """RFC 6901; the whole document is the empty string."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def field_error(error: Mapping[str, Any], location: Location | None = None) -> FieldError:
    """One of pydantic's `errors()`. Without `location` its path begins with one, as FastAPI's do."""
    path: list[int | str] = list(error["loc"])
    if location is None:
        location = cast(Location, path.pop(0)) if path and path[0] in _LOCATIONS else "body"
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "not_applicable":  # of the whole model, but about one field
        path.append(str(context.get("field", "")))
    # Another field's name is not repeated: the pointer then ends at its parent.
    path = [part for part in path if isinstance(part, int) or SHOWN_NAME.match(part)]
    in_document = location == "body" or (location == "form" and len(path) > 1)
    name = str(path[-1]) if path else ("body" if location == "body" else "")
    return FieldError(location, name, kind, message_of(error), pointer(path) if in_document else "")


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
