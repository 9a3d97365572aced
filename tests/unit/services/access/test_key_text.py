"""The text of a key: as the contract has it, and nothing else passes for one."""

from __future__ import annotations

import re
import zlib

import pytest

from services.access.key_text import checksum, hash_of, key_id_of, new_key


def test_a_new_key_has_the_form_of_the_contract() -> None:
    key_id, text = new_key()
    assert re.fullmatch(r"tsk_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}", text)
    assert text[4:16] == key_id
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    value = 0
    for digit in text[-6:]:
        value = value * 62 + digits.index(digit)
    assert value == zlib.crc32(text[:-6].encode())
    assert key_id_of(text) == key_id
    assert len({new_key()[1] for _ in range(100)}) == 100


def test_a_small_checksum_is_padded_on_the_left() -> None:
    found = next(f"x{n}" for n in range(10_000_000) if zlib.crc32(f"x{n}".encode()) < 62**5)
    assert checksum(found).startswith("0")
    assert len(checksum(found)) == 6


def test_another_secret_keeps_the_id() -> None:
    key_id, first = new_key()
    same, second = new_key(key_id)
    assert same == key_id == key_id_of(second)
    assert hash_of(first) != hash_of(second)


@pytest.mark.parametrize("change", ["", "x", "short", "space", "newline", "case"])
def test_a_text_with_a_fault_is_no_key(change: str) -> None:
    _, text = new_key()
    flipped = "A" if text[20] != "A" else "B"
    faulty = {
        "": "", "x": text[:20] + flipped + text[21:], "short": text[:-1], "space": f" {text}", "newline": f"{text}\n",
        "case": text.replace("tsk_", "TSK_"),
    }[change]  # fmt: skip
    assert key_id_of(faulty) is None
