"""A drop-in for RLlib's old ``PolicyClient``."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from farsim.errors import InvalidArgument
from farsim.live.client import Episode, LiveClient, Mode


@dataclass
class _Running:
    """An episode, and what of it has not been told yet."""

    episode: Episode
    #: Agents whose part ends with the observation that is given next.
    done: dict[str, bool] = field(default_factory=dict)


class PolicyClient:
    """The methods of ``ray.rllib.env.policy_client.PolicyClient`` on ``farsim.v1.Policy``.

    Episodes with ``training_enabled=True`` go to the learner, others are only served, each over a
    session of its own that is opened when it is first needed.

        >>> client = PolicyClient("head:50061")  # doctest: +SKIP
        >>> episode_id = client.start_episode()  # doctest: +SKIP
        >>> action = client.get_action(episode_id, observation)  # doctest: +SKIP
        >>> client.log_returns(episode_id, reward)  # doctest: +SKIP
        >>> client.end_episode(episode_id, last_observation)  # doctest: +SKIP

    Actions are always the server's; ``inference_mode`` and ``update_interval`` of the original
    have no meaning here, as ``session`` has none.

    Args:
        address: ``host:port``, with or without ``http://`` before it.
        inference_mode: "remote" or None; there is no other.
        options: more arguments of ``LiveClient``: ``deadline``, ``fallback``, ``groups``,
            ``connection``, ...
    """

    def __init__(self, address: str, inference_mode: str | None = None, **options: Any) -> None:
        if inference_mode not in (None, "remote"):
            raise InvalidArgument(
                f"inference_mode is 'remote' (or left out), not {inference_mode!r}: the policy "
                "stays on its server. Export it to ONNX to run it in the simulator",
                "inference_mode",
            )
        if "mode" in options:
            raise InvalidArgument(
                "the mode follows from training_enabled of start_episode: leave it out", "mode"
            )
        self.address = address.removeprefix("http://").rstrip("/")
        self._options = options
        self._clients: dict[bool, LiveClient] = {}
        self._episodes: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._client(True)  # Somebody has to be there, as in the original.

    def start_episode(self, episode_id: str | None = None, training_enabled: bool = True) -> str:
        """Begins an episode; its id.

        Args:
            episode_id: one of the caller's own; None for one that is made up.
            training_enabled: whether the learner is to have it.

        Raises:
            InvalidArgument: an episode of that id runs already.
        """
        name = uuid.uuid4().hex if episode_id is None else episode_id
        client = self._client(training_enabled)
        with self._lock:
            if name in self._episodes:
                raise InvalidArgument(f"episode '{name}' runs already: end it first", name)
            self._episodes[name] = _Running(client.episode())
        return name

    def get_action(self, episode_id: str, observation: Any) -> Any:
        """What to do; by agent, if the observation is."""
        running = self._running(episode_id)
        ended = {agent: flag for agent, flag in running.done.items() if agent in observation}
        for agent in ended:
            del running.done[agent]
        if not ended:
            return running.episode.observe(observation)
        return running.episode.observe(observation, terminateds=ended)

    def log_action(self, episode_id: str, observation: Any, action: Any) -> None:
        """Tells an action that the caller has chosen."""
        self._running(episode_id).episode.log_action(observation, action)

    def log_returns(
        self,
        episode_id: str,
        reward: Any,
        info: Mapping[str, Any] | None = None,
        multiagent_done_dict: Mapping[str, bool] | None = None,
    ) -> None:
        """Adds to what has been earned since the last action.

        Args:
            episode_id: of the episode.
            reward: a number; with several agents by agent.
            info: is not sent, as nothing on the current API stack takes it.
            multiagent_done_dict: agents whose part ends with the next observation that they are
                given, with ``get_action`` or ``end_episode``.
        """
        running = self._running(episode_id)
        running.episode.reward(reward)
        for agent, flag in (multiagent_done_dict or {}).items():
            if flag and agent != "__all__":
                running.done[agent] = True

    def end_episode(self, episode_id: str, observation: Any) -> None:
        """Ends the episode as terminated, as the original did.

        Args:
            episode_id: of the episode.
            observation: the last one; with several agents by agent.
        """
        running = self._running(episode_id)
        running.episode.end(observation, terminated=True)
        with self._lock:
            del self._episodes[episode_id]

    def close(self) -> None:
        """Ends the sessions; episodes that run end as truncated."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
            self._episodes.clear()
        for client in clients:
            client.close()

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _client(self, learns: bool) -> LiveClient:
        with self._lock:
            if learns not in self._clients:
                mode: Mode = "collect" if learns else "serve"
                self._clients[learns] = LiveClient(self.address, mode, **self._options)
            return self._clients[learns]

    def _running(self, episode_id: str) -> _Running:
        with self._lock:
            running = self._episodes.get(episode_id)
        if running is None:
            raise InvalidArgument(
                f"no episode '{episode_id}' runs: begin one with start_episode", str(episode_id)
            )
        return running
