"""The drawing of the imports: layers, circles, and the page that shows them."""

from __future__ import annotations

from graphlib import CycleError
from pathlib import Path

import pytest

from docs import graph

HOUSE = {"roof": {"walls", "floor"}, "walls": {"floor"}, "floor": set[str](), "garden": set[str]()}


def test_the_page_shows_the_imports_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert graph.main(["--check"]) == 0, capsys.readouterr().err


def test_each_room_is_above_all_that_it_imports() -> None:
    assert graph.layers(HOUSE) == [["roof"], ["walls"], ["floor", "garden"]]
    assert graph.without_shortcuts(HOUSE)["roof"] == {"walls"}


def test_a_circle_is_an_error() -> None:
    with pytest.raises(CycleError):
        graph.layers({**HOUSE, "floor": {"roof"}})


def test_a_circle_in_the_code_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "cellar"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("from cellar import b\n")
    (package / "b.py").write_text("from cellar import a\n")
    page = tmp_path / "page.md"
    page.write_text(graph.BEGIN + graph.END)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(graph, "ROOTS", ("cellar",))
    monkeypatch.setattr(graph, "PAGE", page)
    assert graph.main([]) == 1
    assert "cellar.a" in capsys.readouterr().err


def test_check_sees_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{graph.BEGIN}old\n{graph.END}after\n")
    monkeypatch.setattr(graph, "PAGE", page)
    assert graph.main(["--check"]) == 1
    assert graph.main([]) == 0
    assert graph.main(["--check"]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "flowchart TD" in text
