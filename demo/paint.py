"""A few ways of painting on a BGR picture: text, soft-edged shapes, colours."""

import colorsys
import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]  # blue, green, red

WHITE: Colour = (245, 245, 245)


@lru_cache(maxsize=512)
def _glyph(char: str, size: int) -> Picture:
    font = ImageFont.load_default(size)
    advance = max(font.getlength(d) for d in "0123456789") if char.isdigit() else font.getlength(char)
    image = Image.new("L", (max(1, math.ceil(advance)), math.ceil(size * 1.3)))
    ImageDraw.Draw(image).text(((image.width - font.getlength(char)) / 2, 0), char, font=font, fill=255)
    return np.asarray(image)


def blend(image: Picture, x: int, y: int, over: Picture, alpha: Picture) -> None:
    """Lay `over` on the picture at (x, y), clipped at the edges; `over` is already multiplied by `alpha`.

    Both have three channels, which lets OpenCV do the whole with vector instructions.
    """
    height, width = image.shape[:2]
    left, top = max(0, -x), max(0, -y)
    right, bottom = min(alpha.shape[1], width - x), min(alpha.shape[0], height - y)
    if right <= left or bottom <= top:
        return
    part = image[y + top : y + bottom, x + left : x + right]
    under = cv2.multiply(part, cv2.bitwise_not(alpha[top:bottom, left:right]), scale=1 / 255)
    part[:] = cv2.add(under, over[top:bottom, left:right])


def write(image: Picture, x: int, y: int, text: str, size: int, colour: Colour = WHITE) -> int:
    """Write one line with its top left at (x, y), digits of equal width; returns where it ends."""
    masks = [_glyph(char, size) for char in text]
    if masks:
        line = np.repeat(np.concatenate(masks, axis=1)[:, :, None], 3, axis=2)
        ink = (line * (np.array(colour, np.uint16)) // 255).astype(np.uint8)
        blend(image, x, y, ink, line)
        return x + len(line[0])
    return x


def centred(text: str, centre: float, size: int) -> int:
    """Where to begin a line of text so that its middle is at `centre`."""
    return round(centre - sum(len(_glyph(char, size)[0]) for char in text) / 2)


def polygon(image: Picture, points: list[tuple[float, float]], scale: float, colour: Colour) -> None:
    """Fill a polygon with soft edges; the points are multiplied by `scale`."""
    corners = np.array([(round(x * scale * 16), round(y * scale * 16)) for x, y in points], np.int32)
    cv2.fillPoly(image, [corners], colour, cv2.LINE_AA, 4)


def hue(value: float, saturation: float = 0.85, brightness: float = 0.8) -> Colour:
    """The colour with this hue (of a turn), saturation and brightness."""
    red, green, blue = colorsys.hsv_to_rgb(value % 1.0, saturation, brightness)
    return round(blue * 255), round(green * 255), round(red * 255)
