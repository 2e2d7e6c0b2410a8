"""Playing one episode in each environment of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from agent.evaluation.policy import Policy
from agent.remote_vector_env import RemoteVectorEnv
from farsim import spaces


@dataclass(frozen=True)
class Episodes:
    """What n episodes came to, in the order of their seeds.

    Attributes:
        returns: float64 [n], undiscounted.
        lengths: int64 [n], in steps.
        truncated: bool [n]: stopped from outside, not over by itself.
        faulty: bool [n]: cut short by a fault; such an episode says nothing about a policy.
        infos: by name, float64 [n]: the numbers in an episode's last info; NaN where not given.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    faulty: NDArray[np.bool_]
    infos: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def join(cls, parts: Sequence[Episodes]) -> Episodes:
        """Several in one, one after the other."""
        names = dict.fromkeys(name for part in parts for name in part.infos)
        return cls(
            np.concatenate([part.returns for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.truncated for part in parts]),
            np.concatenate([part.faulty for part in parts]),
            {
                name: np.concatenate(
                    [part.infos.get(name, np.full(len(part.returns), np.nan)) for part in parts]
                )
                for name in names
            },
        )


class Observer(Protocol):
    """Someone who watches episodes go by, to record them."""

    def begun(self, env: RemoteVectorEnv, observation: Any, infos: Mapping[str, Any]) -> None:
        """All environments have been reset."""

    def stepped(self, transition: Transition) -> None:
        """All environments have been stepped."""


@dataclass(frozen=True)
class Transition:
    """One step of a batch.

    Attributes:
        rows: int64, the environments whose episode went on until here; only they count.
        actions: batched, of all environments.
        observation: after the step, batched.
        rewards: float64 [num_envs].
        terminated: bool [num_envs].
        truncated: bool [num_envs].
        infos: in Gymnasium's vector format.
    """

    rows: NDArray[np.int64]
    actions: Any
    observation: Any
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: Mapping[str, Any]


def play(
    env: RemoteVectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    observers: Sequence[Observer] = (),
    ticked: Callable[[int], None] = lambda ended: None,
) -> Episodes:
    """Plays one episode in each environment.

    Environments whose episode is over go on unnoticed until the last is: every step is of the
    whole batch.

    Args:
        env: with autoreset ``NEXT_STEP``.
        policy: what acts.
        seeds: one for each environment.
        observers: are told of every step.
        ticked: is called after each step, with how many episodes ended in it.
    """
    count = env.num_envs
    observation, infos = env.reset(seed=list(seeds))
    policy.begin(count)
    for observer in observers:
        observer.begun(env, observation, infos)
    episodes = Episodes(
        np.zeros(count),
        np.zeros(count, np.int64),
        np.zeros(count, bool),
        np.zeros(count, bool),
    )
    going = np.ones(count, np.bool_)
    while going.any():
        actions = policy.act(observation, infos)
        observation, rewards, terminated, truncated, infos = env.step(actions)
        rows = np.flatnonzero(going)
        for observer in observers:
            observer.stepped(
                Transition(rows, actions, observation, rewards, terminated, truncated, infos)
            )
        episodes.returns[rows] += rewards[rows]
        episodes.lengths[rows] += 1
        ended = rows[terminated[rows] | truncated[rows]]
        if len(ended):
            episodes.truncated[ended] = truncated[ended] & ~terminated[ended]
            if "_fault" in infos:
                episodes.faulty[ended] = infos["_fault"][ended]
            _collect(infos, ended, episodes.infos, count)
            going[ended] = False
        ticked(len(ended))
    return episodes


def scalar_columns(infos: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The numbers in vector infos, by name: values [num_envs], and who has them."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, values in infos.items():
        if name.startswith("_") or f"_{name}" not in infos or name == "episode_options":
            continue
        if isinstance(values, Mapping):
            found |= scalar_columns(values, f"{prefix}{name}/")
        elif isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf":
            found[f"{prefix}{name}"] = (values, infos[f"_{name}"])
    return found


def _collect(
    infos: Mapping[str, Any],
    ended: NDArray[np.int64],
    into: dict[str, NDArray[np.float64]],
    count: int,
) -> None:
    for name, (values, present) in scalar_columns(infos).items():
        rows = ended[present[ended]]
        if len(rows):
            into.setdefault(name, np.full(count, np.nan))[rows] = values[rows]


def single_rows(space: Space[Any], batch: Any, rows: NDArray[np.int64]) -> list[Any]:
    """The values of ``rows`` in a batch, one by one."""
    return list(spaces.unbatch(space, spaces.take(space, batch, rows), len(rows)))
