"""RLlib's callbacks of episodes that live simulators begin and end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback

from agent.live.callbacks import EpisodeCallbacks
from farsim import LiveClient
from farsim.errors import Unsupported
from tests.agent.live_training.game import Game
from tests.agent.live_training.runners import configured, runner_of
from tests.agent.live_training.test_env_runner import Walk, until
from tests.agent.live_training.test_several_agents import hide_and_seek


class Noted(RLlibCallback):
    """Keeps what it was called with."""

    called: list[tuple[str, Any, list[Any]]] = []  # noqa: RUF012

    def on_environment_created(self, *, env: Any, **_: Any) -> None:
        self.called.append(("environment", env, []))

    def on_episode_created(self, *, episode: Any, **_: Any) -> None:
        self.called.append(("created", episode, []))

    def on_episode_start(self, *, episode: Any, rl_module: Any, **_: Any) -> None:
        assert rl_module is not None
        episode.custom_data["mark"] = episode.id_
        self.called.append(("start", episode, []))

    def on_episode_end(
        self, *, episode: Any, prev_episode_chunks: Any, metrics_logger: Any, **_: Any
    ) -> None:
        metrics_logger.log_value("ended", 1, reduce="sum")
        self.called.append(("end", episode, list(prev_episode_chunks)))


@pytest.fixture(autouse=True)
def called() -> list[tuple[str, Any, list[Any]]]:
    Noted.called.clear()
    return Noted.called


def kinds(called: list[Any]) -> list[str]:
    return [kind for kind, _, _ in called]


def test_an_episode_in_pieces(called: list[Any]) -> None:
    config = configured().callbacks(Noted)
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        assert called.pop(0)[:2] == ("environment", runner.env)
        walk = Walk(client)
        for _ in range(4):
            walk.step()
        (first,) = runner.sample(num_timesteps=3)
        assert kinds(called) == ["created", "start"]
        begun = called[1][1]
        assert len(begun) == 0
        np.testing.assert_array_equal(begun.get_observations(-1), walk.seen[0])
        walk.step()
        (second,) = runner.sample(num_timesteps=1)
        assert kinds(called) == ["created", "start"]
        walk.end(terminated=True)
        (third,) = runner.sample(num_timesteps=1)
        assert kinds(called) == ["created", "start", "end"]
        _, episode, earlier = called[2]
        assert episode is third
        assert earlier == [first, second]
        assert episode.is_terminated
        assert sum(one.get_return() for one in [*earlier, episode]) == pytest.approx(
            sum(walk.earned)
        )
        for chunk in (begun, first, second, third):
            assert chunk.custom_data == {"mark": begun.id_}
        assert runner.get_metrics()["ended"].peek() == 1


def test_an_end_of_which_nothing_is_left_to_learn_from(called: list[Any]) -> None:
    config = configured().callbacks(Noted)
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        walk = Walk(client)
        for _ in range(3):
            walk.step()
        walk.log(1)
        walk.end(terminated=False)
        chunks = runner.sample(num_timesteps=1)
        kind, episode, earlier = called[-1]
        assert (kind, earlier) == ("end", chunks)
        assert (len(episode), episode.is_truncated) == (0, True)
        np.testing.assert_array_equal(episode.get_observations(-1), walk.seen[-1])
        assert episode.custom_data == {"mark": episode.id_}


def test_an_episode_that_nobody_ended_has_no_end(called: list[Any]) -> None:
    config = configured(wait_seconds=0.3).callbacks(Noted)
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        for leave in ("abort", "lose"):
            walk = Walk(client)
            walk.step()
            walk.step()
            assert len(runner.sample(num_timesteps=1)) == 1
            if leave == "abort":
                walk.episode.abort()
                runner.sample(num_timesteps=1)
        client.close()
        until(lambda: runner.simulators == 0)
        runner.sample(num_timesteps=1)
        assert kinds(called) == ["environment", *("created", "start") * 2]
        assert not runner._told._custom
        assert not runner._told._earlier


def test_several_agents(called: list[Any]) -> None:
    config = hide_and_seek(PPOConfig().callbacks(Noted))
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        assert called.pop(0)[:2] == ("environment", runner.env)
        game = Game(client, 0)
        game.play(rounds=3)
        (chunk,) = runner.sample(num_timesteps=12)
        assert kinds(called) == ["created", "start", "end"]
        begun = called[1][1]
        assert set(begun.get_observations(-1)) == {"hider"}  # Whose turn it was.
        assert called[2][1:] == (chunk, [])
        assert chunk.get_return() == pytest.approx(sum(map(sum, game.earned.values())))


def test_functions_are_called_too(called: list[Any]) -> None:
    lengths: list[int] = []
    config = configured().callbacks(
        on_episode_end=lambda *, episode, **_: lengths.append(len(episode))
    )
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        walk = Walk(client)
        walk.step()
        walk.end(terminated=True)
        runner.sample(num_timesteps=1)
    assert lengths == [1]


def test_callbacks_of_each_step_are_refused() -> None:
    class Stepped(RLlibCallback):
        def on_episode_step(self, **_: Any) -> None:
            pass

    for config in (
        configured().callbacks(Stepped),
        configured().callbacks(on_episode_step=lambda **_: None),
    ):
        with pytest.raises(Unsupported, match="on_episode_step"), runner_of(config):
            pass


def test_chunks_are_kept_only_for_who_wants_them() -> None:
    class Plain(RLlibCallback):
        def on_episode_end(self, *, episode: Any, **_: Any) -> None:
            pass

    config = configured().callbacks(Plain)
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        walk = Walk(client)
        walk.step()
        walk.step()
        runner.sample(num_timesteps=1)
        told: EpisodeCallbacks = runner._told
        assert not told._earlier
        assert len(told._custom) == 1
        walk.end(terminated=True)
        runner.sample(num_timesteps=1)
        assert not told._custom
