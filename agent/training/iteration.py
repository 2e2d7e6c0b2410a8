"""One training iteration in numbers that people look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Under ``env_runners`` in RLlib's results: what simulators say at the end of episodes.
INFO = "info"

#: Under ``env_runners`` in RLlib's results: what each of several agents earned.
_AGENT_RETURNS = "agent_episode_returns_mean"

#: RLlib's name of the only policy where there is one agent.
_ONLY_POLICY = "default_policy"

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
            before the first has ended. With several agents, of the sum over them.
        mean_length: of those, in steps; NaN before the first has ended.
        episodes: that ended in this iteration.
        faults: environments that failed, since this command began to train.
        infos: means of what the simulator said at the end of those episodes, by name. With several
            agents "<name>_mean" is over all steps and "<name>_last" over the last ones, and
            "<group>/" comes before where there are several groups.
        losses: of the learner, by name; with several agents by "<policy>/<name>".
        agent_returns: with several agents, what each earned in those episodes.
        group_returns: with several groups, what the agents of each earned on average.
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
    agent_returns: Mapping[str, float] = field(default_factory=dict)
    group_returns: Mapping[str, float] = field(default_factory=dict)

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
        row |= {f"agent_return/{name}": value for name, value in self.agent_returns.items()}
        row |= {f"group_return/{name}": value for name, value in self.group_returns.items()}
        row |= {f"{INFO}/{name}": value for name, value in sorted(self.infos.items())}
        return row | {f"learner/{name}": value for name, value in sorted(self.losses.items())}


def read(
    result: Mapping[str, Any],
    *,
    seconds: float,
    iteration_seconds: float,
    steps_before: int,
    steps_at_start: int,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Iteration:
    """An iteration from RLlib's result.

    Args:
        result: of ``Algorithm.train``.
        seconds: since training began.
        iteration_seconds: that this iteration took.
        steps_before: environment steps before this iteration.
        steps_at_start: environment steps before this command began to train.
        groups: with several agents, their names by group.
    """
    runners = result.get("env_runners", {})
    steps = lifetime_steps(result, steps_before)
    agents = _agent_returns(runners, groups or {})
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
        losses=_losses(result.get("learners", {})),
        agent_returns=agents,
        group_returns=_group_returns(agents, groups or {}),
    )


def _agent_returns(
    runners: Mapping[str, Any], groups: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    returns = _flat(runners.get(_AGENT_RETURNS, {}))
    return {
        agent: returns[agent] for names in groups.values() for agent in names if agent in returns
    }


def _group_returns(
    agents: Mapping[str, float], groups: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    if len(groups) < 2:
        return {}
    found = {}
    for group, names in groups.items():
        values = [agents[name] for name in names if name in agents]
        if values:
            found[group] = sum(values) / len(values)
    return found


def _losses(learners: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for policy, values in learners.items():
        if policy == "__all_modules__" or not isinstance(values, Mapping):
            continue
        prefix = "" if policy == _ONLY_POLICY else f"{policy}/"
        found |= {
            f"{prefix}{name}": value
            for name, value in _flat(values).items()
            if not name.startswith(_COUNTERS)
        }
    return found


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
