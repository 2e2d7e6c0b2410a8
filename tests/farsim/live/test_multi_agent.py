"""Several agents with different spaces: turns, early ends, rewards in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from farsim.errors import DeadlineExceeded, InvalidArgument, SpaceMismatch
from farsim.live import Group, LiveClient
from tests.farsim.live.policies import Policies, impatient, policies
from tests.farsim.live.reference import HIDER, SEEKER, choose, numbers


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policies]:
    with policies(tmp_path_factory.mktemp("server"), "--spaces", "pair") as running:
        yield running


@pytest.fixture
def server(running: Policies) -> Iterator[Policies]:
    with running.anew() as server:
        yield server


def see(agent: str, step: int) -> Any:
    rng = np.random.default_rng(step)
    if agent == "seeker":
        return rng.uniform(-10, 10, 3).astype(np.float32)
    return {"place": np.int64(rng.integers(9)), "hidden": np.float32(rng.random())}


def own(agent: str, observation: Any) -> Any:
    return choose((SEEKER if agent == "seeker" else HIDER)[1], observation, [])


def told(server: Policies, number: int = 1) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in agent.items() if value is not None and value is not False}
        for event in server.episode(number)
        for agent in event.get("agents", ())
    ]


def test_turns_and_rewards_and_ends_at_different_times(server: Policies) -> None:
    recorded = []

    def note(agent: str, observation: Any, reward: float, action: Any = None, **more: Any) -> None:
        seen = [numbers(observation)] if observation is not None else []
        entry = {"agent": agent, "observation": seen, "reward": reward, **more}
        recorded.append(entry if action is None else {**entry, "action": numbers(action)})

    with LiveClient(server.address, "collect") as client, client.episode() as episode:
        # Together, then in turns; the seeker earns while it is not its turn.
        seen = {agent: see(agent, 0) for agent in ("seeker", "hider")}
        actions = episode.observe(seen)
        assert list(actions) == ["seeker", "hider"]
        for agent, action in actions.items():
            assert np.array_equal(action, own(agent, seen[agent]))
            note(agent, seen[agent], 0.0, action)
        hider = see("hider", 1)
        (action,) = episode.observe(
            {"hider": hider}, rewards={"seeker": 0.5, "hider": 1.0}
        ).values()
        note("hider", hider, 1.0, action)
        seeker = see("seeker", 2)
        actions = episode.observe({"seeker": seeker}, {"seeker": 0.25, "hider": 2.0})
        assert actions["seeker"].flags.writeable
        note("seeker", seeker, 0.75, actions["seeker"])
        # The hider's part ends, the seeker's goes on.
        episode.reward({"hider": 0.125})
        hider, seeker = see("hider", 3), see("seeker", 3)
        actions = episode.observe(
            {"hider": hider, "seeker": seeker}, rewards={"seeker": 1.0}, terminateds={"hider": True}
        )
        assert list(actions) == ["seeker"]
        note("hider", hider, 2.125, terminated=True)
        note("seeker", seeker, 1.0, actions["seeker"])
        with pytest.raises(InvalidArgument, match="'hider' in this episode has ended"):
            episode.observe({"hider": hider})
        seeker = see("seeker", 4)
        assert (
            episode.observe({"seeker": seeker}, {"seeker": 3.0}, truncateds={"__all__": True}) == {}
        )
        note("seeker", seeker, 3.0, truncated=True)
        assert episode.is_over
    assert json.dumps(told(server), sort_keys=True) == json.dumps(recorded, sort_keys=True)


def test_actions_logged_for_several(server: Policies) -> None:
    seeker, hider = see("seeker", 0), see("hider", 0)
    with LiveClient(server.address, "shadow") as client, client.episode() as episode:
        episode.log_action(
            {"seeker": seeker, "hider": hider}, {"seeker": [0.5, -0.5], "hider": 4}, {"hider": 1}
        )
        with pytest.raises(InvalidArgument, match=r"no action is logged for \['hider'\]"):
            episode.log_action({"hider": hider}, {})
        episode.reward({"seeker": 2})
        episode.end({"hider": hider}, terminated=True)
    entries = told(server)
    assert [entry.get("logged_action") for entry in entries] == [[0.5, -0.5], 4, None, None]
    # What was earned by an agent that is not named at the end goes with it all the same.
    assert [(entry["agent"], entry["reward"], entry["observation"] == []) for entry in entries] == [
        ("seeker", 0, False),
        ("hider", 1, False),
        ("hider", 0, False),
        ("seeker", 2, True),
    ]


def test_fallbacks_of_several(server: Policies) -> None:
    def act(agent: str, observation: Any) -> Any:
        return {"seeker": np.ones(2), "hider": 2}[agent]

    seen = {agent: see(agent, 0) for agent in ("seeker", "hider")}
    with LiveClient(server.address, deadline=60, fallback=act) as client:
        server.hold()
        with client.episode() as episode:
            with impatient(client):
                actions = episode.observe(seen)
            assert (actions["seeker"].tolist(), actions["hider"]) == ([1, 1], 2)
            server.release()
            episode.log_action({"hider": seen["hider"]}, {"hider": 3})
        with pytest.raises(InvalidArgument, match="no agent 'third'"), client.episode() as episode:
            episode.observe({"third": 0})
    assert [entry.get("action_taken") for entry in told(server)] == [None, None, 2]


def test_who_owes_an_action(server: Policies) -> None:
    seen = {agent: see(agent, 0) for agent in ("seeker", "hider")}
    with LiveClient(server.address) as client, client.episode() as episode:
        episode.observe({"hider": seen["hider"]})
        server.hold()
        with impatient(client), pytest.raises(DeadlineExceeded):
            episode.observe({"seeker": seen["seeker"]})
        server.release()
        with pytest.raises(InvalidArgument, match="for agent 'seeker' came too late"):
            episode.observe(seen)
        episode.observe({"hider": seen["hider"]})
        episode.observe(seen, action_taken={"seeker": [0, 0]})
    assert [entry.get("action_taken") for entry in told(server)] == [None, None, None, [0, 0], None]


def test_groups_are_told_and_compared(server: Policies) -> None:
    groups = [
        Group(*SEEKER, agents=("seeker",), name="one"),
        Group(*HIDER, agents=("hider",), name="two"),
    ]
    with LiveClient(server.address, groups=groups) as client, client.episode() as episode:
        assert list(episode.observe({"hider": see("hider", 0)})) == ["hider"]
        with pytest.raises(InvalidArgument, match="a mapping by agent"):
            episode.observe(see("seeker", 0))
        with pytest.raises(InvalidArgument, match="'rewards'"):
            episode.observe({"hider": see("hider", 0)}, 1.0)
        with pytest.raises(InvalidArgument, match="without its last observation"):
            episode.observe({}, terminateds={"hider": True})
    swapped = [Group(*HIDER, agents=("seeker",)), Group(*SEEKER, agents=("hider",), name="b")]
    with pytest.raises(SpaceMismatch):
        LiveClient(server.address, groups=swapped)
    with pytest.raises(InvalidArgument, match="every agent once"):
        LiveClient(server.address, groups=[groups[0], groups[0]])


def test_the_end_of_all(server: Policies) -> None:
    seen = {agent: see(agent, 0) for agent in ("seeker", "hider")}
    with LiveClient(server.address, "collect") as client:
        with client.episode() as episode:
            episode.observe(seen)
            episode.observe(seen, truncateds={"hider": True}, terminateds={"__all__": True})
        with client.episode() as episode:
            episode.observe(seen)
            episode.end(seen, rewards={"hider": 1}, terminateds={"hider": True})
    ends = [event["agents"] for event in server.told if event["event"] == "end"]
    assert [[(row["terminated"], row["truncated"]) for row in rows] for rows in ends] == [
        [(True, False), (False, True)],
        [(False, True), (True, False)],
    ]
