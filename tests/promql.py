"""A small evaluator of alert rules: the part of PromQL that deploy/alerts.yml uses, on recorded scrapes.

The grammar is that of promql-parser (Prometheus's own grammar in Rust); what an expression means is here, as Prometheus
documents it: staleness after 5 minutes or with the next scrape that lacks the series, extrapolated `rate` and
`increase`, `for`. An expression beyond that raises NotImplementedError: a rule is never taken for silent by mistake.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import promql_parser as ast
from prometheus_client.parser import text_string_to_metric_families

STALE_AFTER = 300.0  # seconds
Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le,
}  # fmt: skip
_AGGREGATE: dict[str, Callable[[Iterable[float]], float]] = {"sum": sum, "min": min, "max": max}


@dataclass
class Recording:
    """Scrapes of one target: (seconds, value) of each series; NaN marks the scrape that no longer had it."""

    target: dict[str, str]  # the labels that a scrape adds
    series: dict[Labels, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, at: float, text: str | None) -> None:
        """The text exposition of one scrape, or None for one that failed. Times ascend."""
        found: Vector = {_labels("up", self.target): float(text is not None)}
        for family in text_string_to_metric_families(text or ""):
            found |= {_labels(sample.name, {**sample.labels, **self.target}): sample.value for sample in family.samples}
        for labels, points in self.series.items():
            if labels not in found and not math.isnan(points[-1][1]):
                points.append((at, math.nan))
        for labels, value in found.items():
            self.series.setdefault(labels, []).append((at, value))


def _labels(name: str, labels: dict[str, str]) -> Labels:
    return frozenset({**labels, "__name__": name}.items())


def _without_name(labels: Labels) -> Labels:
    return frozenset(item for item in labels if item[0] != "__name__")


class Evaluator:
    """Values of expressions at one moment of a recording."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def vector(self, text: str, at: float) -> Vector:
        found = self._value(ast.parse(text), at)
        assert isinstance(found, dict), text
        return found

    def _value(self, node: Any, at: float) -> Vector | float:
        match type(node).__name__:
            case "NumberLiteral":
                return float(node.val)
            case "ParenExpr":
                return self._value(node.expr, at)
            case "VectorSelector":
                newest = ((labels, points[-1]) for labels, points in self._points(node, at - STALE_AFTER, at))
                return {labels: value for labels, (_, value) in newest if not math.isnan(value)}
            case "AggregateExpr":
                return self._aggregate(node, at)
            case "Call":
                return self._call(node, at)
            case "BinaryExpr":
                return self._binary(node, at)
        raise NotImplementedError(f"{type(node).__name__}: {node}")

    def _points(self, selector: Any, after: float, at: float) -> Iterable[tuple[Labels, list[tuple[float, float]]]]:
        for labels, points in self._recording.series.items():
            values = dict(labels)
            if values["__name__"] == selector.name and all(_matches(m, values) for m in selector.matchers.matchers):
                within = [(t, value) for t, value in points if after < t <= at]
                if within:
                    yield labels, within

    def _vector_of(self, node: Any, at: float) -> Vector:
        found = self._value(node, at)
        assert isinstance(found, dict), node
        return found

    def _aggregate(self, node: Any, at: float) -> Vector:
        by = set() if node.modifier is None else set(node.modifier.labels)
        if str(node.op) not in _AGGREGATE or (node.modifier is not None and "by" not in str(node.modifier.type).lower()):
            raise NotImplementedError(str(node))
        groups: dict[Labels, list[float]] = {}
        for labels, value in self._vector_of(node.expr, at).items():
            key = frozenset(item for item in labels if item[0] in by)
            groups.setdefault(key, []).append(value)
        return {key: _AGGREGATE[str(node.op)](values) for key, values in groups.items()}

    def _call(self, node: Any, at: float) -> Vector:
        name, args = str(node.func.name), list(node.args)
        if name == "histogram_quantile":
            quantile = self._value(args[0], at)
            assert isinstance(quantile, float)
            return _quantile(quantile, self._vector_of(args[1], at))
        if name not in ("rate", "increase"):
            raise NotImplementedError(str(node))
        window = args[0].range
        assert isinstance(window, timedelta)
        seconds = window.total_seconds()
        found: Vector = {}
        for labels, points in self._points(args[0].vector_selector, at - seconds, at):
            grown = _increase([point for point in points if not math.isnan(point[1])], at - seconds, at)
            if grown is not None:
                found[_without_name(labels)] = grown / seconds if name == "rate" else grown
        return found

    def _binary(self, node: Any, at: float) -> Vector:
        left, right = self._vector_of(node.lhs, at), self._value(node.rhs, at)
        if str(node.op) == "or" and isinstance(right, dict):
            return left | {labels: value for labels, value in right.items() if labels not in left}
        if str(node.op) not in _COMPARE or not isinstance(right, float):
            raise NotImplementedError(str(node))
        compare = _COMPARE[str(node.op)]
        return {labels: value for labels, value in left.items() if compare(value, right)}


def _matches(matcher: Any, labels: dict[str, str]) -> bool:
    value = labels.get(matcher.name, "")
    kind = str(matcher.op).rsplit(".", 1)[-1].lower()
    if kind in ("equal", "notequal"):
        return bool(value == matcher.value) == (kind == "equal")
    if kind in ("re", "notre"):
        return (re.fullmatch(matcher.value, value) is not None) == (kind == "re")
    raise NotImplementedError(kind)


def _increase(points: list[tuple[float, float]], start: float, end: float) -> float | None:
    """As Prometheus extrapolates to the window's edges: by at most half an interval beyond 1.1 intervals from one."""
    if len(points) < 2:
        return None
    grown = points[-1][1] - points[0][1]
    grown += sum(before for (_, before), (_, after) in itertools.pairwise(points) if after < before)  # resets
    sampled = points[-1][0] - points[0][0]
    interval = sampled / (len(points) - 1)
    to_start, to_end = points[0][0] - start, end - points[-1][0]
    if grown > 0 and points[0][1] >= 0:  # no counter was below zero
        to_start = min(to_start, sampled * points[0][1] / grown)
    extended = sampled
    for edge in (to_start, to_end):
        extended += edge if edge < interval * 1.1 else interval / 2
    return grown * extended / sampled


def _quantile(quantile: float, buckets: Vector) -> Vector:
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in buckets.items():
        key = frozenset(item for item in labels if item[0] not in ("le", "__name__"))
        groups.setdefault(key, []).append((float(dict(labels)["le"]), count))
    found: Vector = {}
    for key, unsorted in groups.items():
        edges = sorted(unsorted)
        total = edges[-1][1]
        if not total:
            found[key] = math.nan
            continue
        rank = quantile * total
        n = next(n for n, (_, count) in enumerate(edges) if count >= rank)
        if n == len(edges) - 1:
            found[key] = edges[-2][0]
            continue
        low, below = edges[n - 1] if n else (0.0, 0.0)
        found[key] = low + (edges[n][0] - low) * (rank - below) / (edges[n][1] - below)
    return found


def _seconds(duration: str) -> float:
    window: Any = ast.parse(f"x[{duration}]") if duration != "0s" else None
    return float(window.range.total_seconds()) if window is not None else 0.0


def firing(
    rules: dict[str, Any], recording: Recording, start: float, end: float, every: float
) -> dict[str, dict[Labels, float]]:
    """By alert and labels: the first evaluation from `start` to `end` at which it fires. `rules`: a parsed rules file."""
    evaluator = Evaluator(recording)
    found: dict[str, dict[Labels, float]] = {}
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        patience = _seconds(rule.get("for", "0s"))
        active: dict[Labels, float] = {}
        fired: dict[Labels, float] = {}
        for step in range(int((end - start) / every) + 1):
            at = start + step * every
            now = {_without_name(labels) for labels in evaluator.vector(rule["expr"], at)}
            active = {labels: active.get(labels, at) for labels in now}
            for labels, since in active.items():
                if at - since >= patience:
                    fired.setdefault(labels, at)
        found[rule["alert"]] = fired
    return found
