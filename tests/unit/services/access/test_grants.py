"""Cameras of a grant: exact ids and prefixes, nothing cleverer."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import repositories
import services
from models.access import ALL_CAMERAS, NO_CAMERAS, CameraGrant


def test_exact_ids_and_prefixes() -> None:
    grant = CameraGrant.of(["pit-1", "lane_*"])
    assert grant.covers("pit-1")
    assert grant.covers("lane_")
    assert grant.covers("lane_7")
    for alien in ("pit-10", "pit-", "Pit-1", "laneX7", "lane", "", "xlane_7"):
        assert not grant.covers(alien)
    assert CameraGrant.of(["*"]).covers("anything")
    assert ALL_CAMERAS.covers("x")
    assert not NO_CAMERAS.covers("x")
    assert CameraGrant.of([]) == NO_CAMERAS


@pytest.mark.parametrize("pattern", ["", "a b", "*a", "a*b", "a**", "%", "a?", "ü", "x" * 101, "a\n"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError):
        CameraGrant.of([pattern])


def signatures() -> Iterator[tuple[str, inspect.Parameter]]:
    """Every parameter of every function and method of repositories and services."""
    for package in (repositories, services):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".versions." in found.name or found.name.endswith(".env"):
                continue
            module = importlib.import_module(found.name)
            for owner in (module, *(item for _, item in inspect.getmembers(module, inspect.isclass))):
                for name, function in inspect.getmembers(owner, inspect.isfunction):
                    if function.__module__ == found.name:
                        for parameter in inspect.signature(function).parameters.values():
                            yield f"{found.name}.{name}", parameter


def test_whoever_reads_says_for_whom() -> None:
    """A grant or a principal that is forgotten does not type-check: none has a default."""
    asked = [(name, item) for name, item in signatures() if item.annotation in ("CameraGrant", "Principal")]
    assert len(asked) > 40
    assert [name for name, item in asked if item.default is not inspect.Parameter.empty] == []
