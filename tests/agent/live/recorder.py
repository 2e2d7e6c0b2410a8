"""A sink that remembers what it was told."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from agent.live.inference import AgentStep, Decision, End, LiveEpisode


class Recorder:
    """Attributes: everything told, in order, as (what, episode, content)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, LiveEpisode | None, Any]] = []
        self._changed = threading.Condition()

    def started(self, episode: LiveEpisode) -> None:
        self._add("started", episode, None)

    def stepped(self, episode: LiveEpisode, steps: Sequence[AgentStep]) -> None:
        self._add("stepped", episode, steps)

    def acted(self, episode: LiveEpisode, decisions: Sequence[Decision]) -> None:
        self._add("acted", episode, decisions)

    def ended(self, episode: LiveEpisode, end: End) -> None:
        self._add("ended", episode, end)

    def called(self, decisions: Sequence[Decision]) -> None:
        self._add("called", None, decisions)

    def _add(self, what: str, episode: LiveEpisode | None, content: Any) -> None:
        with self._changed:
            self.told.append((what, episode, content))
            self._changed.notify_all()

    def wait(self, what: str, count: int = 1) -> list[Any]:
        """The contents of what was told under that name, once there are ``count``."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of(what)) >= count, 30), self.told
            return self.of(what)

    def of(self, what: str) -> list[Any]:
        return [content for name, _, content in self.told if name == what]

    def steps(self, agent: str = "agent") -> list[AgentStep]:
        return [step for steps in self.of("stepped") for step in steps if step.agent == agent]

    def decisions(self, agent: str = "agent") -> list[Decision]:
        return [one for several in self.of("acted") for one in several if one.agent == agent]
