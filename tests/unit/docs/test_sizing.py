"""docs/sizing.md: its tables are computed, its figures stand on the pages they are from, and the arithmetic is right."""

from __future__ import annotations

import dataclasses

import pytest

from docs import sizing
from docs.sizing import PAGE, Size


def test_the_page_is_what_is_computed() -> None:
    text = PAGE.read_text("utf-8")
    assert sizing.page(text) == text, "python -m docs.sizing"
    assert sizing.table() in text
    assert sizing.sources() in text


def test_every_figure_stands_on_its_page() -> None:
    assert sizing.stale() == []


def test_a_figure_that_changed_on_its_page_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(sizing.JPEG_MS, words="(JPEG 35 beside 16)")
    monkeypatch.setattr(sizing, "FIGURES", (other,))
    assert sizing.stale() == ["performance-captures.md no longer says: (JPEG 35 beside 16)"]


@pytest.mark.parametrize("figure", sizing.FIGURES, ids=lambda figure: figure.what)
def test_its_words_have_its_value(figure: sizing.Figure) -> None:
    assert f"{figure.value:g}" in figure.words.replace(",", "")


def test_sixty_cameras_by_hand() -> None:
    jpeg, source = Size(60, source=False), Size(60, source=True)
    assert (jpeg.workers, jpeg.apis, jpeg.streams) == (2, 2, 60), "each of two can do all"
    assert jpeg.worker_cores == pytest.approx(60 * 0.0471 * 1.3)
    assert source.worker_cores == pytest.approx(60 * 0.0132 * 1.3)
    assert jpeg.day_gb == pytest.approx(60 * 86_400 * 178 / 1e6)
    assert source.day_gb == pytest.approx(jpeg.day_gb * 0.46)
    assert jpeg.in_mbit == 360
    assert jpeg.out_mbit == pytest.approx(60 * 178 * 8 / 1000)
    assert jpeg.connections == 4 * (10 + 20 + 10 + 3)
    # 160 MB, a ring budget of 1 GiB that 60 streams of 24 MB fill, 256 MiB of pictures, 1 GiB of first pictures.
    assert jpeg.worker_gb == pytest.approx((160e6 + 2**30 + 2**28 + 2**30) / 1e9)
    assert jpeg.writes == pytest.approx(60.48)


def test_ten_cameras_are_one_process_and_a_thousand_have_room() -> None:
    assert (Size(10, source=False).workers, Size(10, source=False).apis) == (1, 0)
    large = Size(1000, source=False)
    assert (large.workers, large.streams) == (20, 65)
    assert (large.workers - 1) * large.streams >= 1000
