"""RLlib's old surface."""

from __future__ import annotations

from pathlib import Path

import pytest

from farsim.errors import InvalidArgument
from farsim.live import PolicyClient
from tests.farsim.live import test_multi_agent
from tests.farsim.live.policies import policies
from tests.farsim.live.test_client import observations, own


def test_an_episode_of_the_old_kind(tmp_path: Path) -> None:
    seen = observations(4)
    with (
        policies(tmp_path) as server,
        PolicyClient(f"http://{server.address}", inference_mode="remote") as client,
    ):
        one = client.start_episode()
        two = client.start_episode("mine", training_enabled=False)
        assert two == "mine"
        for observation in seen[:3]:
            assert client.get_action(one, observation) == own(observation)
            client.log_returns(one, 1.0, info={"seen": True})
            client.log_returns(one, 0.5)
        client.log_action(two, seen[0], 1)
        client.end_episode(one, seen[3])
        client.log_returns(two, 2.0)
        client.end_episode(two, seen[3])
        ends = [event for event in server.told if event["event"] == "end"]
        assert [end["agents"][0]["reward"] for end in ends] == [1.5, 2]
        assert all(end["agents"][0]["terminated"] for end in ends)
        assert len({end["session"] for end in ends}) == 2
        with pytest.raises(InvalidArgument, match="start_episode"):
            client.get_action(one, seen[0])
        client.start_episode("mine")
        with pytest.raises(InvalidArgument, match="runs already"):
            client.start_episode("mine")
    with pytest.raises(InvalidArgument, match="ONNX"):
        PolicyClient(server.address, inference_mode="local")


def test_several_agents_of_the_old_kind(tmp_path: Path) -> None:
    see = test_multi_agent.see
    with (
        policies(tmp_path, "--spaces", "pair") as server,
        PolicyClient(server.address) as client,
    ):
        name = client.start_episode()
        both = {agent: see(agent, 0) for agent in ("seeker", "hider")}
        assert set(client.get_action(name, both)) == {"seeker", "hider"}
        client.log_returns(name, {"hider": 1, "seeker": 2}, multiagent_done_dict={"hider": True})
        assert set(client.get_action(name, both)) == {"seeker"}
        client.log_returns(name, {"seeker": 3})
        client.end_episode(name, {"seeker": both["seeker"]})
        rows = test_multi_agent.told(server)
    assert [(row["agent"], row["reward"], row.get("terminated")) for row in rows] == [
        ("seeker", 0, None),
        ("hider", 0, None),
        ("seeker", 2, None),
        ("hider", 1, True),
        ("seeker", 3, True),
    ]
