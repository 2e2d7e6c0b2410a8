"""Episodes as a sink hears of them: who observed what, what was done, and what came of it."""

import numpy as np
import pytest
from gymnasium import spaces

from agent.live.inference import End, PolicySpec
from farsim import tensors
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2 as sim
from tests.agent.live.linear import ACTIONS, OBSERVATIONS
from tests.agent.live.raw import action, agent, end, hello, observe, read, start

UP, DOWN = 1.0, -1.0
WALKER_SPACE = spaces.Box(-1.0, 1.0, (2,), np.float32)
PUSH = spaces.Box(-1.0, 1.0, (1,), np.float32)
TEAM = (
    PolicySpec("walker", WALKER_SPACE, PUSH, agents=("left", "right")),
    PolicySpec("talker", OBSERVATIONS, ACTIONS, agents=("talker",)),
)


def walker(seen, name, **fields):
    return agent(seen, name, WALKER_SPACE, action_space=PUSH, **fields)


def test_transitions_of_one_agent(served):
    stream = served.session(mode=pb.LIVE_MODE_COLLECT, client="test")
    stream.act(1, UP)
    stream.act(1, DOWN, reward=1.0)
    stream.finish(1, agent(0.5, reward=2.0, terminated=True))
    first, second, third = served.recorder.steps()
    assert first.previous is None and first.reward == 0
    assert (second.previous.observation == 1).all() and (second.observation == -1).all()
    assert second.previous.action == 2 and second.reward == 1
    assert second.previous.answer.version == 1 and second.previous.answer.extras == {"logp": -1.5}
    assert third.previous.action == 0 and third.reward == 2 and third.terminated
    assert not third.truncated and (third.observation == 0.5).all()
    names = [what for what, *_ in served.recorder.told]
    assert names == ["started", "stepped", "acted", "stepped", "acted", "stepped", "ended"]
    (live,) = {episode for _, episode, _ in served.recorder.told}
    assert (live.number, live.mode, live.client) == (1, pb.LIVE_MODE_COLLECT, "test")
    assert served.recorder.of("ended") == [End.ENDED]


def test_rewards_between_actions_add_up(served):
    stream = served.session()
    stream.act(1, UP)
    for reward in (0.25, 0.5):
        assert not stream.observe(1, agent(reward=reward)).agents
    stream.act(1, UP, reward=1.0)
    assert [step.reward for step in served.recorder.steps()] == [0, 1.75]


def test_agents_with_spaces_of_their_own_end_early_and_at_the_end(serve):
    served = serve(TEAM)
    stream = served.session()
    reply = stream.observe(1, walker(0.5, "left"), walker(-0.5, "right"), agent(UP, "talker"))
    assert [told.agent for told in reply.agents] == ["left", "right", "talker"]
    assert [told.policy for told in reply.agents] == ["walker", "walker", "talker"]
    assert [read(told.action, PUSH)[0] for told in reply.agents[:2]] == [0.5, -0.5]
    assert read(reply.agents[2].action) == [2]
    assert sorted(served.policy.batches) == [("talker", 1, 1), ("walker", 2, 1)]

    reply = stream.observe(
        1, walker(0.0, "left", reward=3.0, terminated=True), walker(1.0, "right", reward=1.0)
    )
    assert [told.agent for told in reply.agents] == ["right"]
    error = stream.refused(observe(1, walker(0.0, "left")))
    assert error.code == sim.ERROR_CODE_EPISODE_OVER
    assert stream.refused(end(1, walker(0.0, "left"))).code == sim.ERROR_CODE_EPISODE_OVER
    stream.finish(1, walker(0.25, "right", reward=2.0))

    left, right, talker = (served.recorder.steps(name) for name in ("left", "right", "talker"))
    assert [(step.reward, step.terminated, step.truncated) for step in left] == [
        (0, False, False),
        (3, True, False),
    ]
    assert [(step.reward, step.terminated, step.truncated) for step in right] == [
        (0, False, False),
        (1, False, False),
        (2, False, True),
    ]
    assert right[2].previous.action == 1.0
    assert talker[1].truncated and talker[1].observation is None
    assert talker[1].previous.action == 2


def test_agents_take_turns(serve):
    served = serve(TEAM)
    stream = served.session()
    for turn in range(4):
        mine, other = ("left", "right") if turn % 2 == 0 else ("right", "left")
        named = [walker(turn / 4, mine, reward=float(turn))]
        if turn:
            named.append(walker(None, other, reward=0.5))
        (told,) = stream.observe(1, *named).agents
        assert told.agent == mine
    assert [step.reward for step in served.recorder.steps("left")] == [0, 2.5]
    # The first half a point came before its first observation.
    assert [step.reward for step in served.recorder.steps("right")] == [1, 3.5]


def test_an_agent_that_nobody_acts_for_is_unknown(serve):
    served = serve(TEAM)
    stream = served.session()
    error = stream.refused(observe(1, agent(UP, "lefty")))
    assert error.code == sim.ERROR_CODE_UNKNOWN_POLICY and "'left'" in error.message
    assert not served.recorder.of("stepped")


def test_a_logged_action_is_recorded_and_none_is_asked_for(served):
    stream = served.session(mode=pb.LIVE_MODE_COLLECT)
    assert not stream.observe(1, agent(UP, logged=1)).agents
    assert stream.act(1, UP) == 2
    logged, own = served.recorder.decisions()
    assert logged.is_logged and logged.action == 1 and logged.answer is None
    assert not logged.is_on_policy and own.is_on_policy
    assert served.recorder.steps()[1].previous is logged
    assert len(served.policy.batches) == 1


def test_the_action_taken_replaces_the_one_answered(served):
    stream = served.session(mode=pb.LIVE_MODE_COLLECT)
    stream.act(1, UP)
    stream.act(1, UP, taken=0)
    stream.act(1, UP, taken=2)
    stream.finish(1, agent(UP, taken=1, truncated=True))
    previous = [step.previous for step in served.recorder.steps()[1:]]
    assert [one.action for one in previous] == [0, 2, 1]
    assert [one.is_overridden for one in previous] == [True, False, True]
    assert [one.answer.action for one in previous] == [2, 2, 2]


def test_going_on_before_the_action_is_there_needs_the_action_taken(served):
    stream = served.session()
    served.policy.gate.clear()
    stream.send(observe(1, agent(UP)))
    stream.send(observe(1, agent(DOWN)))
    stream.send(end(1, agent(DOWN, terminated=True)))
    stream.send(observe(1, agent(DOWN, taken=1, reward=4.0)))
    stream.send(end(1))
    stream.send(start(2))
    served.recorder.wait("started", 2)  # So everything before has been received.
    served.policy.gate.set()
    replies = [stream.receive() for _ in range(5)]
    assert action(replies[0].actions) == 2
    for refused in replies[1:3]:
        assert refused.error.code == sim.ERROR_CODE_PROTOCOL
        assert "action_taken" in refused.error.message
    assert action(replies[3].actions) == 0
    assert replies[4].HasField("done")
    step = served.recorder.steps()[1]
    assert step.previous.action == 1 and step.previous.is_overridden and step.reward == 4


def test_shadow_answers_at_once_and_records_what_the_policy_would_have_done(served):
    stream = served.session(mode=pb.LIVE_MODE_SHADOW)
    served.policy.gate.clear()
    assert not stream.observe(1, agent(UP, logged=1)).agents
    served.policy.gate.set()
    error = stream.refused(observe(1, agent(UP)))
    assert error.code == sim.ERROR_CODE_INVALID_ARGUMENT and "logged" in error.message
    assert not stream.observe(1, agent(DOWN, logged=2, reward=1.0)).agents
    served.recorder.wait("acted", 2)
    first, second = served.recorder.decisions()
    assert (first.action, first.answer.action, first.is_logged) == (1, 2, True)
    assert (second.action, second.answer.action) == (2, 0)


def test_an_aborted_episode_says_so(served):
    stream = served.session()
    stream.act(1, UP)
    stream.finish(1, aborted=True)
    assert served.recorder.of("ended") == [End.ABORTED]


MASKED = PolicySpec("masked", OBSERVATIONS, ACTIONS, has_action_mask=True)


def mask(*flags):
    return [tensors.pack(np.array([flags], np.bool_))]


def test_masks_bind_the_policy(serve):
    served = serve([MASKED])
    stream = served.session()
    assert stream.act(1, UP, action_masks=mask(True, True, False)) == 1
    assert stream.act(1, UP) == 2
    assert served.recorder.decisions()[0].action_masks[0].tolist() == [True, True, False]
    assert served.recorder.decisions()[1].action_masks[0].tolist() == [True, True, True]


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (mask(False, False, False), "nothing"),
        (mask(True, True), "[1, 3]"),
        (mask(True, True, True) * 2, "1 masks"),
        ([tensors.pack(np.ones((1, 3), np.int8))], "bool"),
    ],
)
def test_masks_that_do_not_fit_are_refused(serve, masks, says):
    stream = serve([MASKED]).session()
    error = stream.refused(observe(1, agent(UP, action_masks=masks)))
    assert error.code == sim.ERROR_CODE_INVALID_ARGUMENT and says in error.message
    assert stream.act(1, UP) == 2


def test_the_last_observation_needs_no_allowed_action(serve):
    stream = serve([MASKED]).session()
    stream.finish(1, agent(UP, terminated=True, action_masks=mask(False, False, False)))


def test_masks_of_a_multi_discrete_allow_something_in_every_part(serve):
    space = spaces.MultiDiscrete([2, 3])
    spec = PolicySpec("several", OBSERVATIONS, space, has_action_mask=True)
    stream = serve([spec]).session()
    error = stream.refused(
        observe(1, agent(UP, action_masks=mask(True, True, False, False, False)))
    )
    assert "nothing" in error.message


REMEMBERS = PolicySpec("default", OBSERVATIONS, ACTIONS, is_recurrent=True)


def test_memory_is_of_one_agent_in_one_episode(serve):
    served = serve([REMEMBERS])
    stream = served.session(1)
    stream.start(2)
    assert stream.act(1, 3.0) == 2
    assert stream.act(1, DOWN) == 2  # 3 - 1 is still up.
    assert stream.act(2, DOWN) == 0
    assert [query.state is None for query in served.policy.queries] == [True, False, True]
    one, again, other = (query.episode for query in served.policy.queries)
    assert one is again and one is not other


def test_what_was_seen_while_someone_else_acted_is_remembered(serve):
    served = serve([REMEMBERS])
    stream = served.session(mode=pb.LIVE_MODE_COLLECT)
    assert not stream.observe(1, agent(3.0, logged=0)).agents
    assert stream.act(1, DOWN) == 2


def test_a_failing_sink_hurts_nobody(serve, caplog):
    served = serve()

    def fail(*_):
        raise RuntimeError("this sink is broken")

    served.recorder.acted = fail
    stream = served.session()
    assert [stream.act(1, UP), stream.act(1, DOWN)] == [2, 0]
    assert "Recorder failed" in caplog.text


def group(observations=OBSERVATIONS, actions=ACTIONS, **fields):
    from farsim import spaces as wire

    return sim.Group(
        name="g",
        agents=["agent"],
        observation_space=wire.to_proto(observations),
        action_space=wire.to_proto(actions),
        **fields,
    )


def test_the_same_spaces_are_let_in(served):
    served.stream().hello(groups=[group()])


@pytest.mark.parametrize(
    ("there", "where"),
    [
        (
            group(spaces.Box(-10.0, 10.0, (5,), np.float32)),
            "observation_space shape (4,) here, (5,)",
        ),
        (group(actions=spaces.Discrete(4)), "action_space n 3 here, 4 there"),
        (group(has_action_mask=True), "without action masks here, with there"),
    ],
)
def test_other_spaces_are_refused_with_the_place(served, there, where):
    error = served.stream().refused(hello(groups=[there]))
    assert error.code == sim.ERROR_CODE_SPACE_MISMATCH and where in error.message
    assert served.server.counts["sessions"] == 0
