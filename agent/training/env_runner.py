"""The env runners of ``farsim train``: remote environments, in spaces that networks take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from gymnasium import Space
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from agent.env_runner import RemoteEnvRunner
from agent.models.encoding import Encoding
from agent.multi_agent.env_runner import RemoteMultiAgentEnvRunner, View
from farsim import spaces


class EncodedVectorEnv(VectorWrapper):
    """A vector environment whose observations and actions are translated by an ``Encoding``."""

    def __init__(self, env: VectorEnv[Any, Any, Any], encoding: Encoding) -> None:
        super().__init__(env)
        self.encoding = encoding
        self.single_observation_space = self.encoding.observation_space
        self.single_action_space = self.encoding.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        observation, infos = self.env.reset(seed=cast("Any", seed), options=options)
        return self.encoding.encode(observation), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if isinstance(actions, list):
            # RLlib gives one action for each environment where they are dicts or tuples.
            actions = spaces.batch(self.single_action_space, actions)
        observation, *rest = self.env.step(self.encoding.decode(actions))
        return (self.encoding.encode(observation), *rest)


class TrainingEnvRunner(RemoteEnvRunner):
    """A ``RemoteEnvRunner`` for any simulator that a network can learn from."""

    def make_env(self) -> None:
        super().make_env()
        wrapper = cast("VectorWrapper", self.env)
        remote = wrapper.env
        self._encoding = Encoding(remote.single_observation_space, remote.single_action_space)
        if self._encoding.encodes_observations or self._encoding.shifts_actions:
            # In the place of, rather than around: a wrapper that is let go of closes what it wraps.
            wrapper.env = EncodedVectorEnv(remote, self._encoding)

    def encode(self, observation: Any) -> Any:
        return self._encoding.encode(observation)

    def decode(self, actions: Any) -> Any:
        return self._encoding.decode(actions)


@dataclass(frozen=True)
class EncodedView(View):
    """A group as an ``Encoding`` shows it.

    Attributes:
        encoding: between the group's spaces and those of the networks.
    """

    encoding: Encoding

    @classmethod
    def of(cls, observed: Space[Any], acted: Space[Any]) -> EncodedView:
        """The view of a group.

        Args:
            observed: what one agent observes, with the action mask if there is one.
            acted: its action space.
        """
        encoding = Encoding(observed, acted)
        return cls(encoding.observation_space, encoding.action_space, encoding)

    def encode(self, observation: Any) -> Any:
        return self.encoding.encode(observation)

    def decode(self, action: Any) -> Any:
        return self.encoding.decode(action)


class TrainingMultiAgentEnvRunner(RemoteMultiAgentEnvRunner):
    """A ``RemoteMultiAgentEnvRunner`` for any simulator that networks can learn from."""

    def view(self, group: Any) -> View:
        return EncodedView.of(self.observed_space(group), group.action_space)
