"""A policy in NumPy whose versions a test sets, for servers of policies."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from agent.live.inference import Answer, PolicySpec, Query
from farsim.errors import UnknownPolicy

OBSERVATIONS = spaces.Box(-10.0, 10.0, (4,), np.float32)
ACTIONS = spaces.Discrete(3)


@dataclass
class Linear:
    """Chooses argmax(W x + version), W fixed; a recurrent one adds up what it has seen.

    Attributes:
        specs: the policies.
        kept: the versions that can be asked for.
        gate: while it is not set, ``act`` waits.
        asked: set when ``act`` is called.
        batches: policy, rows and version of each forward pass.
        queries: all that were answered.
    """

    specs: Sequence[PolicySpec] = (PolicySpec("default", OBSERVATIONS, ACTIONS),)
    kept: list[int] = field(default_factory=lambda: [1])
    gate: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)
    batches: list[tuple[str, int, int]] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def policies(self) -> Sequence[PolicySpec]:
        return self.specs

    def versions(self, policy: str) -> Sequence[int]:
        return list(self.kept)

    def act(self, policy: str, queries: Sequence[Query], version: int = 0) -> Sequence[Answer]:
        self.asked.set()
        self.gate.wait(60)
        used = version or self.kept[-1]
        if used not in self.kept:
            raise UnknownPolicy(f"version {used} is gone", "policy_version")
        (spec,) = (spec for spec in self.specs if spec.name == policy)
        self.batches.append((policy, len(queries), used))
        self.queries.extend(queries)
        return [self._one(spec, query, used) for query in queries]

    def _one(self, spec: PolicySpec, query: Query, version: int) -> Answer:
        seen = np.asarray(query.observation, np.float32).ravel()
        if float(seen[0]) == 9.0:
            raise RuntimeError("this observation makes the policy fail")
        state: Any = None
        if spec.is_recurrent:
            before = np.zeros(seen.shape, np.float32) if query.state is None else query.state["sum"]
            state = {"sum": before + seen}
            seen = state["sum"]
        return Answer(
            choose(spec.action_space, seen, query, version), state, version, {"logp": -1.5}
        )


def choose(space: Any, seen: np.ndarray, query: Query, version: int) -> Any:
    """The action of an observation, so that tests can say what to expect."""
    if isinstance(space, spaces.Box):
        return np.full(space.shape, np.clip(seen.mean(), space.low, space.high), space.dtype)
    scores = (np.arange(space.n) + 1) * float(seen.sum()) + version * (np.arange(space.n) == 0)
    if query.action_masks:
        scores = np.where(query.action_masks[0], scores, -np.inf)
    return np.int64(np.argmax(scores))
