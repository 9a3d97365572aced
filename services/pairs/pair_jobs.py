"""The jobs of the pairs' worker process: two pictures in, JSON and bytes out (utils/process_pool.py). `pair_calls` asks."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pi_heif import register_heif_opener
from PIL import Image, UnidentifiedImageError

from services.pairs.alignment import SIDE, NoAlignment, compare, find, warped
from services.rtsp_capture.media.seen import Seen, attach_seen

Array = NDArray[Any]

JPEG = [cv2.IMWRITE_JPEG_QUALITY, 88]


class _BadPicture(Exception):
    pass


def _rgb(data: bytes, side: int, max_pixels: int, noted: list[Seen | None]) -> tuple[Array, float, float]:
    """The picture as stored (not turned), its longer side at most `side`, and its scale in x and y. What was seen of a
    source picture is added to `noted`, else None."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)  # ours, below, is the bound
    noted.append(None)
    if data[4:8] == b"ftyp" and (found := _source(data, max_pixels, noted)) is not None:
        return _scaled(found, found.shape[1], found.shape[0], side)
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _BadPicture("image_too_large")
            image.draft("RGB", (side, side))  # a JPEG is decoded at 1/2, 1/4 or 1/8: cheap, and never smaller than asked
            if image.mode.startswith(("I", "F")):
                deep = np.asarray(image, np.float32)
                low, high = float(deep.min()), float(deep.max())
                grey = ((deep - low) * (255.0 / max(high - low, 1.0))).astype(np.uint8)
                whole = np.repeat(grey[:, :, None], 3, axis=2)
            else:
                whole = np.asarray(image.convert("RGB"))
    except _BadPicture:
        raise
    except Image.DecompressionBombError:
        raise _BadPicture("image_too_large") from None
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError):
        raise _BadPicture("invalid_image") from None
    return _scaled(whole, width, height, side)


def _source(data: bytes, max_pixels: int, noted: list[Seen | None]) -> Array | None:
    """A source picture; None: it is of another kind."""
    from services.rtsp_capture.media import source_reading as source  # pairs of others need no FFmpeg

    if not source.is_source(data):
        return None
    opened = source.open_source(data, max_pixels)
    noted[-1] = source.seen(opened)
    if opened.frame is None:
        raise _BadPicture("invalid_image")
    return source.rgb(opened.frame)


def _scaled(whole: Array, width: int, height: int, side: int) -> tuple[Array, float, float]:
    share = min(1.0, side / max(width, height))
    size = max(1, round(width * share)), max(1, round(height * share))
    if (whole.shape[1], whole.shape[0]) != size:
        whole = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA))
    return np.ascontiguousarray(whole), size[0] / width, size[1] / height


def _scaling(x: float, y: float) -> Array:
    """Maps pixels onto those of a scaled picture; a pixel's place is its centre."""
    return np.array([[x, 0.0, (x - 1.0) / 2], [0.0, y, (y - 1.0) / 2], [0.0, 0.0, 1.0]])


def align(sizes: list[int], max_pixels: int, data: bytes) -> tuple[dict[str, Any], bytes]:
    """How after lies on before, and what changed. `data`: both files, of `sizes` bytes. The answer is an Alignment, and what
    was seen of source pictures."""
    seen: list[Seen | None] = []
    answer = _aligned(sizes, max_pixels, data, seen)
    return attach_seen(answer, b"", _both(seen))


def _both(seen: list[Seen | None]) -> list[Seen | None]:
    return [*seen, None, None][:2]  # the second one is not opened where the first cannot be


def _aligned(sizes: list[int], max_pixels: int, data: bytes, noted: list[Seen | None]) -> dict[str, Any]:
    cv2.setNumThreads(1)
    try:
        before, bx, by = _rgb(data[: sizes[0]], SIDE, max_pixels, noted)
        after, ax, ay = _rgb(data[sizes[0] :], SIDE, max_pixels, noted)
        found = find(before, after, same_size=(bx, by) == (ax, ay))
    except (_BadPicture, NoAlignment) as error:
        return {"status": "failed", "reason": str(error)}
    seen = compare(before, after, found.matrix)
    matrix = np.linalg.inv(_scaling(bx, by)) @ found.matrix @ _scaling(ax, ay)
    matrix /= matrix[2, 2]
    middle = np.array([[[(after.shape[1] / ax - 1) / 2, (after.shape[0] / ay - 1) / 2]]])
    there = cv2.perspectiveTransform(middle, matrix)[0, 0]
    here = np.array([(before.shape[1] / bx - 1) / 2, (before.shape[0] / by - 1) / 2])
    return {
        "status": "same_size" if found.method == "identity" else "aligned",
        "method": found.method,
        "matrix": [float(value) for value in matrix.ravel()],
        "inliers": found.inliers or None,  # of identity and ECC alone: none
        "overlap": round(seen.overlap, 4),
        "shift_px": round(float(np.hypot(*(there - here))), 2),
        "ssim": round(seen.ssim, 4),
        "changed_share": round(seen.changed_share, 5),
        "regions": [
            {
                "x": int(x / bx), "y": int(y / by), "width": max(1, round(w / bx)), "height": max(1, round(h / by)),
                "score": round(score, 3),
            }
            for x, y, w, h, score in seen.regions
        ],
    }  # fmt: skip


def view(sizes: list[int], max_pixels: int, kind: str, width: int, matrix: list[float] | None, data: bytes) -> tuple[
    dict[str, Any], bytes
]:  # fmt: skip
    """A picture of the pair, `width` pixels wide at most: a JPEG; `difference`: a PNG. Without `matrix`: after as it is.
    Besides what was seen of source pictures."""
    seen: list[Seen | None] = []
    answer, drawn = _view(sizes, max_pixels, kind, width, matrix, data, seen)
    return attach_seen(answer, drawn, _both(seen))


def _view(
    sizes: list[int], max_pixels: int, kind: str, width: int, matrix: list[float] | None, data: bytes,
    noted: list[Seen | None],
) -> tuple[dict[str, Any], bytes]:  # fmt: skip
    cv2.setNumThreads(1)
    try:
        before, bx, by = _rgb(data[: sizes[0]], width, max_pixels, noted)
        after, ax, ay = _rgb(data[sizes[0] :], width, max_pixels, noted)
    except _BadPicture as error:
        return {"failed": str(error)}, b""
    if kind in ("before", "after"):
        return _encoded(before if kind == "before" else after)
    seen, mask = after, np.ones(after.shape[:2], bool)
    if matrix is not None:
        small = _scaling(bx, by) @ np.array(matrix).reshape(3, 3) @ np.linalg.inv(_scaling(ax, ay))
        seen, mask = warped(after, small, before.shape)
    if kind == "aligned":
        return _encoded(np.where(mask[:, :, None], seen, 0).astype(np.uint8))
    if kind == "blend":
        mixed = cv2.addWeighted(before, 0.5, seen, 0.5, 0)
        return _encoded(np.where(mask[:, :, None], mixed, before).astype(np.uint8))
    if kind == "side":
        height = before.shape[0]
        size = max(1, round(seen.shape[1] * height / seen.shape[0])), height
        fitted = cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
        both = np.hstack([before, np.asarray(fitted)])
        scale = width / both.shape[1]
        return _encoded(np.asarray(cv2.resize(both, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)))
    assert matrix is not None
    scale = min(1.0, SIDE / max(before.shape[:2]))
    less = np.asarray(cv2.resize(before, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)) if scale < 1 else before
    grown = _scaling(scale, scale) if scale < 1 else np.eye(3)
    heat = compare(less, after, grown @ small).ssim_map
    heat = np.asarray(cv2.resize(heat.astype(np.float32), (before.shape[1], before.shape[0])))
    hot = cv2.applyColorMap((255 * np.clip(1.0 - heat, 0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    dim = np.repeat(cv2.cvtColor(before, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2) // 3
    return _encoded(np.maximum(hot, dim).astype(np.uint8), png=True)


def _encoded(picture: Array, png: bool = False) -> tuple[dict[str, Any], bytes]:
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    _, data = cv2.imencode(".png", bgr) if png else cv2.imencode(".jpg", bgr, JPEG)
    return {"content_type": "image/png" if png else "image/jpeg"}, bytes(data)


register_heif_opener()
