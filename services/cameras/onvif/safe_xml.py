"""XML from strangers: UTF-8, no DTD, bounded in bytes, elements and depth. Names without their namespaces.

SOAP 1.2 (part 1, section 5) forbids a DTD, and only a DTD can declare entities: so nothing expands and nothing is fetched.
The text is searched for one before expat sees it, and expat reads the bytes as what was searched, whatever they declare.
"""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser  # bounded below

MAX_ELEMENTS = 20_000
MAX_DEPTH = 64
_FORBIDDEN = ("<!DOCTYPE", "<!ENTITY")


class BadXml(Exception):
    """The bytes are no XML that is read here."""


class _Bounded(TreeBuilder):
    def __init__(self, max_elements: int) -> None:
        super().__init__()
        self._left, self._depth = max_elements, 0

    def start(self, tag: Any, attrs: Any, /) -> Element:
        self._left -= 1
        self._depth += 1
        if self._left < 0 or self._depth > MAX_DEPTH:
            raise BadXml("too many elements, or too deep")
        return super().start(tag.rpartition("}")[2], attrs)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag.rpartition("}")[2])


def parse(data: bytes, max_elements: int = MAX_ELEMENTS) -> Element:
    """The document's root. `data` is bounded by who has read it. Raises BadXml, and nothing else."""
    try:
        text = data.decode("utf-8")
        if any(word in text for word in _FORBIDDEN):
            raise BadXml("a DTD")
        parser = XMLParser(target=_Bounded(max_elements), encoding="utf-8")  # noqa: S314
        parser.feed(data)
        root = parser.close()
    except BadXml:
        raise
    except (ParseError, ValueError, LookupError, AssertionError) as error:
        raise BadXml(type(error).__name__) from None
    if not isinstance(root, Element):
        raise BadXml("no element")
    return root


def child(element: Element | None, *path: str) -> Element | None:
    """The first element along the path of names; None when there is none, or `element` is None."""
    for name in path:
        element = next((one for one in element if one.tag == name), None) if element is not None else None
    return element


def text(element: Element | None, *path: str, limit: int = 2048) -> str | None:
    """The stripped text of `child`; None for none, an empty one, or one of more than `limit` characters."""
    found = child(element, *path)
    value = (found.text or "").strip() if found is not None else ""
    return value if value and len(value) <= limit else None


def number(element: Element | None, *path: str) -> float | None:
    """The number in `text`, positive and finite, else None."""
    value = text(element, *path, limit=20)
    try:
        found = float(value) if value else 0.0
    except ValueError:
        return None
    return found if 0 < found < 1e9 else None
