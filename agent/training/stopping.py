"""When training is over, and how long that will take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from agent.training.iteration import Iteration
from farsim.errors import InvalidOption


@dataclass(frozen=True)
class StopConditions:
    """Training stops when the first of these holds; None never does.

    Attributes:
        mean_return: the mean return is this or more.
        steps: so many environment steps in all, those before a resume included.
        seconds: training has gone on for so long, not counting before a resume.

    Raises:
        InvalidOption: steps or seconds that are not positive.
    """

    mean_return: float | None = None
    steps: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                option = {"steps": "--stop-steps", "seconds": "--stop-time"}[name]
                raise InvalidOption(f"{option} is a positive number, not {value}", option)

    @classmethod
    def of(cls, stop: Mapping[str, float]) -> StopConditions:
        """From the section ``stop`` of a training file."""
        return cls(stop.get("return"), stop.get("steps"), stop.get("time"))

    def to_mapping(self) -> dict[str, float]:
        """As the section ``stop`` of a training file."""
        stop = {"return": self.mean_return, "steps": self.steps, "time": self.seconds}
        return {name: value for name, value in stop.items() if value is not None}

    def reached(self, iteration: Iteration) -> str:
        """Why to stop now; empty to go on."""
        if self.mean_return is not None and iteration.mean_return >= self.mean_return:
            return f"the mean return is {iteration.mean_return:.4g}"
        if self.steps is not None and iteration.steps >= self.steps:
            return f"{iteration.steps:,} steps are done"
        if self.seconds is not None and iteration.seconds >= self.seconds:
            return f"{iteration.seconds:.0f} s have passed"
        return ""

    def seconds_left(self, iteration: Iteration) -> float:
        """How long until the time or the steps are over, at the speed so far; NaN if unknown."""
        left = []
        if self.seconds is not None:
            left.append(self.seconds - iteration.seconds)
        if self.steps is not None and iteration.new_steps > 0:
            speed = iteration.new_steps / iteration.seconds
            left.append((self.steps - iteration.steps) / speed)
        return max(0.0, min(left)) if left else math.nan

    def fraction(self, iteration: Iteration) -> float:
        """How much of the way to the nearest end is done, in time; NaN if unknown."""
        left = self.seconds_left(iteration)
        if math.isnan(left):
            return math.nan
        return min(1.0, iteration.seconds / max(iteration.seconds + left, 1e-9))
