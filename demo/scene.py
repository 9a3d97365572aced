"""The picture a demo camera sees: a car on a pit straight, a clock, a frame number for machines."""

import math

import cv2
import numpy as np

from demo.frame_number import NUMBER_BITS, draw_frame_number
from demo.paint import WHITE, Colour, Picture, blend, centred, hue, polygon, write

_PASS_SECONDS = 5.0  # the car crosses the picture once in this time
WHEELS = (112, 418)  # where the axles are, from the car's left


class Scene:
    """Draws pictures of one size; `seed` chooses the car, `wear` (0 to 1) how the session has marked it."""

    def __init__(self, width: int, height: int, seed: int = 1, label: str = "CAM 1", wear: float = 0.0) -> None:
        self._k = height / 720
        self._size = max(9, round(26 * self._k))
        self._background = _background(width, height, seed)
        panel = self._background[self._px(16) : self._px(106), self._px(16) : self._px(560)]
        panel[:] = panel // 4
        write(self._background, self._px(30), self._px(22), label, self._size, (90, 200, 255))
        self._car, self._alpha = _car(self._k, seed, wear)

    def _px(self, value: float) -> int:
        return round(value * self._k)

    def render(self, seconds: float, clock: str, number: int) -> Picture:
        """The picture at `seconds` of the scene's own time, with the clock and the frame number in it."""
        image = self._background.copy()
        self._draw_car(image, seconds)
        write(image, self._px(30), self._px(62), clock, self._size)
        shown = f"#{number % (1 << NUMBER_BITS):07d}"
        write(image, self._px(400), self._px(22), shown, self._size, (190, 190, 190))
        draw_frame_number(image, number)
        return image

    def _draw_car(self, image: Picture, seconds: float) -> None:
        length = self._car.shape[1]
        share = (seconds % _PASS_SECONDS) / _PASS_SECONDS
        left = round(share * (image.shape[1] + 0.6 * length) - 0.8 * length)
        blend(image, left, self._px(430), self._car, self._alpha)
        turn = left / max(1.0, 41 * self._k)
        for wheel in WHEELS:
            centre = (left + self._px(wheel), self._px(430 + 146))
            for spoke in range(5):
                angle = turn + spoke * 2 * math.pi / 5
                tip = (
                    round(centre[0] + 24 * self._k * math.cos(angle)),
                    round(centre[1] + 24 * self._k * math.sin(angle)),
                )
                cv2.line(image, centre, tip, (215, 215, 215), max(1, self._px(5)), cv2.LINE_AA)


def _background(width: int, height: int, seed: int) -> Picture:
    """Sky, hills, grandstand, boards, kerbs and asphalt; units are 720 to the picture's height."""
    k = height / 720
    wide = width / k
    image = np.zeros((height, width, 3), np.uint8)
    random = np.random.default_rng(seed)

    def band(top: float, bottom: float, above: Colour, below: Colour, grain: float = 0.0) -> None:
        part = image[round(top * k) : round(bottom * k)]
        share = np.linspace(0, 1, len(part))[:, None, None]
        colours = np.array(above) * (1 - share) + np.array(below) * share + random.normal(0, grain, (*part.shape[:2], 1))
        part[:] = np.clip(colours, 0, 255).astype(np.uint8)

    def blocks(top: float, bottom: float, step: float, colours: list[Colour], lean: float = 0.0) -> None:
        for index in range(int(wide / step) + 2):
            left = index * step - lean
            corners = [(left + lean, top), (left + lean + step, top), (left + step, bottom), (left, bottom)]
            polygon(image, corners, k, colours[index % len(colours)])

    band(0, 330, (214, 160, 96), (240, 226, 205))
    for base, swing, colour in ((250, 34, (150, 140, 110)), (290, 22, (96, 118, 84))):
        ridge = [(x, base + swing * math.sin(x / 170 + base + seed)) for x in np.linspace(0, wide, 60)]
        polygon(image, [*ridge, (wide, 400), (0, 400)], k, colour)
    left = wide * 0.56
    polygon(
        image,
        [(left, 392), (left, 300), (left + 60, 214), (left + 440, 214), (left + 440, 392)],
        k,
        (120, 112, 108),
    )
    for row in range(7):
        y = 240 + row * 21
        for x in np.arange(left + 56 - row * 9, left + 432, 11):
            if random.random() < 0.86:
                centre = (round((x + random.uniform(-2, 2)) * k), round(y * k))
                cv2.circle(image, centre, max(1, round(4.4 * k)), hue(random.random(), 0.55, 0.85), -1, cv2.LINE_AA)
    polygon(image, [(left + 24, 222), (left + 452, 196), (left + 452, 208), (left + 24, 234)], k, (225, 225, 225))
    for x in random.uniform(0, left - 40, 26):
        centre = (round(x * k), round(random.uniform(352, 372) * k))
        cv2.circle(
            image,
            centre,
            round(random.uniform(22, 38) * k),
            (50, int(random.uniform(80, 112)), 56),
            -1,
            cv2.LINE_AA,
        )
    band(388, 400, (190, 190, 190), (120, 120, 120))
    boards: list[Colour] = [(120, 40, 20), (235, 235, 235), (30, 30, 190), (40, 150, 60), (30, 170, 235)]
    blocks(400, 452, 256, boards)
    for index, name in enumerate(("TRACKSHIFT", "APEX OIL", "VOLTRA", "NORDKURVE", "PIRAZ TYRES")):
        for x in range(index * 256, round(wide), 256 * len(boards)):
            ink = (70, 30, 20) if index in (1, 4) else WHITE
            write(image, centred(name, (x + 128) * k, round(30 * k)), round(408 * k), name, round(30 * k), ink)
    band(452, 486, (70, 140, 84), (58, 120, 70), 5)
    blocks(486, 502, 48, [(45, 40, 205), WHITE], 10)
    band(502, 650, (98, 94, 92), (74, 70, 68), 3)
    blocks(636, 642, 4000, [(225, 225, 225)])
    blocks(650, 668, 60, [(45, 40, 205), WHITE], 14)
    band(668, 720, (58, 122, 70), (44, 96, 54), 5)
    return image


def _car(scale: float, seed: int, wear: float) -> tuple[Picture, Picture]:
    """A GT car seen from the side, 540 x 200 units, on black, and its mask; drawn too large, then reduced."""
    k = scale * 3
    shape = (round(200 * k), round(540 * k))
    car, mask = np.zeros((*shape, 3), np.uint8), np.zeros((*shape, 3), np.uint8)
    random = np.random.default_rng(seed)
    paint, trim = hue(0.02 + seed * 0.381), hue(0.5 + seed * 0.381, 0.9, 0.95)

    def both(points: list[tuple[float, float]], colour: Colour) -> None:
        polygon(car, points, k, colour)
        polygon(mask, points, k, (255, 255, 255))

    polygon(car, [(30, 183), (515, 183), (500, 194), (45, 194)], k, (30, 30, 30))
    polygon(mask, [(30, 183), (515, 183), (500, 194), (45, 194)], k, (150, 150, 150))  # shadow
    both([(14, 38), (74, 34), (78, 46), (14, 50)], (35, 35, 35))  # wing
    both([(36, 44), (48, 44), (58, 92), (44, 92)], (45, 45, 45))
    body = [
        (20, 92),
        (60, 78),
        (140, 70),
        (200, 34),
        (300, 30),
        (376, 74),
        (470, 92),
        (516, 116),
        (526, 152),
        (516, 168),
    ]
    both([*body, (24, 168), (14, 140)], paint)
    polygon(car, [(14, 140), (526, 146), (516, 168), (24, 168)], k, tuple(c // 2 for c in paint))  # type: ignore[arg-type]
    polygon(car, [(60, 84), (380, 84), (500, 110), (505, 117), (378, 94), (40, 96)], k, trim)  # stripe
    for glass in ([(160, 72), (206, 42), (250, 39), (250, 74)], [(262, 74), (262, 38), (296, 37), (352, 76)]):
        polygon(car, list(glass), k, (70, 52, 40))
    polygon(car, [(486, 104), (512, 116), (510, 126), (482, 114)], k, (200, 240, 255))  # lamp
    cv2.circle(car, (round(222 * k), round(122 * k)), round(29 * k), WHITE, -1, cv2.LINE_AA)
    start = centred(str(2 + seed * 25 % 97), 222 * k, round(34 * k))
    write(car, start, round(100 * k), str(2 + seed * 25 % 97), round(34 * k), (20, 20, 20))
    if wear < 0.5:  # after a hard session the sponsor's patch is gone
        polygon(car, [(266, 104), (366, 104), (366, 138), (266, 138)], k, WHITE)
        write(car, centred("APEX", 316 * k, round(30 * k)), round(106 * k), "APEX", round(30 * k), (60, 30, 170))
    for _ in range(round(160 * wear)):
        x, y = random.uniform(30, 510), random.triangular(80, 165, 168)
        cv2.circle(car, (round(x * k), round(y * k)), round(random.uniform(1, 4) * k), (40, 60, 80), -1, cv2.LINE_AA)
    car[mask == 0] = 0
    for wheel in WHEELS:
        centre = (round(wheel * k), round(146 * k))
        for image, colour in ((car, (24, 24, 24)), (mask, (255, 255, 255))):
            cv2.circle(image, centre, round(41 * k), colour, -1, cv2.LINE_AA)
        cv2.circle(car, centre, round(27 * k), (75, 75, 75), -1, cv2.LINE_AA)
    size = (round(540 * scale), round(200 * scale))
    small, alpha = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (car, mask))
    return small.astype(np.uint8), alpha.astype(np.uint8)
