"""How a picture lies on an earlier one, and what changed between them. Pure arithmetic; runs in a worker process.

Luma at SIDE pixels: ORB features, RANSAC homography (similarity when few agree), ECC to refine; of pictures of one size the
identity is a candidate, too. Then one gain and offset for light, and the SSIM map in colour over the overlap: what lies
below the pair's own noise has changed. docs/pairs.md shows what it sees and what it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

Array = NDArray[Any]

SIDE = 960  # pixels, the longer side of what is compared
MIN_INLIERS, FEW_INLIERS, NO_INLIERS = 12, 40, 8  # an affine that agrees by chance has fewer than the last
BLUR = 1.6  # pixels: noise and what JPEG leaves go, a sticker stays
WINDOW = 11  # pixels, of the local SSIM
K1, K2 = 0.06, 0.06  # larger than the customary ones: in a flat or black patch there is noise only
CEILING, FLOOR = 0.80, 0.35  # within which the noise threshold lies
SMALLEST = 0.0004  # share of the overlap; smaller patches are noise
MAX_REGIONS = 20
EDGE = 8  # pixels of the overlap's rim that say nothing: they are mixed with what is outside


class NoAlignment(Exception):
    """`reason`: one_colour or too_few_inliers."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Aligned:
    """`matrix` maps after's pixels onto before's, both as compared (small)."""

    method: str
    matrix: Array
    inliers: int


@dataclass(frozen=True, slots=True)
class Compared:
    """`ssim_map` is 1 outside the overlap; `regions` in the pixels of what was compared."""

    overlap: float
    ssim: float
    changed_share: float
    regions: list[tuple[int, int, int, int, float]]
    ssim_map: Array


def grey(picture: Array) -> Array:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))


def find(before: Array, after: Array, *, same_size: bool) -> Aligned:
    """How `after` (RGB, at most SIDE) lies on `before`. Raises NoAlignment."""
    b, a = grey(before), grey(after)
    if min(float(b.std()), float(a.std())) < 2.0:
        raise NoAlignment("one_colour")
    candidates = [Aligned("identity", np.eye(3), 0)] if same_size and b.shape == a.shape else []
    if (found := _by_features(b, a)) is not None:
        candidates.append(found)
    best: tuple[float, Aligned] | None = None
    for candidate in candidates:
        for tried in (candidate, _refined(b, a, candidate)):
            if tried is None:
                continue
            score = _likeness(b, a, tried.matrix)
            # The one before holds unless the next is plainly better: a fixed camera stays fixed.
            refined = best is not None and best[1].inliers > 0 and tried.method == f"{best[1].method}_ecc"
            if best is None or score > best[0] + (0.0 if refined else 0.002):
                best = score, tried
    if best is None or best[0] < (0.2 if best[1].inliers >= MIN_INLIERS else 0.6):
        raise NoAlignment("too_few_inliers")
    return best[1]


def _by_features(b: Array, a: Array) -> Aligned | None:
    detector = cv2.ORB.create(nfeatures=3000, fastThreshold=8)
    kb, db = detector.detectAndCompute(b, None)
    ka, da = detector.detectAndCompute(a, None)
    if db is None or da is None or min(len(kb), len(ka)) < NO_INLIERS:
        return None
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(da, db, k=2)
    good = [p[0] for p in pairs if len(p) == 2 and p[0].distance < 0.8 * p[1].distance]
    if len(good) < NO_INLIERS:
        return None
    src = np.array([ka[m.queryIdx].pt for m in good], np.float32)
    dst = np.array([kb[m.trainIdx].pt for m in good], np.float32)
    cv2.setRNGSeed(1)  # the same pictures, the same answer
    matrix, mask = cv2.findHomography(src, dst, cv2.RANSAC, 2.5, maxIters=3000, confidence=0.999)
    inliers = int(mask.sum()) if mask is not None else 0
    if matrix is not None and inliers >= FEW_INLIERS and _plausible(matrix, a.shape):
        return Aligned("orb_homography", np.asarray(matrix, np.float64), inliers)
    similar, mask = cv2.estimateAffinePartial2D(src, dst, method=cv2.RANSAC, ransacReprojThreshold=2.5, maxIters=3000)
    inliers = int(mask.sum()) if mask is not None else 0
    if similar is None or inliers < MIN_INLIERS:
        return None
    matrix = np.vstack([similar, [0.0, 0.0, 1.0]])
    return Aligned("orb_similarity", matrix, inliers) if _plausible(matrix, a.shape) else None


def _plausible(matrix: Array, shape: tuple[int, ...]) -> bool:
    """A view of the same scene: not mirrored, not folded, not ten times as large."""
    height, width = shape[:2]
    corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float64)
    seen = cv2.perspectiveTransform(corners, matrix)[0]
    area = float(cv2.contourArea(seen.astype(np.float32), oriented=True))
    share = area / float(cv2.contourArea(corners[0].astype(np.float32), oriented=True))
    return bool(np.isfinite(seen).all()) and 0.1 < share < 10 and bool(cv2.isContourConvex(seen.astype(np.float32)))


def _refined(b: Array, a: Array, start: Aligned) -> Aligned | None:
    warp = np.linalg.inv(start.matrix).astype(np.float32)  # ECC wants before's pixels onto after's
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-5)
    few, everywhere = start.inliers < FEW_INLIERS, np.full(a.shape, 255, np.uint8)
    try:
        if few:
            affine, mode = warp[:2] / warp[2, 2], cv2.MOTION_EUCLIDEAN
            _, found = cv2.findTransformECC(b, a, np.ascontiguousarray(affine), mode, criteria, everywhere, 5)
            found = np.vstack([found, [0.0, 0.0, 1.0]])
        else:
            _, found = cv2.findTransformECC(b, a, warp, cv2.MOTION_HOMOGRAPHY, criteria, everywhere, 5)
        matrix = np.linalg.inv(np.asarray(found, np.float64))
    except (cv2.error, np.linalg.LinAlgError):
        return None  # it did not converge
    if not np.isfinite(matrix).all() or not _plausible(matrix, a.shape):
        return None
    return Aligned("ecc" if start.method == "identity" else f"{start.method}_ecc", matrix / matrix[2, 2], start.inliers)


def warped(after: Array, matrix: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """`after` in before's pixels, and where it has any."""
    size = (shape[1], shape[0])
    seen = cv2.warpPerspective(after, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpPerspective(np.full(after.shape[:2], 255, np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    rim = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(rim, np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8))[1:-1, 1:-1]
    return np.asarray(seen), np.asarray(inner) > 0


def _likeness(b: Array, a: Array, matrix: Array) -> float:
    """Correlation of the blurred edges over the overlap; -1 where that is a tenth or less."""
    seen, mask = warped(a, matrix, b.shape)
    if mask.mean() < 0.1:
        return -1.0
    x, y = (cv2.GaussianBlur(item, (0, 0), 2.0).astype(np.float32)[mask] for item in (b, seen))
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (np.sqrt((x * x).sum() * (y * y).sum()) + 1e-6))


def _light(b: Array, a: Array, mask: Array) -> tuple[float, float]:
    """One gain and offset that make `b` as light as `a`, over what is neither clipped nor changed."""
    x, y = (item[::3, ::3][mask[::3, ::3]].ravel() for item in (b, a))  # a ninth of them says it as well
    fair = (x > 6) & (x < 249) & (y > 6) & (y < 249)
    if fair.sum() < 100:
        return 1.0, 0.0
    x, y = x[fair], y[fair]
    keep = np.ones(len(x), bool)
    gain, offset = 1.0, float(np.median(y - x))
    for _ in range(6):
        if float(x[keep].std()) < 1.0:
            break
        gain, offset = (float(v) for v in np.polyfit(x[keep], y[keep], 1))
        gain = min(4.0, max(0.25, gain))
        error = np.abs(y - gain * x - offset)
        keep = error <= max(3.0, 2.5 * float(np.median(error)))
    return gain, offset


def compare(before: Array, after: Array, matrix: Array) -> Compared:
    """What changed. `before`, `after`: RGB as `find` got them."""
    seen, mask = warped(after, matrix, before.shape)
    b = cv2.GaussianBlur(before, (0, 0), BLUR).astype(np.float32)
    a = cv2.GaussianBlur(seen, (0, 0), BLUR).astype(np.float32)
    gain, offset = _light(b, a, mask)
    # The darker one is made as light as the other, and clipped as that one was: what a sensor cuts off is no change.
    if gain >= 1.0:
        b = np.clip(gain * b + offset, 0, 255)
    else:
        a = np.clip((a - offset) / gain, 0, 255)
    similar: Any = structural_similarity  # it has no types
    _, score = similar(b, a, win_size=WINDOW, channel_axis=2, data_range=255, full=True, K1=K1, K2=K2)
    low = np.where(mask, np.asarray(score).min(axis=2), 1.0)
    inside = low[mask]
    if not inside.size:
        return Compared(0.0, 0.0, 0.0, [], low)
    middle = float(np.median(inside))
    spread = 1.4826 * float(np.median(np.abs(inside - middle)))
    different = (low < min(CEILING, max(FLOOR, middle - 8.0 * spread - 0.05))).astype(np.uint8)
    changed = cv2.morphologyEx(different, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(changed, connectivity=8)
    regions, total = [], 0
    for n in range(1, count):
        x, y, width, height, area = (int(v) for v in stats[n])
        if area < SMALLEST * inside.size:
            continue
        total += area
        part = labels[y : y + height, x : x + width] == n
        regions.append((x, y, width, height, 1.0 - float(low[y : y + height, x : x + width][part].mean()), area))
    regions.sort(key=lambda region: -region[4] * region[5])
    return Compared(
        float(mask.mean()), float(np.asarray(score).mean(axis=2)[mask].mean()), total / inside.size,
        [(x, y, w, h, s) for x, y, w, h, s, _ in regions[:MAX_REGIONS]], low,
    )  # fmt: skip
