"""Recordings of the original DeepRM, replayed exactly through a server in another process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agent.session import Each, Session
from simserver.simulator import Batch, GroupBatch, Info, IntArray
from tests.servers import Serving, serving
from tests.simserver.deeprm_traces import Trace
from tests.simserver.test_deeprm_reference import TRACES, Replay

#: What a batch tells about every row; the other infos are about episodes that ended.
EVERY_STEP = {"time", "backlog", "running", "time_advanced", "fits_now", "fits_horizon"}


class Remote:
    """A session that answers as the simulator does in process."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def reset(self, envs: IntArray, seeds: None, options: Mapping[str, Sequence[Any]]) -> Batch:
        values = {name: Each(value) for name, value in options.items()}
        batch = self._in_process(self._session.reset(envs, options=values))
        return replace(batch, groups=[replace(batch.groups[0], reward=None)])

    def step(self, envs: IntArray, actions: Sequence[Any]) -> Batch:
        return self._in_process(self._session.step(actions, envs))

    @staticmethod
    def _in_process(batch: Any) -> Batch:
        (group,) = batch.groups
        assert not batch.faults
        infos = {
            name: Info(info.values, None if name in EVERY_STEP else info.rows)
            for name, info in group.infos.items()
        }
        return Batch(
            [
                GroupBatch(
                    group.observation,
                    group.reward,
                    group.terminated,
                    group.truncated,
                    group.action_masks,
                    infos,
                )
            ],
            started=batch.started,
        )


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving("deeprm") as server:
        yield server


@pytest.mark.parametrize("path", TRACES, ids=[path.stem for path in TRACES])
def test_reference_deeprm_over_grpc(server: Serving, path: Any) -> None:
    trace = Trace.load(path)
    options = {**trace.options(), "action_mask": "fits_now"}
    count = trace.num_episodes
    with Session.open(
        server.address,
        "deeprm",
        count,
        options,
        AutoresetMode.DISABLED,
    ) as session:
        replay = Replay(trace, count, "fits_now")
        replay.sim = Remote(session)  # type: ignore[assignment]
        envs = np.arange(count)
        replay.reset(envs, envs)
        going_on = replay.steps_done < trace.episode_num_steps
        while going_on.any():
            done = replay.step(envs[going_on])
            assert done.sum() == (replay.steps_done == trace.episode_num_steps)[going_on].sum()
            going_on = replay.steps_done < trace.episode_num_steps
    assert replay.steps_done.sum() == len(trace.action)
