"""Sampling on arrays: splits of the environments, callbacks, and what only episodes can do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2

from agent.env_runner import RemoteEnvRunner
from farsim.errors import InvalidArgument
from tests.agent.sampling.test_equality import (
    CARTPOLE,
    Stock,
    assert_same,
    config_of,
    fields,
    flat,
)
from tests.servers import Serving, serving

STEERED = "tests.simulators.envs:Steered"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(CARTPOLE, STEERED) as server:
        yield server


def runner_of(config: Any, kind: type[RemoteEnvRunner] = RemoteEnvRunner) -> Any:
    torch.manual_seed(2)
    return kind(config=config.copy(copy_frozen=False), worker_index=1, num_workers=1)


def by_first_observation(runner: Any, steps: int, calls: int) -> dict[bytes, list[Any]]:
    """Whole episodes from greedy actions, by the observation that they begin with."""
    chunks: dict[str, list[Any]] = {}
    for _ in range(calls):
        for chunk in runner.sample(num_timesteps=steps, explore=False):
            chunks.setdefault(chunk.id_, []).append(chunk)
    found = {}
    for parts in chunks.values():
        if parts[-1].is_done and parts[0].t_started == 0:
            place = parts[0].observations.data
            found[place[:1].tobytes()] = [
                [action for part in parts for action in part.get_actions()],
                [reward for part in parts for reward in part.get_rewards()],
                [seen for part in parts for seen in part.get_observations(slice(0, len(part)))],
                parts[-1].get_observations(-1),
                # Where a sample ends, a chunk repeats the info of the one before.
                [info for part in parts for info in part.get_infos()[: len(part)]],
                parts[-1].get_infos(-1),
                parts[-1].is_terminated,
                parts[-1].is_truncated,
            ]
    return found


def test_episodes_depend_on_neither_splits_nor_autoreset(server: Serving) -> None:
    found = []
    for splits, mode in ((1, "NextStep"), (1, "SameStep"), (2, "SameStep"), (3, "NextStep")):
        env_config = {"splits": splits, "autoreset_mode": mode}
        config = config_of(PPOConfig, server, STEERED, env_config=env_config)
        config.env_runners(num_envs_per_env_runner=7, env_to_module_connector=flat)
        runner = runner_of(config)
        try:
            assert len(runner.remote.splits) == splits
            found.append(by_first_observation(runner, 350, 3))
            assert runner._sampler is not None
        finally:
            runner.stop()
    assert len(found[0]) > 50
    for other in found[1:]:
        assert len(set(found[0]) & set(other)) > 50
        for first in set(found[0]) & set(other):
            assert_same(found[0][first], other[first], "episode")


def test_no_step_is_lost_to_resets(server: Serving) -> None:
    steps = []
    for mode in ("", "NextStep"):
        config = config_of(PPOConfig, server, CARTPOLE, env_config={"autoreset_mode": mode})
        runner = runner_of(config)
        try:
            chunks = [chunk for _ in range(3) for chunk in runner.sample(num_timesteps=200)]
            steps.append(sum(map(len, chunks)))
            ended = sum(chunk.is_done for chunk in chunks)
            assert ended > 10
            for chunk in chunks:
                chunk.validate()
        finally:
            runner.stop()
    assert steps[0] == 600
    assert steps[1] > 600


def test_with_the_same_seeds_splits_sample_the_same(server: Serving) -> None:
    samples = []
    for _ in range(2):
        runner = runner_of(config_of(PPOConfig, server, CARTPOLE, env_config={"splits": 2}))
        try:
            torch.manual_seed(11)
            samples.append([runner.sample(num_timesteps=123) for _ in range(3)])
        finally:
            runner.stop()
    for one, other in zip(*samples, strict=True):
        assert [len(chunk) for chunk in one] == [len(chunk) for chunk in other]
        assert 123 <= sum(map(len, one)) < 123 + 5
        for a, b in zip(one, other, strict=True):
            assert_same(fields(a), fields(b), "episode")


def test_more_splits_than_environments_are_an_error(server: Serving) -> None:
    wrong = config_of(PPOConfig, server, CARTPOLE, env_config={"splits": 6})
    with pytest.raises(InvalidArgument, match="from 1 to 5, the number of environments, not 6"):
        runner_of(wrong)


class Diary(RLlibCallback):
    """Notes what it is called with, and leaves something in the episode."""

    notes: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.notes = []

    def _note(self, what: str, episode: Any, env_index: int, **more: Any) -> None:
        seen = episode.get_observations() if len(episode.observations) else []
        said = [what, env_index, len(episode), np.array(seen), dict(episode.custom_data)]
        self.notes.append([*said, *more.values()])

    def on_episode_created(self, *, episode: Any, env_index: int, **kwargs: Any) -> None:
        self._note("created", episode, env_index)
        episode.custom_data["number"] = len(self.notes)

    def on_episode_start(self, *, episode: Any, env_index: int, **kwargs: Any) -> None:
        self._note("start", episode, env_index)
        episode.custom_data["first"] = float(episode.get_observations(-1)[0])

    def on_episode_end(
        self, *, episode: Any, env_index: int, prev_episode_chunks: Any = (), **kwargs: Any
    ) -> None:
        earlier = [len(chunk) for chunk in prev_episode_chunks]
        self._note("end", episode, env_index, earlier=earlier, over=episode.is_terminated)


def test_callbacks_are_those_of_rllib(server: Serving) -> None:
    notes, custom = [], []
    for kind in (Stock, RemoteEnvRunner):
        runner = runner_of(config_of(PPOConfig, server, CARTPOLE).callbacks(Diary), kind)
        try:
            torch.manual_seed(4)
            samples = [runner.sample(num_timesteps=90) for _ in range(3)]
            samples.append(runner.sample(num_episodes=3))
            custom.append([chunk.custom_data for sample in samples for chunk in sample])
            notes.append(runner._callbacks[0].notes)
        finally:
            runner.stop()
    assert {note[0] for note in notes[0]} == {"created", "start", "end"}
    assert any(note[0] == "end" and note[5] for note in notes[0])  # Has an earlier chunk.
    assert_same(notes[0], notes[1], "notes")
    assert_same(custom[0], custom[1], "custom data")


class Stepping(RLlibCallback):
    def on_episode_step(self, **kwargs: Any) -> None:
        kwargs["metrics_logger"].log_value("stepped", 1, reduce="lifetime_sum")


class Doubling(ConnectorV2):
    """A connector of the user's own, which works on episodes."""

    def __call__(self, *, batch: Any, episodes: Any, **kwargs: Any) -> Any:
        for episode in episodes:
            last = episode.get_observations(-1)
            episode.set_observations(at_indices=-1, new_data=last * np.float32(2000))
        return batch


def doubled(env: Any = None, spaces: Any = None, device: Any = None) -> Any:
    return Doubling()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"env_to_module_connector": doubled}, "Doubling"),
        ({"callbacks_class": Stepping}, "on_episode_step"),
        ({"episodes_to_numpy": False}, "episodes_to_numpy"),
    ],
)
def test_what_needs_episodes_gets_them_and_is_named(server, more, named, caplog) -> None:
    config = config_of(PPOConfig, server, CARTPOLE, env_config={"splits": 2})
    callbacks = more.get("callbacks_class")
    config = config.callbacks(callbacks) if callbacks else config.env_runners(**more)
    runner = runner_of(config)
    try:
        with caplog.at_level(logging.WARNING, "agent.env_runner"):
            chunks = runner.sample(num_timesteps=60)
            chunks += runner.sample(num_timesteps=60)
        assert sum(map(len, chunks)) >= 120
        said = [
            record.message for record in caplog.records if "several times slower" in record.message
        ]
        assert len(said) == 1
        assert named in said[0]
        if callbacks:
            assert runner.get_metrics()["stepped"].peek() >= 110
    finally:
        runner.stop()


def test_a_connector_added_later_is_heeded(server: Serving) -> None:
    runner = runner_of(config_of(PPOConfig, server, CARTPOLE))
    try:
        runner.sample(num_timesteps=30)
        assert runner._sampler is not None
        runner._env_to_module.connectors.insert(0, Doubling())
        [chunk, *_] = runner.sample(num_timesteps=30)
        assert runner._sampler is None
        assert np.abs(chunk.get_observations()).max() > 1000
    finally:
        runner.stop()
