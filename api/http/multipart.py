"""multipart/form-data (RFC 7578), streaming: each part and header is bounded, files go straight to disk.

Starlette's own form parser is not used: it runs before anything can be refused, and it has no limit per file.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.http.strict_json import loads
from api.http.upload_folder import FileAction, FileOperation, FilePart
from api.http.validation import field_error, invalid_fields
from config import Settings
from models.schemas import UploadIngestionRequest
from utils.exceptions import FieldError, MalformedRequest, PayloadTooLarge, TooManyFiles, UnsupportedMediaType

MAX_FIELD_BYTES = 65_536
MAX_FILENAME = 255
MAX_PREAMBLE = 65_536  # bytes before the first boundary (RFC 2046, 5.1.1), which mean nothing
EXTRA_PARTS = 100  # parts beyond the files; more is no mistake but an attack
_FIELDS = ("camera_id", "meta", "source_type")
_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary")


def boundary_of(content_type: str) -> bytes:
    """The boundary, or UnsupportedMediaType when this is no multipart/form-data or has no usable one."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        raise UnsupportedMediaType("Send the files as multipart/form-data with a boundary.")
    return boundary


_EXTENDED_NAME = re.compile(rb";[ \t]*filename\*[ \t]*=[ \t]*\"?([\w-]+)'[^';\"]*'([^;\" \t]*)", re.IGNORECASE)


def extended_filename(disposition: bytes) -> bytes:
    """The name in `filename*=utf-8''…` (RFC 8187), which RFC 7578 forbids in forms and clients send; else empty."""
    found = _EXTENDED_NAME.search(disposition)
    if found is None:
        return b""
    raw = unquote_to_bytes(found[2])
    return raw.decode("latin-1").encode() if found[1].lower() == b"iso-8859-1" else raw


def clean_filename(raw: bytes) -> str:
    """The base name for showing: no folders of either kind, no control or direction characters, at most 255."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    text = text.replace("\\", "/").rpartition("/")[2]
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp")).strip()
    if text in (".", ".."):
        return ""
    if len(text) > MAX_FILENAME:  # the extension says the format: keep it
        stem, dot, extension = text.rpartition(".")
        tail = dot + extension if stem and len(extension) <= 16 else ""
        text = text[: MAX_FILENAME - len(tail)] + tail
    return text


@dataclass
class _Part:
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    name: str = ""
    file: FilePart | None = None
    text: bytearray | None = None  # a known field's value; None: the data is discarded


class FormReader:
    """Feeds the parser. Keeps the fields' values, and the files' bytes as operations for a thread."""

    def __init__(self, boundary: bytes, settings: Settings, *, in_memory: bool = False) -> None:
        """`in_memory`: the files' bytes are hashed here, piece by piece: no thread will have them."""
        self._in_memory = in_memory
        self._max_file = settings.UPLOAD.MAX_FILE_SIZE
        self._max_files = settings.UPLOAD.MAX_BATCH_SIZE
        self._operations: list[FileOperation] = []
        self._part = _Part()
        self._header_name = self._header_value = b""
        self._parts = self._file_parts = 0
        self._ended = False
        self._errors: list[FieldError] = []
        self._values: dict[str, bytes] = {}
        self._files: list[FilePart] = []
        self._start = b"--" + boundary
        self._preamble: bytearray | None = bytearray()  # None once the first boundary was seen
        self.waiting = 0  # bytes in the operations
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin, "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value, "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished, "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end, "on_end": self._on_end,
                },
            )  # fmt: skip
        except FormParserError:
            raise UnsupportedMediaType("The boundary cannot be used.") from None

    def feed(self, data: bytes) -> None:
        """Raises MalformedRequest for what is not multipart/form-data."""
        if self._preamble is not None:
            data = self._behind_preamble(self._preamble, data)
        try:
            if data:
                self._parser.write(data)
        except FormParserError:  # its text quotes the body
            raise MalformedRequest("The multipart body cannot be parsed.") from None

    def _behind_preamble(self, preamble: bytearray, data: bytes) -> bytes:
        """What has come from the first boundary on; empty while that has not come."""
        preamble += data
        at = 0 if preamble.startswith(self._start) else preamble.find(b"\r\n" + self._start) + 2
        if max(at, len(preamble) if at == 1 else 0) > MAX_PREAMBLE:
            raise MalformedRequest("The multipart body does not begin with its boundary.")
        if at == 1:  # not found yet
            return b""
        self._preamble = None
        return bytes(preamble[at:])

    def take(self) -> list[FileOperation]:
        operations, self._operations, self.waiting = self._operations, [], 0
        return operations

    def result(self) -> tuple[UploadIngestionRequest, list[FilePart]]:
        """The form and its files. Raises InvalidRequest with all form errors, then TooManyFiles."""
        if not self._ended:
            raise MalformedRequest("The multipart body ends before its last boundary.")
        if not self._file_parts:
            self._error("files", "missing", "at least one file is required")
        given: dict[str, object] = {}
        for name, raw in self._values.items():
            given[name] = (loads(raw) if raw.strip() else None) if name == "meta" else _text(raw)
        if given.get("meta", ...) is None:  # empty or null means absent
            del given["meta"]
        # A field gets one error only.
        known_bad = {error.name for error in self._errors}
        form: UploadIngestionRequest | None = None
        try:
            form = UploadIngestionRequest.model_validate(given)
        except ValidationError as error:
            items = error.errors(include_url=False, include_input=False)
            found = [(str(item["loc"][0]) if item["loc"] else "", field_error(dict(item), "form")) for item in items]
            self._errors += [item for name, item in found if name not in known_bad]
        if self._errors or form is None:
            raise invalid_fields(self._errors)
        if self._file_parts > self._max_files:
            raise TooManyFiles
        return form, self._files

    def _error(self, name: str, code: str, message: str) -> None:
        self._errors.append(FieldError("form", name, code, message))

    # The parser's callbacks, in the order in which it calls them.

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._max_files + EXTRA_PARTS:
            raise TooManyFiles if self._file_parts > self._max_files else PayloadTooLarge("The form has too many parts.")
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._part.headers.append((self._header_name.lower(), self._header_value))
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        part, headers = self._part, dict(self._part.headers)
        kind, options = parse_options_header(headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options or len(headers) != len(part.headers):
            raise MalformedRequest("A part has no Content-Disposition: form-data with a name.")
        if headers.get(b"content-transfer-encoding", b"").strip().lower().decode("latin-1") not in _PLAIN_ENCODINGS:
            raise MalformedRequest("A part has a Content-Transfer-Encoding; send its bytes as they are.")
        part.name = options[b"name"].decode("utf-8", "replace")
        raw_name = options.get(b"filename")
        if raw_name is None:
            raw_name = extended_filename(headers[b"content-disposition"]) or None
        if part.name == "files":
            self._begin_file(raw_name, headers.get(b"content-type", b""))
        elif part.name not in _FIELDS:
            self._error(part.name if part.name.isidentifier() and len(part.name) <= 64 else "", "extra_forbidden",
                        "is not a known form field")  # fmt: skip
        elif raw_name is not None:
            self._error(part.name, "not_a_field", "must be a field, not a file")
        elif part.name in self._values:
            self._error(part.name, "repeated", "is given more than once")
        else:
            part.text = bytearray()
            self._values[part.name] = b""

    def _begin_file(self, raw_name: bytes | None, declared: bytes) -> None:
        self._file_parts += 1
        name = clean_filename(raw_name or b"")
        if not name:
            self._error("files", "filename", "each file needs a filename")
        elif self._file_parts <= self._max_files:
            kind = declared.decode("latin-1").partition(";")[0].strip().lower()[:255]
            self._part.file = FilePart(self._file_parts - 1, name, kind or None)
            self._files.append(self._part.file)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        file, text = self._part.file, self._part.text
        if file is not None:
            file.size += end - start
            if file.size <= self._max_file:
                piece = data[start:end]
                self._operations.append((FileAction.WRITE, file, piece))
                self.waiting += end - start
                if self._in_memory:
                    file.digest.update(piece)
            elif not file.too_large:
                file.too_large = True
                self._operations.append((FileAction.DISCARD, file, b""))
        elif text is not None:
            text += data[start:end]
            if len(text) > MAX_FIELD_BYTES:
                self._error(self._part.name, "too_long", f"is longer than {MAX_FIELD_BYTES} bytes")
                self._part.text = None

    def _on_part_end(self) -> None:
        if self._part.file is not None:
            self._operations.append((FileAction.CLOSE, self._part.file, b""))
        elif self._part.text is not None:
            self._values[self._part.name] = bytes(self._part.text)

    def _on_end(self) -> None:
        self._ended = True


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedRequest("A form field is not UTF-8.") from None
