"""Recordings of mpe2's particle environments, replayed exactly through a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode

from agent.batch import Batch
from agent.session import Session
from simserver.catalogue import BUILT_IN
from tests.servers import Serving, serving
from tests.simserver.particle_traces import Trace, assert_recorded_values, trace_paths

TRACES = trace_paths()


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(*(name for name in BUILT_IN if name.startswith("particle/"))) as server:
        yield server


@pytest.mark.parametrize("path", TRACES, ids=[path.stem for path in TRACES])
def test_reference_particle_over_grpc(server: Serving, path: Path) -> None:
    """All seeds side by side, episode after episode; every observation, reward and end."""
    trace = Trace.load(path)
    lengths = trace.arrays["lengths"]
    every = np.arange(len(trace.seeds))
    with Session.open(
        server.address, trace.scenario, len(every), trace.options(), AutoresetMode.DISABLED
    ) as session:
        for episode in range(trace.num_episodes):
            batch = session.reset(seeds=None if episode else [int(seed) for seed in trace.seeds])
            assert_recorded(trace, session, batch, {"obs0": "observation"}, (every, episode))
            for step in range(lengths[:, episode].max()):
                going_on = every[step < lengths[:, episode]]
                at = (going_on, episode, step)
                batch = session.step(recorded_actions(trace, session, at), going_on)
                fields = {
                    "obs": "observation",
                    "rewards": "reward",
                    "terminations": "terminated",
                    "truncations": "truncated",
                }
                assert_recorded(trace, session, batch, fields, at)


def recorded_actions(trace: Trace, session: Session, at: tuple) -> list[np.ndarray]:
    actions = []
    for group in session.groups:
        values = recorded(trace, "actions", group.agents, at)
        if isinstance(group.action_space, Box):
            # Some recordings go beyond the action space, where mpe2 clips; the wire refuses it.
            values = values.clip(group.action_space.low, group.action_space.high)
        actions.append(values)
    return actions


def assert_recorded(
    trace: Trace, session: Session, batch: Batch, fields: dict[str, str], at: tuple
) -> None:
    assert not batch.faults
    for group, part in zip(session.groups, batch.groups, strict=True):
        for key, field in fields.items():
            rows = recorded(trace, key, group.agents, at)
            assert_recorded_values(trace.scenario, key, getattr(part, field), rows)


def recorded(trace: Trace, key: str, agents: tuple[str, ...], at: tuple) -> np.ndarray:
    """Rows as on the wire: environment by environment, agent by agent."""
    values = np.stack([trace.arrays[f"{key}.{name}"][at] for name in agents], axis=1)
    return values.reshape(-1, *values.shape[2:])
