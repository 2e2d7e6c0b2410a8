"""Pictures of a world: its bodies, their names, and what they say."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simserver.sims.particle.bodies import Bodies, Color
from simserver.sims.particle.canvas import Canvas, Pixels
from simserver.sims.particle.palette import darker, lighter
from simserver.sims.particle.scenario import Scenario
from simserver.sims.particle.worlds import Worlds
from simserver.simulator import FloatArray

#: Pixels; multiples of 16, the size of the blocks of video codecs.
_WIDTH, _HEIGHT, _TITLE = 640, 672, 32
_PAPER: Color = (255, 255, 255)
_FLOOR: Color = (247, 248, 250)
_GRID: Color = (236, 239, 243)
_SQUARE: Color = (218, 223, 230)
_INK: Color = (44, 50, 62)
_FAINT: Color = (122, 130, 144)
#: The view reaches at least so far from the middle, and further if a body does.
_LEAST_VIEW = 1.2
#: From this reach on lines would be too dense to see.
_MOST_GRID = 8.0
#: About what a name takes, in pixels.
_NAME_WIDTH, _NAME_HEIGHT = 60, 14
#: How far ahead the line in a body's velocity looks, in seconds.
_AHEAD = 0.25


@dataclass(frozen=True)
class _View:
    """From places in the world to pixels.

    Attributes:
        reach: distance from the middle to the edge, in the world's units.
    """

    reach: float

    @property
    def scale(self) -> float:
        """Pixels for each unit."""
        return _WIDTH / (2 * self.reach)

    def place(self, position: FloatArray) -> tuple[float, float]:
        x, y = position.tolist()
        return (x + self.reach) * self.scale, _TITLE + (self.reach - y) * self.scale


def picture(title: str, scenario: Scenario, worlds: Worlds, max_steps: int) -> Pixels:
    """A picture of one world.

    Args:
        title: what stands above it.
        scenario: of the world.
        worlds: one, W = 1.
        max_steps: of an episode.

    Returns:
        uint8 [672, 640, 3]
    """
    bodies = worlds.bodies
    positions = worlds.positions[:, :, 0]
    view = _View(_reach(positions, bodies))
    canvas = Canvas(_floor(view.reach).copy())
    colors = scenario.colors(worlds)
    ground = np.array([_is_ground(bodies, body) for body in range(bodies.count)])
    # Small bodies are drawn over large ones, agents over landmarks of the same size.
    agent = np.arange(bodies.count) < bodies.num_agents
    for body in np.lexsort((agent, -bodies.size, ~ground)).tolist():
        _draw_body(canvas, view, worlds, body, colors[body], bool(ground[body]))
    _draw_names(canvas, view, worlds)
    for body in range(bodies.num_agents):
        _draw_message(canvas, view, worlds, body)
    canvas.text(14, _TITLE / 2, title, 16, _INK, "lm")
    step = f"step {int(worlds.steps[0])} of {max_steps}"
    canvas.text(_WIDTH - 14, _TITLE / 2, step, 14, _FAINT, "rm")
    return canvas.pixels


def _reach(positions: FloatArray, bodies: Bodies) -> float:
    furthest = float((np.abs(positions) + bodies.size[:, None]).max()) + 0.1
    # In steps of a fifth, so that the view does not tremble.
    steps = np.ceil(np.log(max(furthest / _LEAST_VIEW, 1)) / np.log(1.2))
    return float(_LEAST_VIEW * 1.2**steps)


def _is_ground(bodies: Bodies, body: int) -> bool:
    return any(
        kind.ground and body in range(bodies.count)[bodies.parts[kind.name]]
        for kind in bodies.landmarks
    )


@lru_cache(maxsize=16)
def _floor(reach: float) -> Pixels:
    """The title's strip; the floor with a line every half unit, and the square up to 1."""
    canvas = Canvas(np.full((_HEIGHT, _WIDTH, 3), _PAPER, np.uint8))
    view = _View(reach)
    canvas.box(0, _TITLE, _WIDTH, _HEIGHT - _TITLE, 0.5, _FLOOR)
    if reach < _MOST_GRID:
        for line in np.arange(-int(2 * reach), int(2 * reach) + 1) / 2:
            canvas.line(
                view.place(np.array([line, -reach])), view.place(np.array([line, reach])), 1, _GRID
            )
            canvas.line(
                view.place(np.array([-reach, line])), view.place(np.array([reach, line])), 1, _GRID
            )
    corners = [view.place(np.array(corner)) for corner in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    for corner, following in zip(corners, corners[1:] + corners[:1], strict=True):
        canvas.line(corner, following, 2.5, _SQUARE)
    canvas.pixels[:_TITLE] = _PAPER
    canvas.pixels.flags.writeable = False
    return canvas.pixels


def _draw_body(
    canvas: Canvas, view: _View, worlds: Worlds, body: int, color: Color, ground: bool
) -> None:
    bodies = worlds.bodies
    x, y = view.place(worlds.positions[body, :, 0])
    radius = max(float(bodies.size[body]) * view.scale, 2.0)
    if ground:
        canvas.disc(x, y, radius, color, 0.5)
        canvas.ring(x, y, radius, 1.5, color)
    elif body < bodies.num_agents:
        canvas.disc(x, y, radius, color, 0.88)
        canvas.ring(x, y, radius, 1.5, darker(color))
        ahead = worlds.positions[body, :, 0] + _AHEAD * worlds.velocities[body, :, 0]
        end = view.place(ahead)
        if np.hypot(end[0] - x, end[1] - y) > 2:
            canvas.line((x, y), end, 2.5, darker(color))
    elif bodies.collides[body]:
        canvas.disc(x, y, radius, color)
        canvas.ring(x, y, radius, 2.0, darker(color))
    else:
        # A target: what agents go to.
        canvas.disc(x, y, radius + 1.5, _PAPER)
        canvas.disc(x, y, radius, color)
        canvas.ring(x, y, 0.66 * radius, max(0.2 * radius, 1.0), lighter(color, 0.75))


def _draw_names(canvas: Canvas, view: _View, worlds: Worlds) -> None:
    """Names below the agents, and below each other where they would overlap."""
    bodies = worlds.bodies
    taken: list[tuple[float, float]] = []
    for body in range(bodies.num_agents):
        x, y = view.place(worlds.positions[body, :, 0])
        x = min(max(x, _NAME_WIDTH / 2), _WIDTH - _NAME_WIDTH / 2)
        y += float(bodies.size[body]) * view.scale + 9
        while any(
            abs(x - left) < _NAME_WIDTH and abs(y - top) < _NAME_HEIGHT - 1 for left, top in taken
        ):
            y += _NAME_HEIGHT
        taken.append((x, y))
        canvas.text(x, y, bodies.names[body], 13, _INK, halo=True)


def _draw_message(canvas: Canvas, view: _View, worlds: Worlds, body: int) -> None:
    """A speech bubble with the symbol, or the numbers as bars."""
    message = worlds.messages[body, :, 0]
    if not message.any():
        return
    x, y = view.place(worlds.positions[body, :, 0])
    # Where the agent's edge faces the bubble.
    offset = 0.7 * float(worlds.bodies.size[body]) * view.scale
    symbol = _symbol(message)
    width = 26.0 if symbol else 10.0 + 7 * len(message)
    height = 26.0
    # To the right and above, unless that is outside of the picture.
    left = x + offset + 8 if x + offset + 8 + width < _WIDTH - 4 else x - offset - 8 - width
    top = max(y - offset - 8 - height, _TITLE + 4)
    side = 1 if left > x else -1
    near = left if side > 0 else left + width
    corner = (near + 4 * side, top + height - 4)
    canvas.line((x + offset * side, y - offset), corner, 2.0, _INK)
    canvas.box(left - 1.5, top - 1.5, width + 3, height + 3, 8.5, _INK)
    canvas.box(left, top, width, height, 7, _PAPER)
    if symbol:
        canvas.text(left + width / 2, top + height / 2, symbol, 17, _INK)
        return
    for number, value in enumerate(np.clip(message, 0, 1).tolist()):
        tall = max(1.0, value * (height - 8))
        canvas.box(left + 6 + 7 * number, top + height - 4 - tall, 5, tall, 0.5, _FAINT)


def _symbol(message: NDArray[np.float64]) -> str:
    """The letter of a one-hot message; nothing for any other."""
    one_hot = np.count_nonzero(message) == 1 and message.max() == 1
    return string.ascii_uppercase[int(message.argmax()) % 26] if one_hot else ""
