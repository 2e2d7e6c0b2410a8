"""The live client against a server in another process."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import farsim
from farsim.channel import ConnectionOptions
from farsim.errors import (
    DeadlineExceeded,
    InvalidAction,
    InvalidAddress,
    InvalidArgument,
    InvalidObservation,
    LimitExceeded,
    ProtocolError,
    ServerUnavailable,
    SessionLost,
    SpaceMismatch,
)
from farsim.live import LiveClient
from tests.agent.threads import new_threads
from tests.farsim.live.policies import Policies, impatient, policies, wait_for
from tests.farsim.live.reference import CARTPOLE, choose
from tests.proxy import Proxy
from tests.servers import ROOT

SEE, ACT = CARTPOLE


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policies]:
    with policies(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def server(running: Policies) -> Iterator[Policies]:
    with running.anew() as server:
        yield server


def observations(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32))


def own(observation: np.ndarray) -> int:
    """What the server's policy does."""
    return choose(ACT, observation, [])


def play(client: LiveClient, seed: int) -> list[dict[str, Any]]:
    """One CartPole episode, and the recording that the server should have."""
    env = gym.make("CartPole-v1", max_episode_steps=30)
    recorded: list[dict[str, Any]] = []

    def note(**fields: Any) -> None:
        blank = {"logged_action": None, "action_taken": None, "action": None}
        recorded.append(
            {"agent": "agent", "terminated": False, "truncated": False, **blank, **fields}
        )

    observation, _ = env.reset(seed=seed)
    reward, over = 0.0, False
    with client.episode() as episode:
        while not over:
            action = episode.observe(observation, reward)
            note(observation=[observation.tolist()], reward=reward, action=action)
            observation, reward, terminated, truncated, _ = env.step(int(action))
            over = terminated or truncated
        episode.end(observation, reward, terminated=terminated, truncated=truncated)
    note(
        observation=[observation.tolist()],
        reward=reward,
        terminated=terminated,
        truncated=truncated,
    )
    return recorded


def told(server: Policies, number: int) -> list[dict[str, Any]]:
    """What the server was told of the only agent of an episode."""
    events = server.episode(number)
    assert [event["event"] for event in events[:1]] == ["start"]
    assert [event["event"] for event in events[-1:]] == ["end"]
    return [agent for event in events[1:] for agent in event["agents"]]


def test_a_recording_in_the_simulator_equals_what_the_server_was_told(server: Policies) -> None:
    with farsim.LiveClient(server.address, "collect") as client:
        recorded = [play(client, seed) for seed in range(3)]
    assert [told(server, number) for number in (1, 2, 3)] == recorded
    assert server.told[-1]["event"] == "goodbye"


def test_episodes_in_threads_share_a_session(server: Policies) -> None:
    with LiveClient(server.address, "collect", *CARTPOLE) as client, ThreadPoolExecutor(6) as pool:
        recorded = list(pool.map(lambda seed: play(client, seed), range(12)))
    found = [told(server, number) for number in range(1, 13)]
    texts = [
        sorted(json.dumps(x, sort_keys=True, default=int) for x in each)
        for each in (found, recorded)
    ]
    assert texts[0] == texts[1]
    assert len({event["session"] for event in server.told}) == 1


def test_rewards_add_up_and_logged_actions_travel(server: Policies) -> None:
    first, second, last = observations(3)
    with LiveClient(server.address, "collect") as client, client.episode() as episode:
        assert episode.observe(first) == own(first)
        assert episode.policy_version == 3
        episode.reward(0.5)
        episode.reward(0.25)
        episode.log_action(second, 1, 1.0)
        episode.end(last, 2.0, truncated=True)
    one, two, three = told(server, 1)
    assert (one["reward"], one["action"]) == (0, own(first))
    assert (two["reward"], two["logged_action"], two["action"]) == (1.75, 1, None)
    assert (three["reward"], three["truncated"], three["terminated"]) == (2, True, False)


def test_a_shadow_logs_its_own_actions(server: Policies) -> None:
    with LiveClient(server.address, "shadow") as client, client.episode() as episode:
        for observation in observations(20):
            episode.log_action(observation, 0, 1.0)
        with pytest.raises(InvalidArgument, match="log_action"):
            episode.observe(observation)
    assert [event["logged_action"] for event in told(server, 1)] == [0] * 20


def test_masks_and_spaces_that_start_elsewhere(server: Policies) -> None:
    (observation,) = observations(1)
    with LiveClient(server.address) as client, client.episode() as episode:
        assert episode.observe(observation, action_mask=[False, True]) == 1
        assert episode.observe(observation, action_mask=np.array([True, False])) == 0
        with pytest.raises(InvalidArgument, match=r"of lengths \[2\]"):
            episode.observe(observation, action_mask=[True])


def test_the_end_of_the_block_ends_the_episode(server: Policies) -> None:
    (observation,) = observations(1)
    with LiveClient(server.address, "collect") as client:
        with client.episode() as episode:
            episode.observe(observation)
        with pytest.raises(ZeroDivisionError), client.episode() as episode:
            episode.observe(observation)
            raise ZeroDivisionError
        with client.episode():
            pass
        with pytest.raises(ProtocolError, match="is over"):
            episode.observe(observation)
    ends = [event for event in server.told if event["event"] == "end"]
    assert [(end["episode"], end["agents"], end["aborted"]) for end in ends] == [
        (1, [], False),
        (2, [], True),
    ]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e.observe(np.zeros(3)), InvalidObservation, r"'agent'.*\(?3"),
        (lambda e: e.observe(np.zeros(4), float("nan")), InvalidArgument, "finite"),
        (lambda e: e.observe(np.zeros(4), action_taken=1), InvalidArgument, "seen nothing"),
        (lambda e: e.log_action(np.zeros(4), 0.5), InvalidAction, "'agent'"),
        (lambda e: e.end(np.zeros(4)), InvalidArgument, "terminated=True"),
        (lambda e: e.observe(np.zeros(4), rewards={"a": 1}), InvalidArgument, "'groups'"),
    ],
)
def test_mistakes_are_told_and_change_nothing(
    server: Policies, call: Any, error: type[Exception], message: str
) -> None:
    first, last = observations(2)
    with LiveClient(server.address) as client, client.episode() as episode:
        with pytest.raises(error, match=message):
            call(episode)
        assert episode.observe(first) == own(first)
        episode.end(last, 1.0, terminated=True)
    assert [one["reward"] for one in told(server, 1)] == [0, 1]


def test_what_the_server_refuses_leaves_the_episode_as_it_was(server: Policies) -> None:
    first, second = observations(2)
    bad = np.full(4, np.nan, np.float32)
    with LiveClient(server.address, "collect", fallback="zero") as client:
        with client.episode() as episode:
            episode.observe(first)
            with pytest.raises(InvalidObservation, match="not a number"):
                episode.observe(bad, 5.0)
            assert episode.observe(second, 1.0) == own(second)
            assert (episode.fallbacks, episode.lost) == (0, None)
            episode.log_action(bad, 0)
            with pytest.raises(InvalidObservation, match="not a number"):
                episode.end()
            episode.abort()
        assert [one["reward"] for one in told(server, 1)] == [0, 1]


def test_spaces_that_differ_are_refused(server: Policies) -> None:
    with pytest.raises(SpaceMismatch, match="shape"):
        LiveClient(server.address, observation_space=Box(0, 1, (5,)), action_space=Discrete(2))
    with pytest.raises(InvalidArgument, match="both"):
        LiveClient(server.address, observation_space=SEE)
    with pytest.raises(InvalidArgument, match="'zero'"):
        LiveClient(server.address, fallback="nothing")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="serve, collect, shadow"):
        LiveClient(server.address, "learn")  # type: ignore[arg-type]


def test_a_bound_of_episodes_is_a_typed_error(tmp_path: Path) -> None:
    (observation,) = observations(1)
    with (
        policies(tmp_path, "--max-episodes", "1") as server,
        LiveClient(server.address) as client,
        client.episode() as one,
    ):
        one.observe(observation)
        with pytest.raises(LimitExceeded, match="at most 1"), client.episode() as two:
            two.observe(observation)
        assert one.observe(observation) == own(observation)


# -- deadlines ------------------------------------------------------------------------------


def test_the_fallback_acts_and_the_server_hears_of_it(server: Policies) -> None:
    seen = observations(5)
    with (
        LiveClient(
            server.address,
            "collect",
            deadline=60,
            fallback=lambda observation: 1 - own(observation),
        ) as client,
        client.episode() as episode,
    ):
        assert episode.observe(seen[0]) == own(seen[0])
        server.hold()
        with impatient(client):
            assert episode.observe(seen[1], 1.0) == 1 - own(seen[1])
            assert episode.observe(seen[2], 2.0) == 1 - own(seen[2])
        assert episode.fallbacks == 2
        server.release()
        episode.log_action(seen[3], 0, 3.0)
        wait_for(lambda: len(server.episode(1)) >= 5, "the server has caught up")
        assert episode.lost is None
    events = told_without_end(server)[-3:]
    assert [event["reward"] for event in events] == [1, 2, 3]
    # The late replies had other actions; what was done came with the next event.
    assert [event["action"] for event in events] == [own(seen[1]), own(seen[2]), None]
    assert [event["action_taken"] for event in events[1:]] == [1 - own(seen[1]), 1 - own(seen[2])]


def told_without_end(server: Policies) -> list[dict[str, Any]]:
    """What the server was told in ``observe`` of the first episode."""
    return [
        agent
        for event in server.episode(1)
        if event["event"] == "observe"
        for agent in event["agents"]
    ]


def test_without_a_fallback_a_late_answer_is_an_error(server: Policies) -> None:
    first, second = observations(2)
    with LiveClient(server.address, "collect") as client, client.episode() as episode:
        server.hold()
        expected = pytest.raises(DeadlineExceeded, match="longer deadline, or a fallback")
        with impatient(client), expected:
            episode.observe(first)
        server.release()
        with pytest.raises(InvalidArgument, match="action_taken"):
            episode.observe(second, 1.0)
        wait_for(lambda: told_without_end(server), "the late reply")
        assert episode.observe(second, 1.0, action_taken=1 - own(first)) == own(second)
    assert [one["action_taken"] for one in told_without_end(server)] == [None, 1 - own(first)]


def test_too_many_without_an_answer_are_not_learned_from(tmp_path: Path) -> None:
    seen = observations(8)
    with (
        policies(tmp_path, "--max-in-flight", "4") as server,
        LiveClient(server.address, "collect", deadline=60, fallback="last") as client,
    ):
        server.hold()
        with client.episode() as episode:
            with impatient(client):
                for observation in seen:
                    episode.observe(observation, 1.0)
            assert episode.fallbacks == len(seen)
            assert isinstance(episode.lost, DeadlineExceeded)
            server.release()
            episode.end(seen[0], 1.0, terminated=True)
        with client.episode() as episode:
            assert episode.observe(seen[0]) == own(seen[0])
    ends = [event for event in server.told if event["event"] == "end"]
    assert [(end["episode"], end["aborted"]) for end in ends] == [(1, True), (2, False)]
    # As many as may be in flight.
    assert len(told_without_end(server)) == 4


def test_serving_goes_on_after_what_the_server_has_missed(tmp_path: Path) -> None:
    seen = [observation for observation in observations(40) if own(observation) == 1][:8]
    with (
        policies(tmp_path, "--max-in-flight", "4") as server,
        LiveClient(server.address, "serve", deadline=60, fallback="zero") as client,
        client.episode() as episode,
    ):
        server.hold()
        with impatient(client):
            assert [episode.observe(observation, 1.0) for observation in seen] == [0] * 8
        server.release()
        assert episode.observe(seen[0]) == 1
        assert episode.policy_version == 3


# -- breaking -------------------------------------------------------------------------------


def test_a_cut_connection_is_resumed(server: Policies) -> None:
    stop = threading.Event()
    with Proxy(server.address) as proxy:

        def cut() -> None:
            while not stop.wait(0.05):
                proxy.cut()

        with LiveClient(proxy.address, "collect") as client:
            cutter = threading.Thread(target=cut)
            cutter.start()
            recorded = []
            while proxy.cuts < 5:
                recorded.append(play(client, len(recorded)))
            stop.set()
            cutter.join()
    assert [told(server, number + 1) for number in range(len(recorded))] == recorded
    assert len({event["session"] for event in server.told}) == 1


def test_a_silent_connection_is_resumed(server: Policies) -> None:
    first, second = observations(2)
    options = ConnectionOptions(heartbeat_seconds=0.1)
    with (
        Proxy(server.address) as proxy,
        LiveClient(proxy.address, connection=options) as client,
        client.episode() as episode,
    ):
        episode.observe(first)
        # What the stalled connections hold is dropped with them.
        proxy.stall()
        found = proxy.connections
        waker = threading.Thread(
            target=lambda: (
                wait_for(lambda: proxy.connections > found, "another connection"),
                proxy.flow(),
            )
        )
        waker.start()
        assert episode.observe(second) == own(second)
        waker.join()
    assert len(told_without_end(server)) == 2


def test_a_killed_server_loses_the_session(server: Policies) -> None:
    first, second = observations(2)
    options = {"resume_seconds": 0.3, "connect_seconds": 30.0}
    with LiveClient(server.address, "collect", connection=options) as client:
        with pytest.raises(SessionLost, match="begin another"), client.episode() as episode:
            episode.observe(first)
            server.stop()
            episode.observe(second)
        assert episode.is_over
        server.start()
        with client.episode() as episode:
            assert episode.observe(second) == own(second)
    assert len({event["session"] for event in server.told}) == 2


def test_a_broken_connection_is_said_to_be_one(server: Policies) -> None:
    first, second = observations(2)
    with LiveClient(server.address) as client, client.episode() as episode:
        assert episode.observe(first) == own(first)
        server.stop()
        with impatient(client), pytest.raises(ServerUnavailable, match="has not come back"):
            # It takes a moment to be noticed.
            wait_for(lambda: observed(episode, second) is None, "a broken connection")
        episode.abort()


def observed(episode: Any, observation: np.ndarray) -> bool:
    """Whether the answer came in time; the action 0 was taken if it did not."""
    try:
        episode.observe(observation)
    except InvalidArgument:
        episode.observe(observation, action_taken=0)
    except DeadlineExceeded:
        return False
    return True


def test_learning_stops_when_the_server_is_killed_and_the_fallback_plays_on(
    server: Policies,
) -> None:
    seen = observations(4)
    options = {"resume_seconds": 0.2}
    with LiveClient(
        server.address, "collect", connection=options, deadline=60, fallback="zero"
    ) as client:
        with client.episode() as episode:
            assert episode.observe(seen[0]) == own(seen[0])
            server.stop()
            assert episode.observe(seen[1], 1.0) == 0
            assert isinstance(episode.lost, SessionLost)
            server.start()
            session = client._link.session(float("inf"))
            assert session is client._link._upkeep.session
            assert episode.observe(seen[2], 1.0) == 0
            episode.end(seen[3], 1.0, terminated=True)
            assert episode.fallbacks == 2
        assert [one["reward"] for one in told_without_end(server)] == [0]
        with client.episode() as episode:
            assert episode.observe(seen[3]) == own(seen[3])


def test_serving_goes_on_with_the_server_that_comes_back(server: Policies) -> None:
    seen = [observation for observation in observations(40) if own(observation) == 1]
    options = {"resume_seconds": 0.2}
    with (
        LiveClient(server.address, connection=options, deadline=60, fallback="zero") as client,
        client.episode() as episode,
    ):
        assert episode.observe(seen[0]) == own(seen[0])
        server.stop()
        assert episode.observe(seen[1], 1.0) == 0
        server.start()
        wait_for(lambda: episode.observe(seen[2]) == 1, "the policy is back")
        assert episode.policy_version == 3


def test_a_draining_server_is_left(server: Policies) -> None:
    first, second = observations(2)
    with LiveClient(server.address, "collect") as client:
        episode = client.episode()
        episode.observe(first)
        server.stop(signal.SIGTERM)
        with pytest.raises(SessionLost, match="stop"):
            episode.observe(second)
        server.start()
        with client.episode() as episode:
            assert episode.observe(second) == own(second)


def test_an_idle_session_is_kept_alive(tmp_path: Path) -> None:
    with (
        policies(tmp_path, "--idle-seconds", "0.3") as server,
        LiveClient(server.address),
    ):
        wait_for(lambda: [e["event"] for e in server.told].count("keep_alive") >= 3, "silence")


def test_nobody_there() -> None:
    with pytest.raises(ServerUnavailable, match="cannot be reached"):
        LiveClient("127.0.0.1:9", connection={"connect_seconds": 5})
    with pytest.raises(ServerUnavailable, match="cannot be reached"):
        LiveClient("127.0.0.1:9", "collect", *CARTPOLE)


# -- leaving nothing behind -----------------------------------------------------------------


def test_closing_and_forgetting_leave_no_threads(server: Policies) -> None:
    before = set(threading.enumerate())
    (observation,) = observations(1)
    client = LiveClient(server.address)
    episode = client.episode()
    episode.observe(observation)
    assert new_threads(before)
    client.close()
    client.close()
    with pytest.raises(ProtocolError, match="closed"):
        episode.observe(observation)
    with pytest.raises(ProtocolError, match="closed"):
        client.episode().observe(observation)
    wait_for(lambda: not new_threads(before), "threads")

    forgotten = LiveClient(server.address)
    forgotten.episode().observe(observation)
    del forgotten
    gc.collect()
    wait_for(lambda: not new_threads(before), "threads")
    assert [event["event"] for event in server.told].count("goodbye") == 2


def test_control_c_ends_the_episode_as_aborted(server: Policies, tmp_path: Path) -> None:
    server.hold()
    script = (
        "import numpy as np, farsim\n"
        f"with farsim.LiveClient('{server.address}', 'collect') as client:\n"
        "    with client.episode() as episode:\n"
        "        episode.log_action(np.zeros(4, np.float32), 0)\n"
        "        print('ready', flush=True)\n"
        "        episode.observe(np.zeros(4, np.float32))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    server.release()
    _, error = process.communicate(timeout=30)
    assert process.returncode != 0 and b"KeyboardInterrupt" in error
    wait_for(lambda: server.told[-1]["event"] == "goodbye", "the end")
    assert server.told[-2]["event"] == "end" and server.told[-2]["aborted"]


def test_importing_it_brings_no_ray_and_no_torch() -> None:
    script = (
        "import sys, farsim\n"
        "assert 'grpc' not in sys.modules\n"
        "farsim.LiveClient\n"
        "print(*sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    modules = {name.partition(".")[0] for name in found.stdout.split()}
    assert not modules & {"ray", "torch", "rich", "typer", "agent", "simserver", "pygame"}


def test_the_example_of_the_guide(server: Policies) -> None:
    text = (ROOT / "docs" / "live.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    exec(code.replace("127.0.0.1:50061", server.address).replace("0.2", "20"), {})
    rows = told(server, 1)
    assert len(rows) > 5 and rows[-1]["terminated"]
    assert [row["reward"] for row in rows] == [0, *[1] * (len(rows) - 1)]


def test_an_address_without_a_port_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(InvalidAddress, match="write host:port"):
        farsim.LiveClient("127.0.0.1")
