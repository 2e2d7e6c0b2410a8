"""The client for asyncio, against the same server."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import farsim
from farsim.errors import (
    DeadlineExceeded,
    InvalidObservation,
    ProtocolError,
    ServerUnavailable,
    SessionLost,
)
from tests.farsim.live.policies import Policies, impatient, policies
from tests.farsim.live.test_client import observations, own, told, told_without_end
from tests.proxy import Proxy


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policies]:
    with policies(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def server(running: Policies) -> Iterator[Policies]:
    with running.anew() as server:
        yield server


async def play(client: farsim.AsyncLiveClient, seed: int, steps: int = 20) -> None:
    seen = observations(steps + 1, seed)
    async with client.episode() as episode:
        for observation in seen[:-1]:
            assert await episode.observe(observation, float(seed)) == own(observation)
        episode.reward(0.5)
        await episode.end(seen[-1], 1.0, terminated=True)


def test_many_episodes_at_a_time(server: Policies) -> None:
    async def main() -> None:
        async with farsim.AsyncLiveClient(server.address, "collect") as client:
            await asyncio.gather(*(play(client, seed) for seed in range(20)))
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    found = {tuple(row["reward"] for row in told(server, number)) for number in range(1, 21)}
    assert found == {(*[float(seed)] * 20, 1.5) for seed in range(20)}
    assert server.told[-1]["event"] == "goodbye"


def test_deadlines_and_mistakes(server: Policies) -> None:
    first, second = observations(2)

    async def main() -> None:
        async with farsim.AsyncLiveClient(server.address) as client:
            async with client.episode() as episode:
                with pytest.raises(InvalidObservation):
                    await episode.observe(np.zeros(3))
                server.hold()
                with impatient(client), pytest.raises(DeadlineExceeded):
                    await episode.observe(first)
                server.release()
                assert await episode.observe(second, action_taken=1) == own(second)
            with pytest.raises(ZeroDivisionError):
                async with client.episode() as episode:
                    await episode.log_action(first, 1)
                    raise ZeroDivisionError
        with pytest.raises(ProtocolError, match="closed"):
            await client.episode().observe(first)

    asyncio.run(main())
    assert [row["action_taken"] for row in told_without_end(server)] == [None, 1]
    assert [event["aborted"] for event in server.told if event["event"] == "end"] == [False, True]


def test_a_cut_connection_is_resumed(server: Policies) -> None:
    async def main(proxy: Proxy) -> int:
        seed = 0
        async with farsim.AsyncLiveClient(proxy.address, "collect") as client:
            while proxy.cuts < 5:
                playing = asyncio.create_task(play(client, seed, 60))
                await asyncio.sleep(0.02)
                proxy.cut()
                await playing
                seed += 1
        return seed

    with Proxy(server.address) as proxy:
        count = asyncio.run(main(proxy))
    assert len({event["session"] for event in server.told}) == 1
    assert [len(told(server, number + 1)) for number in range(count)] == [61] * count


def test_a_killed_server(server: Policies) -> None:
    first, second = observations(2)

    async def main() -> None:
        options = {"resume_seconds": 0.2}
        client = await farsim.AsyncLiveClient(server.address, connection=options).connect()
        with pytest.raises(SessionLost):
            async with client.episode() as episode:
                await episode.observe(first)
                server.stop()
                await episode.observe(second)
        server.start()
        assert await client.episode().observe(second) == own(second)
        await client.close()
        with pytest.raises(ServerUnavailable):
            await farsim.AsyncLiveClient("127.0.0.1:9").connect()

    asyncio.run(main())


def test_a_client_that_is_forgotten(server: Policies) -> None:
    async def main() -> None:
        client = await farsim.AsyncLiveClient(server.address).connect()
        await client.episode().observe(observations(1)[0])
        assert len(asyncio.all_tasks()) > 1
        del client
        gc.collect()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)

    before = threading.active_count()
    asyncio.run(main())
    assert server.told[-1]["event"] == "goodbye"
    assert threading.active_count() <= before + 1  # gRPC's own, for all event loops.
