"""XML from strangers."""

from __future__ import annotations

import resource
import time

import pytest

from services.cameras.onvif.safe_xml import MAX_DEPTH, MAX_ELEMENTS, BadXml, child, number, parse, text

LAUGHS = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha">' + b"".join(
    f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">'.encode() for n in range(9)
)


def test_what_a_device_says_is_read_without_its_namespaces() -> None:
    root = parse(b'<a:x xmlns:a="urn:1"><b:y xmlns:b="urn:2" token="t"> 7 </b:y><z/></a:x>')
    assert (root.tag, [one.tag for one in root], root[0].get("token")) == ("x", ["y", "z"], "t")
    assert (text(root, "y"), number(root, "y"), text(root, "z"), text(root, "none"), child(None, "y")) == (
        "7", 7.0, None, None, None,
    )  # fmt: skip


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "1e400", "x", "9" * 21])
def test_a_number_is_positive_and_finite(value: str) -> None:
    assert number(parse(f"<a><b>{value}</b></a>".encode()), "b") is None


BAD = {
    "entities": LAUGHS + b"]><a>&j;</a>",
    "an external entity": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    "an external DTD": b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd"><a/>',
    "UTF-16, in which the word is not to be seen": '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'.encode("utf-16"),
    "UTF-7, said in the declaration": b'<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE a+AD4-<a/>',
    "elements": b"<a>" + b"<b/>" * MAX_ELEMENTS + b"</a>",
    "depth": b"<a>" * (MAX_DEPTH + 1) + b"</a>" * (MAX_DEPTH + 1),
    "cut off": b"<a><b>",
    "nothing": b"",
    "text": b"hello",
    "not UTF-8": b"<a>\xff</a>",
    "NUL": b"<a>\0</a>",
}


@pytest.mark.parametrize("what", BAD)
def test_bombs_and_garbage_are_refused_at_once(what: str) -> None:
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadXml):
        parse(BAD[what])
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 65_536  # KiB


def test_as_many_elements_as_are_allowed() -> None:
    assert len(parse(b"<a>" + b"<b/>" * (MAX_ELEMENTS - 1) + b"</a>")) == MAX_ELEMENTS - 1
