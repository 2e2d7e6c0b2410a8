"""Where policies play: the same episodes, on servers, for each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.evaluation.policy import Policy
from agent.evaluation.rollout import Episodes, Observer, play
from agent.remote_vector_env import RemoteVectorEnv

#: More environments than this at once are of little use and much memory.
_MOST_ENVS = 256


@dataclass(frozen=True)
class Arena:
    """Environments of one simulator.

    Attributes:
        addresses: of the servers.
        simulator: its name there.
        options: values of its parameters.
        connection: fields of ``ConnectionOptions``.
    """

    addresses: Sequence[str]
    simulator: str
    options: Mapping[str, Any] = field(default_factory=dict)
    connection: Mapping[str, Any] = field(default_factory=dict)

    def with_options(self, options: Mapping[str, Any]) -> Arena:
        """The same place with other values for some parameters."""
        merged = {**self.options, **options}
        return Arena(self.addresses, self.simulator, merged, self.connection)

    @contextlib.contextmanager
    def open(
        self, num_envs: int, action_mask: bool, render: bool = False
    ) -> Iterator[RemoteVectorEnv]:
        """Environments, for a while.

        Args:
            num_envs: how many.
            action_mask: whether observations carry the mask.
            render: whether they will be rendered.
        """
        env = RemoteVectorEnv(
            list(self.addresses),
            self.simulator,
            num_envs=num_envs,
            options=self.options,
            render_mode="rgb_array" if render else None,
            connection=dict(self.connection),
            action_mask_in_observation=action_mask,
        )
        try:
            yield env
        finally:
            env.close()

    def play(
        self,
        policies: Sequence[Policy],
        seeds: Sequence[int],
        *,
        action_mask: bool = False,
        observers: Callable[[Policy], Sequence[Observer]] = lambda policy: (),
        ticked: Callable[[Policy, int], None] = lambda policy, ended: None,
    ) -> dict[str, Episodes]:
        """Lets each policy play one episode for each seed; the results by the policy's name.

        Args:
            policies: who plays.
            seeds: of the episodes.
            action_mask: whether observations carry the mask.
            observers: who watches a policy's episodes.
            ticked: is called after each step, with how many episodes ended in it.
        """
        results: dict[str, list[Episodes]] = {policy.name: [] for policy in policies}
        watching = {policy.name: observers(policy) for policy in policies}
        waves = [seeds[start : start + _MOST_ENVS] for start in range(0, len(seeds), _MOST_ENVS)]
        for wave in waves:
            with self.open(len(wave), action_mask) as env:
                for policy in policies:

                    def tick(ended: int, policy: Policy = policy) -> None:
                        ticked(policy, ended)

                    episodes = play(env, policy, wave, watching[policy.name], tick)
                    results[policy.name].append(episodes)
        return {name: Episodes.join(parts) for name, parts in results.items()}
