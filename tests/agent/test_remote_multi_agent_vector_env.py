"""Many environments with many agents: who is there, who acts, and what becomes of faults."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode

from agent.batch import GroupBatch
from agent.description import Group
from agent.last_seen import LastSeen
from agent.options import Each
from agent.remote_multi_agent_vector_env import MultiAgentStep, RemoteMultiAgentVectorEnv
from farsim.channel import ConnectionOptions
from farsim.errors import (
    EpisodeOver,
    InvalidAction,
    InvalidArgument,
    ProtocolError,
    ServerUnavailable,
    SimulatorFault,
)
from tests.proxy import Proxy
from tests.servers import Serving, serving
from tests.simulators.teams import BLUES, FAIL_ALONE, FAIL_TOGETHER, REDS, Expected

TEAMS = "tests.simulators.teams:Teams"
RELAY = "tests.simulators.relay:Relay"
TAG = "particle/simple_tag"
NAMES = (REDS, BLUES)

#: No action at all: whoever is not to act may have anything of the right shape.
IGNORED = -7

IMPATIENT = ConnectionOptions(
    resume_seconds=0.3, failover_seconds=0.3, recovery_seconds=1.5, heartbeat_seconds=0.2
)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(TEAMS, TAG, RELAY) as server:
        yield server


@pytest.fixture
def pair() -> Iterator[tuple[Serving, Serving]]:
    with serving(TEAMS) as one, serving(TEAMS) as two:
        yield one, two


def everyone(values: dict[str, Any], number: int) -> list[Any]:
    return [values[name] for name in NAMES[number]]


def flags(names: set[str], number: int) -> list[bool]:
    return [name in names for name in NAMES[number]]


def random_actions(rng: np.random.Generator, models: list[Expected]) -> list[np.ndarray]:
    """Actions 0 to 7 of who is to act."""
    actions = []
    for number, names in enumerate(NAMES):
        acting = np.array([flags(model.acting, number) for model in models]).reshape(-1)
        drawn = rng.integers(8, size=len(models) * len(names))
        actions.append(np.where(acting, drawn, IGNORED))
    return actions


def of_env(step: MultiAgentStep, number: int, env: int, field: str) -> list[Any]:
    values = getattr(step.groups[number], field)
    agents = len(NAMES[number])
    return values[env * agents : (env + 1) * agents].tolist()


def assert_began(step: MultiAgentStep, env: int, model: Expected, episode: int = 0) -> None:
    """An environment at the start of an episode."""
    assert step.started[env]
    for number, names in enumerate(NAMES):
        assert of_env(step, number, env, "acting") == flags(model.acting, number)
        observation = of_env(step, number, env, "observation")
        for place, name in enumerate(names):
            if name in model.present:
                assert observation[place][1:] == [10 + env, episode, 0, place, 0]


def assert_went_on(
    step: MultiAgentStep, env: int, model: Expected, told: tuple[dict[str, int], set[str]]
) -> None:
    rewards, ended = told
    for number, names in enumerate(NAMES):
        assert of_env(step, number, env, "present") == flags(set(rewards), number)
        assert of_env(step, number, env, "terminated") == flags(ended, number)
        assert of_env(step, number, env, "truncated") == [False] * len(names)
        assert of_env(step, number, env, "reward") == [float(rewards.get(n, 0)) for n in names]


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_agents_come_and_go(server: Serving, mode: AutoresetMode, turns: bool) -> None:
    """Over two sessions, with episodes of different length, as the simulator's rules say."""
    lengths = [3, 5, 4, 1, 6]
    env = RemoteMultiAgentVectorEnv(
        [server.address] * 2, TEAMS, len(lengths), {"turns": int(turns)}, mode
    )
    rng = np.random.default_rng(4)
    models = [Expected(length, turns) for length in lengths]
    episodes = [0] * len(lengths)
    over = [False] * len(lengths)
    step = env.reset(seed=10, options={"length": Each(lengths)})
    for number, model in enumerate(models):
        assert_began(step, number, model)
    for _ in range(40):
        actions = random_actions(rng, models)
        for number in range(len(models)):
            if over[number]:
                for action, names in zip(actions, NAMES, strict=True):
                    action[number * len(names) : (number + 1) * len(names)] = IGNORED
        step = env.step(actions)
        assert step.faults == {}
        finals: list[dict[int, list[Any]]] = [{}, {}]
        for number in range(len(models)):
            model = models[number]
            if over[number]:  # NEXT_STEP: this one began the next episode.
                over[number] = False
                episodes[number] += 1
                models[number] = model = Expected(lengths[number], turns)
                assert_went_on(step, number, model, (dict.fromkeys(model.present, 0), set()))
                assert_began(step, number, model, episodes[number])
                continue
            taken = {
                name: int(actions[team][number * len(names) + place])
                for team, names in enumerate(NAMES)
                for place, name in enumerate(names)
            }
            rewards, ended = model.advance(taken)
            sums = dict(model.sums)
            if model.present:
                assert_went_on(step, number, model, (rewards, ended))
                assert not step.started[number]
                for team in range(2):
                    assert of_env(step, team, number, "acting") == flags(model.acting, team)
            elif mode is AutoresetMode.SAME_STEP:
                for team, names in enumerate(NAMES):
                    for place, name in enumerate(names):
                        if name in ended:
                            row = number * len(names) + place
                            finals[team][row] = [model.step, place, sums[name]]
                episodes[number] += 1
                models[number] = model = Expected(lengths[number], turns)
                shown = {**rewards, **dict.fromkeys(model.present - set(rewards), 0)}
                assert_went_on(step, number, model, (shown, ended))
                assert_began(step, number, model, episodes[number])
            else:
                over[number] = True
                assert_went_on(step, number, model, (rewards, ended))
                for team in range(2):
                    assert not any(of_env(step, team, number, "acting"))
            if not step.started[number]:
                for team, names in enumerate(NAMES):
                    observation = of_env(step, team, number, "observation")
                    for place, name in enumerate(names):
                        if name in rewards:
                            assert observation[place][3:] == [model.step, place, sums[name]]
        for team, group in enumerate(step.groups):
            assert group.final_rows.tolist() == sorted(finals[team])
            if finals[team]:
                last = [row[3:] for row in group.final_observation.tolist()]
                assert last == [finals[team][row] for row in sorted(finals[team])]
        if mode is AutoresetMode.DISABLED and any(over):
            with pytest.raises(EpisodeOver):
                env.step(actions)
            step = env.reset(envs=np.array(over))
            assert step.started.tolist() == over
            for number, begins in enumerate(over):
                present = [of_env(step, team, number, "present") for team in range(2)]
                assert any(map(any, present)) == begins
                if begins:
                    episodes[number] += 1
                    models[number] = Expected(lengths[number], turns)
                    assert_began(step, number, models[number], episodes[number])
            over = [False] * len(lengths)
    assert min(episodes) >= 5
    env.close()


# -- faults -------------------------------------------------------------------------------

#: Who is in an episode after two steps, and who when it begins.
AFTER_TWO = {"red_0", "red_2", "blue_0", "blue_1"}
AT_FIRST = {"red_0", "red_1", "blue_0"}


@pytest.mark.parametrize("harm", ["alone", "together", "kill"])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_fault_ends_the_episodes_that_went_on(
    server: Serving, mode: AutoresetMode, harm: str
) -> None:
    """Of agents that had ended or not yet joined nothing is said, and other environments go on."""
    with serving(TEAMS) as other:
        env = RemoteMultiAgentVectorEnv(
            [other.address, server.address], TEAMS, 4, autoreset_mode=mode, connection=IMPATIENT
        )
        env.reset(seed=10)
        idle = [np.zeros(12, np.int64), np.zeros(8, np.int64)]
        env.step(idle)
        env.step([np.ones(12, np.int64), idle[1]])
        actions = [action.copy() for action in idle]
        if harm == "kill":
            other.kill()
        else:
            actions[0][3] = FAIL_ALONE if harm == "alone" else FAIL_TOGETHER  # Of environment 1.
        hit = [1] if harm == "alone" else [0, 1]
        step = env.step(actions)
        assert list(step.faults) == hit
        same = mode is AutoresetMode.SAME_STEP
        assert step.started.tolist() == [same and number in hit for number in range(4)]
        fine = Expected(5, turns=False)
        fine.step = 2
        told = fine.advance(dict.fromkeys(REDS + BLUES, 0))
        for number in range(4):
            if number not in hit:
                assert_went_on(step, number, fine, told)
                continue
            for team, names in enumerate(NAMES):
                shown = AFTER_TWO | AT_FIRST if same else AFTER_TWO
                assert of_env(step, team, number, "present") == flags(shown, team)
                assert of_env(step, team, number, "truncated") == flags(AFTER_TWO, team)
                assert not any(of_env(step, team, number, "terminated"))
                assert not any(of_env(step, team, number, "reward"))
                acting = AT_FIRST if same else set()
                assert of_env(step, team, number, "acting") == flags(acting, team)
                observation = of_env(step, team, number, "observation")
                for place, name in enumerate(names):
                    if name in acting:
                        assert observation[place][3:] == [0, place, 0]
                    elif name in AFTER_TWO and not same:
                        # As last seen: after two steps, in the second of which reds did 1.
                        assert observation[place][3:] == [2, place, 1 - team if place < 3 else 0]
        finals = [
            [env * len(names) + place for env in hit for place, name in enumerate(names)]
            for names in NAMES
        ]
        for team, (group, names) in enumerate(zip(step.groups, NAMES, strict=True)):
            ended = [row for row in finals[team] if names[row % len(names)] in AFTER_TWO]
            assert group.final_rows.tolist() == (ended if same else [])
            if same:
                assert group.final_observation[:, 3].tolist() == [2] * len(ended)
        if mode is AutoresetMode.DISABLED:
            with pytest.raises(EpisodeOver, match=r"\[1\]|\[0, 1\]"):
                env.step(idle)
            step = env.reset(envs=np.isin(np.arange(4), hit))
        else:
            step = env.step(idle)
        assert not step.faults
        for number in range(4):
            for team in range(2):
                observation = np.array(of_env(step, team, number, "observation"))
                steps = set(observation[of_env(step, team, number, "present"), 3].tolist())
                if number in hit:
                    assert steps == {1 if same else 0}
                elif mode is not AutoresetMode.DISABLED:
                    assert steps == {4}
        assert [address is not None for address in env.addresses] == [True] * 4
        env.close()


def test_reopened_environments_keep_options_and_have_new_seeds(
    pair: tuple[Serving, Serving],
) -> None:
    one, two = pair
    env = RemoteMultiAgentVectorEnv(
        one.address, TEAMS, 3, connection=IMPATIENT, fallback_addresses=two.address
    )
    first = env.reset(seed=5, options={"length": Each([4, 6, 8])})
    assert first.episode_options["length"].tolist() == [4, 6, 8]
    assert first.groups[0].observation[::3, 1].tolist() == [5, 6, 7]
    idle = [np.zeros(9, np.int64), np.zeros(6, np.int64)]
    env.step(idle)
    env.reset(envs=np.array([False, False, True]))
    one.kill()
    step = env.step(idle)
    # Only who is in the episode that the reset began.
    for number, ending in ((0, AT_FIRST | {"red_2"}), (2, AT_FIRST)):
        for team in range(2):
            assert of_env(step, team, number, "truncated") == flags(ending, team)
    assert env.addresses == [two.address] * 3
    assert list(step.faults) == [0, 1, 2]
    assert step.started.all()
    assert step.episode_options["length"].tolist() == [4, 6, 8]
    seeds = step.groups[0].observation[::3, 1].tolist()
    assert len(set(seeds) | {0, 1, 2, 5, 6, 7}) == 9
    env.close()


@pytest.mark.parametrize("shards", [1, 2])
def test_faults_in_a_reset_are_tried_again(server: Serving, shards: int) -> None:
    env = RemoteMultiAgentVectorEnv([server.address] * shards, TEAMS, 4)
    env.reset(seed=1)
    env.step([np.ones(12, np.int64), np.ones(8, np.int64)])
    step = env.reset(
        options={"reset_faults": Each([0, 3, 1, 0]), "length": Each([2, 4, 6, 8])},
        envs=np.array([False, True, True, True]),
    )
    assert not step.faults
    assert step.started.tolist() == [False, True, True, True]
    assert step.episode_options["length"].tolist()[1:] == [4, 6, 8]
    step = env.step([np.ones(12, np.int64), np.ones(8, np.int64)])
    reds = step.groups[0]
    assert reds.observation[reds.present, 3].tolist() == [2, 2, 2] + [1] * 9
    assert reds.observation[reds.present, 5].tolist() == [2, 2, 1] + [1, 1, 0] * 3
    with pytest.raises(SimulatorFault, match=r"environments \[1\] on .* could not be reset 4"):
        env.reset(options={"reset_faults": Each([0, 8, 0, 0])})
    env.close()


def test_nobody_left(pair: tuple[Serving, Serving]) -> None:
    one, _ = pair
    actions = [np.zeros(6, np.int64), np.zeros(4, np.int64)]
    env = RemoteMultiAgentVectorEnv(one.address, TEAMS, 2, connection=IMPATIENT)
    env.reset()
    one.kill()
    with pytest.raises(ServerUnavailable, match=one.address):
        env.step(actions)
    with pytest.raises(ProtocolError, match=r"call reset\(\) first"):
        env.step(actions)
    with serving(TEAMS, address=one.address):
        assert env.reset().started.all()
        assert not env.step(actions).faults
        env.close()


def test_no_wrong_transition_whatever_fails() -> None:
    """Simulators fail, connections are cut and servers killed, while agents come and go.

    The sum of an agent's actions in its observation shows any step that was lost or done twice.
    """
    rng = np.random.default_rng(9)
    lengths = [3, 5, 4, 9, 6, 7]
    faults = 0
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(TEAMS)) for _ in range(2)]
        proxies = [stack.enter_context(Proxy(server.address)) for server in servers]
        env = RemoteMultiAgentVectorEnv(
            [proxy.address for proxy in proxies],
            TEAMS,
            len(lengths),
            {"turns": 1},
        )
        stack.callback(env.close)
        env.reset(seed=1, options={"length": Each(lengths)})
        models = [Expected(length, turns=True) for length in lengths]
        #: Who ended in the last step of an episode: when the server is lost right after it, nothing
        #: has told the client whether they are in the next one, waiting for their turn.
        left: list[set[str]] = [set() for _ in lengths]
        for number in range(150):
            actions = random_actions(rng, models)
            harmed: set[int] = set()
            killed: set[int] = set()
            if number % 5 == 0:
                row = int(rng.integers(len(lengths)))
                team = 0 if "red_0" in models[row].acting else 1
                together = rng.random() < 0.3
                actions[team][row * len(NAMES[team])] = FAIL_TOGETHER if together else FAIL_ALONE
                harmed = set(range(row // 3 * 3, row // 3 * 3 + 3)) if together else {row}
            if number % 7 == 0:
                proxies[int(rng.integers(2))].cut()
            if number in (40, 90):
                which = number // 90
                servers[which].kill()
                servers[which] = stack.enter_context(serving(TEAMS, address=servers[which].address))
                killed = set(range(which * 3, which * 3 + 3))
            harmed |= killed
            step = env.step(actions)
            assert set(step.faults) == harmed, number
            faults += len(harmed)
            for place, model in enumerate(models):
                if place in harmed:
                    assert step.started[place]
                    truncated = [of_env(step, team, place, "truncated") for team in range(2)]
                    ending = model.present | (left[place] if place in killed else set())
                    assert truncated == [flags(ending, team) for team in range(2)]
                    left[place] = ending
                else:
                    taken = {
                        name: int(actions[team][place * len(names) + agent])
                        for team, names in enumerate(NAMES)
                        for agent, name in enumerate(names)
                    }
                    told = model.advance(taken)
                    left[place] = told[1]
                    assert step.started[place] == (not model.present)
                    if model.present:
                        assert_went_on(step, place, model, told)
                if step.started[place]:
                    models[place] = model = Expected(lengths[place], turns=True)
                else:
                    left[place] = set()
                for team, names in enumerate(NAMES):
                    assert of_env(step, team, place, "acting") == flags(model.acting, team)
                    observation = of_env(step, team, place, "observation")
                    for agent, name in enumerate(names):
                        if name in model.present:
                            assert observation[agent][3:] == [model.step, agent, model.sums[name]]
    assert faults > 30


# -- the rest of the interface ------------------------------------------------------------


def test_particle_is_the_same_however_it_is_spread(server: Serving) -> None:
    envs = [
        RemoteMultiAgentVectorEnv([server.address] * shards, TAG, 3, {"max_cycles": 5})
        for shards in (1, 2)
    ]
    assert envs[0].agents == ["adversary_0", "adversary_1", "adversary_2", "agent_0"]
    assert [group.name for group in envs[0].groups] == ["adversaries", "agents"]
    assert envs[0].max_episode_steps == 5
    rng = np.random.default_rng(1)
    steps = [env.reset(seed=3) for env in envs]
    for number in range(12):
        for one, other in zip(steps[0].groups, steps[1].groups, strict=True):
            for field in ("observation", "reward", "truncated", "present", "acting", "final_rows"):
                np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
            assert one.present.all() and one.acting.all()
            assert one.truncated.all() == (number in (5, 10))
            assert one.infos.keys() == other.infos.keys()
            for name, (values, rows) in one.infos.items():
                np.testing.assert_array_equal(values, other.infos[name][0])
                np.testing.assert_array_equal(rows, other.infos[name][1])
            if number in (5, 10):
                np.testing.assert_array_equal(one.final_observation, other.final_observation)
                assert not np.array_equal(one.final_observation, one.observation)
        actions = [rng.integers(5, size=9), rng.integers(5, size=3)]
        steps = [env.step(actions) for env in envs]
    group = steps[0].groups[0]
    for array in (group.observation, group.reward, group.acting, group.infos["collisions"][0]):
        array[:] = 0  # Fresh, and the environment does not mind.
    assert envs[0].step(actions).groups[0].acting.all()
    for env in envs:
        env.close()


def test_masks_and_rendering(server: Serving) -> None:
    env = RemoteMultiAgentVectorEnv(
        [server.address] * 2, TEAMS, 2, {"masks": 1}, render_mode="rgb_array"
    )
    env.reset()
    step = env.step([np.zeros(6, np.int64), np.zeros(4, np.int64)])
    for group in step.groups:
        (mask,) = group.action_masks
        assert mask.shape == (len(group.present), 10)
        assert mask[group.present].argmin(axis=1).tolist() == [1] * group.present.sum()
    assert [frame.max() for frame in env.render() or ()] == [1, 1]
    env.close()
    with RemoteMultiAgentVectorEnv(server.address, TEAMS) as env:
        assert env.render() is None


def test_bad_calls(server: Serving) -> None:
    env = RemoteMultiAgentVectorEnv([server.address] * 2, TEAMS, 2, {"turns": 1})
    reds, blues = np.zeros(6, np.int64), np.full(4, IGNORED)
    with pytest.raises(ProtocolError, match=r"reset\(\) comes before"):
        env.step([reds, blues])
    with pytest.raises(ProtocolError, match="the first reset is of all"):
        env.reset(envs=np.array([True, False]))
    env.reset()
    outside = reds.copy()
    outside[3] = 10
    wrong: list[tuple[list[Any], str]] = [
        ([reds], "1 groups; this simulator has 2: 'reds', 'blues'"),
        ([reds[:5], blues], "'reds'"),
        ([reds.astype(np.float64), blues], "'reds'"),
        ([outside, blues], "'red_0' in environment 1: 10 is not from"),
    ]
    for actions, message in wrong:
        with pytest.raises(InvalidAction, match=message):
            env.step(actions)
    with pytest.raises(InvalidArgument):
        env.reset(envs=np.zeros(2, np.bool_))
    env.step([reds, blues])
    with pytest.raises(TypeError, match="can not be pickled"):
        pickle.dumps(env)
    assert repr(env) == f"RemoteMultiAgentVectorEnv({TEAMS}, num_envs=2)"
    env.close()
    env.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        env.step([reds, blues])


def test_one_agent_is_a_group_of_one(shared_server: Serving) -> None:
    env = RemoteMultiAgentVectorEnv(shared_server.address, "adder", 3)
    step = env.reset(seed=1)
    before = step.groups[0].observation["value"]
    step = env.step([{"addend": np.array([1, 2, 3])}])
    assert step.groups[0].observation["value"].tolist() == (before + np.array([1, 2, 3])).tolist()
    env.close()


def test_rows_are_named_only_where_somebody_in_an_episode_waits() -> None:
    """So that servers that know nothing of turns need not understand rows."""
    space = Box(0, 1, ())
    seen = LastSeen(Group("pair", ("a", "b"), space, space, False), 2)
    envs = np.arange(2)

    def note(ended: list[bool], acting: list[int]) -> None:
        flags = np.array(ended)
        rows, zeros = np.arange(4), np.zeros(4)
        part = GroupBatch(rows, zeros, zeros, flags, ~flags & False, acting=np.array(acting))
        seen.note(part, 0, envs, np.zeros(0, np.int64))

    def idle() -> np.ndarray:
        return ~seen.going_on.reshape(2, 2).any(axis=1)

    note([False] * 4, [0, 1, 2, 3])
    assert seen.to_send(envs, idle) is None
    note([True, True, False, False], [2, 3])
    assert seen.to_send(envs, idle) is None  # Environment 0 is over, and its actions are ignored.
    note([True, True, False, False], [2])
    named = seen.to_send(envs, idle)
    assert named is not None and named.tolist() == [2]
