"""A picture to draw discs, lines, boxes and words on, with smooth edges and without a display."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simserver.sims.particle.bodies import Color

Pixels: TypeAlias = NDArray[np.uint8]
_Coverage: TypeAlias = NDArray[np.float32]

_PAPER: Color = (255, 255, 255)


class Canvas:
    """RGB pixels. Places are (x, y) from the upper left corner, in pixels and parts of them.

    A shape covers the pixels at its edge by as much as it overlaps them, which is what drawing it
    larger and shrinking it would give, in a fraction of the time. What lies outside is cut off.

    Attributes:
        pixels: uint8 [height, width, 3].
    """

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def disc(self, x: float, y: float, radius: float, color: Color, opacity: float = 1.0) -> None:
        """A filled circle."""
        distance, at = self._around(x, y, radius + 1)
        self._blend(_covered(distance, radius), at, color, opacity)

    def ring(self, x: float, y: float, radius: float, width: float, color: Color) -> None:
        """A circle's outline, inside of ``radius``."""
        distance, at = self._around(x, y, radius + 1)
        inner = _covered(distance, radius - width)
        self._blend(_covered(distance, radius) - inner, at, color)

    def line(
        self, start: tuple[float, float], end: tuple[float, float], width: float, color: Color
    ) -> None:
        """A straight line with round ends."""
        (x0, y0), (x1, y1) = start, end
        across, down, at = self._grid(
            min(x0, x1) - width, min(y0, y1) - width, max(x0, x1) + width, max(y0, y1) + width
        )
        length = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-6)
        along = np.clip(((across - x0) * (x1 - x0) + (down - y0) * (y1 - y0)) / length, 0, 1)
        distance = np.hypot(across - x0 - along * (x1 - x0), down - y0 - along * (y1 - y0))
        self._blend(_covered(distance, width / 2), at, color)

    def box(
        self, x: float, y: float, width: float, height: float, radius: float, color: Color
    ) -> None:
        """A filled rectangle with round corners, by its upper left corner."""
        across, down, at = self._grid(x - 1, y - 1, x + width + 1, y + height + 1)
        middle = x + width / 2, y + height / 2
        beyond_x = np.maximum(np.abs(across - middle[0]) - width / 2 + radius, 0)
        beyond_y = np.maximum(np.abs(down - middle[1]) - height / 2 + radius, 0)
        self._blend(_covered(np.hypot(beyond_x, beyond_y), radius), at, color)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: int,
        color: Color,
        anchor: str = "mm",
        halo: bool = False,
    ) -> None:
        """Words in one line; ``anchor`` is Pillow's, "lm" for the left end and the middle."""
        if halo:
            self._stamp(x, y, _lettering(words, size, 2), anchor, _PAPER, 0.85)
        self._stamp(x, y, _lettering(words, size, 0), anchor, color, 1.0)

    def _stamp(
        self, x: float, y: float, mask: _Coverage, anchor: str, color: Color, opacity: float
    ) -> None:
        height, width = mask.shape
        left = round(x - {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * width)
        top = round(y - height / 2)
        rows = slice(max(top, 0), min(top + height, self.pixels.shape[0]))
        columns = slice(max(left, 0), min(left + width, self.pixels.shape[1]))
        if rows.stop > rows.start and columns.stop > columns.start:
            part = mask[
                rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
            ]
            self._blend(part, (rows, columns), color, opacity)

    def _around(self, x: float, y: float, reach: float) -> tuple[_Coverage, tuple[slice, slice]]:
        """Distances of pixels from a place, and which pixels those are."""
        across, down, at = self._grid(x - reach, y - reach, x + reach, y + reach)
        return np.sqrt((across - x) ** 2 + (down - y) ** 2), at

    def _grid(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[_Coverage, _Coverage, tuple[slice, slice]]:
        """Middles of the pixels of a rectangle: x [1, n], y [n, 1]; and which they are."""
        height, width = self.pixels.shape[:2]
        columns = np.clip([np.floor(left), np.ceil(right) + 1], 0, width).astype(int)
        rows = np.clip([np.floor(top), np.ceil(bottom) + 1], 0, height).astype(int)
        across = np.arange(*columns, dtype=np.float32)[None] + np.float32(0.5)
        down = np.arange(*rows, dtype=np.float32)[:, None] + np.float32(0.5)
        return across, down, (slice(*rows), slice(*columns))

    def _blend(
        self, coverage: _Coverage, at: tuple[slice, slice], color: Color, opacity: float = 1.0
    ) -> None:
        below = self.pixels[at].astype(np.float32)
        paint = np.array(color, np.float32) - below
        paint *= (coverage * np.float32(opacity))[..., None]
        paint += below
        paint += np.float32(0.5)
        self.pixels[at] = paint


def _covered(distance: _Coverage, radius: float) -> _Coverage:
    """The share of each pixel that lies within ``radius``."""
    covered: _Coverage = np.clip(np.float32(radius + 0.5) - distance, 0, 1)
    return covered


@lru_cache(maxsize=1024)
def _lettering(words: str, size: int, stroke: int) -> _Coverage:
    """Words as coverage, float32 [height, width]; the height depends on the size alone."""
    from PIL import Image, ImageDraw, ImageFont

    font: Any = ImageFont.load_default(size)
    width = max(1, int(font.getlength(words)) + 2 + 2 * stroke)
    height = round(1.5 * size) + 2 * stroke
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).text(
        (stroke + 1, height / 2), words, 255, font, anchor="lm", stroke_width=stroke
    )
    return np.asarray(picture, np.float32) / np.float32(255)
