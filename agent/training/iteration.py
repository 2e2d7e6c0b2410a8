"""One training iteration in numbers that people look at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Under ``env_runners`` in RLlib's results: what simulators say at the end of episodes.
INFO = "info"

#: Beginnings of what learners report besides losses, and what nobody plots.
_COUNTERS = ("num_", "diff_num_", "weights_seq_no", "module_train_batch_size")


@dataclass(frozen=True)
class Iteration:
    """After an iteration.

    Attributes:
        number: of the iteration; goes on when training is resumed.
        steps: environment steps since the very first iteration.
        seconds: since this command began to train.
        new_steps: environment steps since this command began to train.
        steps_per_second: in this iteration.
        mean_return: over the last episodes (RLlib's ``metrics_num_episodes_for_smoothing``); NaN
            before the first has ended.
        mean_length: of those, in steps; NaN before the first has ended.
        episodes: that ended in this iteration.
        faults: environments that failed, since this command began to train.
        infos: means of what the simulator said at the end of those episodes, by name.
        losses: of the learner, by name.
    """

    number: int
    steps: int
    seconds: float
    new_steps: int
    steps_per_second: float
    mean_return: float
    mean_length: float
    episodes: int
    faults: int = 0
    infos: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)

    def columns(self) -> dict[str, float]:
        """One flat row, for CSV files and TensorBoard."""
        row: dict[str, float] = {
            "iteration": self.number,
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
            "steps_per_second": round(self.steps_per_second, 1),
            "return_mean": self.mean_return,
            "length_mean": self.mean_length,
            "episodes": self.episodes,
            "faults": self.faults,
        }
        row |= {f"{INFO}/{name}": value for name, value in sorted(self.infos.items())}
        return row | {f"learner/{name}": value for name, value in sorted(self.losses.items())}


def read(
    result: Mapping[str, Any],
    *,
    seconds: float,
    iteration_seconds: float,
    steps_before: int,
    steps_at_start: int,
) -> Iteration:
    """An iteration from RLlib's result.

    Args:
        result: of ``Algorithm.train``.
        seconds: since training began.
        iteration_seconds: that this iteration took.
        steps_before: environment steps before this iteration.
        steps_at_start: environment steps before this command began to train.
    """
    runners = result.get("env_runners", {})
    steps = lifetime_steps(result, steps_before)
    return Iteration(
        number=int(result["training_iteration"]),
        steps=steps,
        seconds=seconds,
        new_steps=steps - steps_at_start,
        steps_per_second=(steps - steps_before) / max(iteration_seconds, 1e-9),
        mean_return=_number(runners.get("episode_return_mean")),
        mean_length=_number(runners.get("episode_len_mean")),
        episodes=int(_number(runners.get("num_episodes"), 0)),
        faults=int(_number(runners.get("faults"), 0)),
        infos=_flat(runners.get(INFO, {})),
        losses={
            name: value
            for name, value in _flat(result.get("learners", {}).get("default_policy", {})).items()
            if not name.startswith(_COUNTERS)
        },
    )


def lifetime_steps(result: Mapping[str, Any], default: int) -> int:
    """Environment steps since the very first iteration."""
    steps = _number(result.get("env_runners", {}).get("num_env_steps_sampled_lifetime"), default)
    return int(steps)


def _number(value: Any, default: float = math.nan) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return default if math.isnan(number) else number


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}/")
        else:
            number = _number(value)
            if math.isfinite(number):
                found[f"{prefix}{name}"] = number
    return found
