"""Colours of the scenarios' pictures: a few clear ones that stay apart for colour-blind readers."""

from simserver.sims.particle.bodies import Color

BLUE: Color = (52, 120, 196)
RED: Color = (214, 72, 62)
DARK_RED: Color = (140, 32, 44)
GREEN: Color = (42, 157, 110)
VIOLET: Color = (126, 91, 178)
SLATE: Color = (84, 94, 110)
GREY: Color = (168, 176, 188)
AMBER: Color = (236, 164, 48)
LEAF: Color = (150, 204, 150)

#: Told apart in one picture.
DISTINCT = (RED, GREEN, BLUE)


def lighter(color: Color, share: float = 0.45) -> Color:
    """The colour mixed with white."""
    red, green, blue = (round(value + share * (255 - value)) for value in color)
    return red, green, blue


def darker(color: Color, share: float = 0.35) -> Color:
    """The colour mixed with black."""
    red, green, blue = (round(value * (1 - share)) for value in color)
    return red, green, blue
