"""Content-Disposition: what a picture is called when it is saved, whatever its client called it."""

from __future__ import annotations

import re

import pytest

from utils.disposition import MAX_NAME, inline, safe_name


@pytest.mark.parametrize(
    ("name", "fmt", "safe"),
    [
        ("car 44.jpg", "jpg", "car 44.jpg"), ("CAR.JPEG", "jpg", "CAR.JPEG"), ("a.tif", "tiff", "a.tif"),
        ("a", "png", "a.png"), ("x .jpg", "jpg", "x.jpg"), ("%2e%2e.jpg", "jpg", "_2e_2e.jpg"),
        ("a.html", "jpg", "a.html.jpg"), ("a.jpg", "png", "a.jpg.png"), (".htaccess", "jpg", "htaccess.jpg"),
        ("../../etc/passwd.jpg", "jpg", "_.._etc_passwd.jpg"), ("C:\\x.jpg", "jpg", "C__x.jpg"), ("", "jpg", "frame.jpg"),
        ("...", "bmp", "frame.bmp"), (".jpg", "jpg", "frame.jpg"),
        ('a"\r\nSet-Cookie: x=1;.jpg', "jpg", "a___Set-Cookie_ x=1;.jpg"), ("cod.\u202egpj.exe", "jpg", "cod._gpj.exe.jpg"),
        ("e\u0301té.jpg", "jpg", "été.jpg"), ("\ud800.jpg", "jpg", "_.jpg"), ("車44.png", "png", "車44.png"),
    ],
)  # fmt: skip
def test_a_name_is_no_path_and_hides_nothing(name: str, fmt: str, safe: str) -> None:
    assert safe_name(name, fmt) == safe


@pytest.mark.parametrize("name", ["x" * 5000 + ".jpg", "é" * 1024, "x.jpg" * 300])
def test_a_name_is_bounded(name: str) -> None:
    assert len(safe_name(name, "jpg")) <= MAX_NAME
    assert safe_name(name, "jpg").endswith(".jpg")


def test_the_header_says_it_for_old_and_new_clients() -> None:
    assert inline("car 44.jpg", "jpg") == 'inline; filename="car 44.jpg"'
    assert inline("été.jpg", "jpg") == "inline; filename=\"_t_.jpg\"; filename*=UTF-8''%C3%A9t%C3%A9.jpg"


def test_no_character_leaves_its_place() -> None:
    """One header, two parameters: quoted ASCII, and percent-encoded UTF-8 (RFC 8187)."""
    form = re.compile(r"""inline; filename="[ !#-$&-)+-.0-9;=@-\[\]-~]+"(; filename\*=UTF-8''[A-Za-z0-9._~%-]+)?""")
    for char in map(chr, [*range(0x300), 0x2028, 0x2029, 0x202E, 0xFEFF, 0xD800, 0x1F600]):
        value = inline(f"a{char}b.jpg", "jpg")
        assert form.fullmatch(value), value
