"""The clients against the service of ``agent.live`` itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from agent.live.inference import PolicySpec, Query
from agent.live.limits import Limits
from agent.live.server import PolicyServer, PolicyServerOptions
from farsim.certs import make_certificates, make_token
from farsim.errors import (
    AuthenticationFailed,
    InvalidArgument,
    InvalidObservation,
    ServerUnavailable,
    SessionLost,
    SpaceMismatch,
)
from farsim.live import AsyncLiveClient, LiveClient
from farsim.v1 import policy_pb2 as pb
from tests.agent.live.linear import ACTIONS, Linear, choose
from tests.agent.live.recorder import Recorder
from tests.farsim.live.policies import impatient, wait_for
from tests.farsim.live.reference import CARTPOLE, HIDER, SEEKER
from tests.proxy import Proxy
from tests.simserver.live.test_live import live

_HIGHEST = np.array([1, 1, 8], np.float32)
PENDULUM = Box(-_HIGHEST, _HIGHEST), Box(-2, 2, (1,), np.float32)


@dataclass
class Service:
    server: PolicyServer
    policy: Linear
    recorder: Recorder

    @property
    def address(self) -> str:
        return self.server.address


def serve(policy: Linear, **more: Any) -> Iterator[Service]:
    recorder = Recorder()
    modes = (pb.LIVE_MODE_SERVE, pb.LIVE_MODE_COLLECT, pb.LIVE_MODE_SHADOW)
    options = PolicyServerOptions(limits=Limits(), modes=modes, grace_seconds=5.0, **more)
    with PolicyServer(policy, options=options, sinks=(recorder,)) as server:
        try:
            yield Service(server, policy, recorder)
        finally:
            policy.gate.set()


@pytest.fixture
def service() -> Iterator[Service]:
    yield from serve(Linear())


@pytest.fixture
def pair() -> Iterator[Service]:
    seek = PolicySpec("seek", *SEEKER, agents=("seeker",))
    hide = PolicySpec("hide", *HIDER, agents=("hider",))
    yield from serve(Linear([seek, hide]))


def observations(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).uniform(-1, 1, (count, 4)).astype(np.float32))


def own(observation: np.ndarray) -> int:
    return int(choose(ACTIONS, observation, Query(observation, (), None, True, None), 1))


def test_an_episode_over_cut_connections(service: Service) -> None:
    seen = observations(61)
    with Proxy(service.address) as proxy, LiveClient(proxy.address, "collect") as client:
        with client.episode() as episode:
            for step, observation in enumerate(seen[:-1]):
                if step % 10 == 5:
                    proxy.cut()
                episode.observe(observation, float(step))
            episode.end(seen[-1], 60.0, terminated=True)
        assert episode.policy_version == 1
    steps = service.recorder.steps()
    assert [step.reward for step in steps] == [float(step) for step in range(61)]
    assert np.array_equal([step.observation for step in steps], seen)


def test_modes_mistakes_and_fallbacks(service: Service) -> None:
    first, second, third = observations(3)
    with LiveClient(service.address, sampling="greedy") as client, client.episode() as episode:
        assert episode.observe(first) == own(first)
        with pytest.raises(InvalidObservation):
            episode.observe(np.full(4, 11, np.float32))
        with pytest.raises(InvalidArgument, match="knows no action masks"):
            episode.observe(second, 1.0, [True, False, False])
        assert episode.observe(second, 1.0) == own(second)
    with LiveClient(service.address, "shadow") as client, client.episode() as episode:
        episode.log_action(first, 2)
        episode.end(second, 1.0, truncated=True)
    with pytest.raises(SpaceMismatch):
        LiveClient(service.address, "serve", *CARTPOLE)
    with (
        LiveClient(service.address, "collect", deadline=60, fallback=lambda _: 2) as client,
        client.episode() as episode,
    ):
        service.policy.gate.clear()
        with impatient(client):
            assert episode.observe(first) == episode.observe(second, 1.0) == 2
        service.policy.gate.set()
        episode.end(third, 1.0, terminated=True)
        assert (episode.fallbacks, episode.lost) == (2, None)


def test_several_agents(pair: Service) -> None:
    seeker = np.ones(3, np.float32)
    hider = {"place": 3, "hidden": np.float32(0.5)}
    assert [spec.name for spec in pair.policy.policies()] == ["seek", "hide"]
    with LiveClient(pair.address, "collect") as client, client.episode() as episode:
        assert client.interface.is_multi_agent
        assert episode.observe({"seeker": seeker})["seeker"].tolist() == [1, 1]
        episode.log_action({"hider": hider}, {"hider": 2}, rewards={"seeker": 1})
        episode.observe({"seeker": seeker}, {"seeker": 2})
        episode.end({"hider": hider}, terminateds={"hider": True}, rewards={"seeker": 4})
    assert [step.reward for step in pair.recorder.steps("seeker")] == [0, 3, 4]
    assert [step.reward for step in pair.recorder.steps("hider")] == [0, 0]


def test_a_server_that_stops(service: Service) -> None:
    (first,) = observations(1)
    with LiveClient(service.address, connection={"resume_seconds": 1.0}) as client:
        episode = client.episode()
        episode.observe(first)
        service.server.close()
        with pytest.raises((SessionLost, ServerUnavailable)):
            episode.observe(first)
    # A fallback does not hide from who connects that nobody is there.
    with pytest.raises(ServerUnavailable):
        LiveClient(service.address, fallback="zero")


def test_tls_and_a_token(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost", "127.0.0.1"], days=1)
    make_token(tmp_path / "token")
    (tmp_path / "wrong").write_text("wrong\n")
    files = {
        "tls_ca": str(tmp_path / "ca.pem"),
        "tls_cert": str(tmp_path / "client.pem"),
        "tls_key": str(tmp_path / "client-key.pem"),
        "token_file": str(tmp_path / "token"),
    }
    secured = contextmanager(serve)(
        Linear([PolicySpec("walk", *PENDULUM)]),
        tls_cert=tmp_path / "server.pem",
        tls_key=tmp_path / "server-key.pem",
        tls_client_ca=tmp_path / "ca.pem",
        token=(tmp_path / "token").read_text().strip(),
    )
    with secured as service:
        with LiveClient(service.address, connection=files) as client, client.episode() as episode:
            assert PENDULUM[1].contains(episode.observe(np.zeros(3, np.float32)))

        async def main() -> None:
            async with AsyncLiveClient(service.address, connection=files) as client:
                await client.episode().observe(np.zeros(3, np.float32))

        asyncio.run(main())
        wrong = {**files, "token_file": str(tmp_path / "wrong")}
        with pytest.raises(AuthenticationFailed, match="token"):
            LiveClient(service.address, connection=wrong)
        for missing in (("tls_cert", "tls_key"), tuple(files)):
            left = {name: path for name, path in files.items() if name not in missing}
            with pytest.raises(ServerUnavailable):
                LiveClient(service.address, connection={"connect_seconds": 1.0, **left})
        flags = [f"--{name.replace('_', '-')}={path}" for name, path in files.items()]
        output = live("gymnasium/Pendulum-v1", "--policy", service.address, "--episodes=1", *flags)
    assert "episode 1 (seed 0): 200 steps" in output


def test_asyncio(service: Service) -> None:
    seen = observations(5)

    async def main() -> None:
        async with AsyncLiveClient(service.address, "collect") as client:

            async def play() -> None:
                async with client.episode() as episode:
                    for observation in seen[:-1]:
                        await episode.observe(observation, 1.0)
                    await episode.end(seen[-1], 1.0, truncated=True)

            await asyncio.gather(*(play() for _ in range(8)))

    asyncio.run(main())
    wait_for(lambda: len(service.recorder.of("ended")) == 8, "the ends")
    assert sum(step.reward for step in service.recorder.steps()) == 40
    assert max(rows for _, rows, _ in service.policy.batches) > 1
