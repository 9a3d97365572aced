"""What judging a picture costs: measured where it is decoded, judged in a thread. CPU, of pictures of 1080p and 4K."""

from __future__ import annotations

import time

import cv2
import numpy as np

from demo.scene import Scene
from services.quality.judge import Judge
from services.quality.measures import measure
from tests.benchmarks.frame import Bench, Goal

ROUNDS, PICTURES = 5, 40


def quality(bench: Bench) -> None:
    rng = np.random.default_rng(1)
    for name, width, height, goal in (("1080p", 1920, 1080, Goal("<=", 2.0)), ("4K", 3840, 2160, Goal())):
        plain = np.asarray(cv2.cvtColor(Scene(width, height).render(2.0, "", 1), cv2.COLOR_BGR2GRAY), np.uint8)
        shown = [np.clip(plain + rng.normal(0, 2, plain.shape), 0, 255).astype(np.uint8) for _ in range(4)]
        judge, at, took = Judge(100, capture=True), 0.0, []
        for _ in range(ROUNDS):
            began = time.thread_time()
            for n in range(PICTURES):
                at += 1.0
                judge.judge(measure(shown[n % 4], width, height, limited=True), at)
            took.append((time.thread_time() - began) / PICTURES * 1000)
        bench.compare(f"a picture of {name}, measured and judged", "ms", took, [], goal)
