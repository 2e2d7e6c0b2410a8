"""Sessions: numbers, resuming, leases, bounds, and errors that leave everything as it was."""

import threading
from collections.abc import Callable

import grpc
import numpy as np
import pytest

from agent.live.inference import End
from agent.live.limits import Limits
from farsim import tensors
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2 as sim
from tests.agent.live.raw import (
    action,
    agent,
    end,
    goodbye,
    hello,
    keep_alive,
    observe,
    resume,
    start,
)

UP, DOWN = 1.0, -1.0


def test_a_session_from_hello_to_farewell(served):
    stream = served.stream()
    welcome = stream.hello(client="test 1")
    assert welcome.mode == pb.LIVE_MODE_SERVE and welcome.policy_version == 1
    assert welcome.session_token and welcome.max_in_flight == Limits().max_in_flight
    stream.start(7)
    assert stream.act(7, UP) == 2
    assert stream.act(7, DOWN, reward=0.5) == 0
    stream.finish(7, agent(UP, reward=1.0, terminated=True))
    assert stream.ask(goodbye()).HasField("farewell")
    assert stream.status() is grpc.StatusCode.OK
    assert served.server.counts == {"sessions": 0, "episodes": 0, "streams": 0}


def test_replies_carry_the_numbers_of_their_events_in_order_although_answers_take_time(served):
    stream = served.session(1)
    stream.start(2)
    served.policy.gate.clear()
    for event in (observe(1, agent(UP)), observe(2, agent(DOWN)), keep_alive(), start(3)):
        stream.send(event)
    served.policy.gate.set()
    replies = [stream.receive() for _ in range(4)]
    assert [reply.sequence for reply in replies] == [4, 5, 6, 7]
    assert [reply.WhichOneof("reply") for reply in replies] == [
        "actions",
        "actions",
        "done",
        "done",
    ]
    assert [action(reply.actions) for reply in replies[:2]] == [2, 0]


def test_a_wrong_number_is_refused_and_the_session_goes_on(served):
    stream = served.session()
    for sequence in (9, 2):
        event = observe(1, agent(UP))
        event.sequence = sequence
        assert stream.refused(event).code == sim.ERROR_CODE_SEQUENCE
    assert stream.act(1, UP) == 2
    assert len(served.recorder.decisions()) == 1


def test_an_event_repeated_after_a_break_is_answered_from_memory(served):
    stream = served.session()
    first = stream.send(observe(1, agent(UP)))
    answer = stream.receive()
    stream.cut()
    other = served.stream(stream.next_number)
    reply = other.ask(resume(stream.token))
    assert reply.sequence == 0 and reply.resumed.last_sequence == 3
    assert other.ask(first) == answer
    changed = observe(1, agent(DOWN))
    changed.sequence = 3
    assert other.refused(changed).code == sim.ERROR_CODE_SEQUENCE
    assert other.act(1, DOWN) == 0
    assert len(served.recorder.decisions()) == 2


def test_an_event_whose_answer_is_not_there_yet_is_carried_out_once_too(served):
    stream = served.session()
    served.policy.gate.clear()
    first = stream.send(observe(1, agent(UP)))
    assert served.policy.asked.wait(30)
    stream.cut()
    other = served.stream(stream.next_number)
    assert other.ask(resume(stream.token)).resumed.last_sequence == 3
    other.send(first)
    served.policy.gate.set()
    reply = other.receive()
    assert reply.sequence == 3 and action(reply.actions) == 2
    assert len(served.recorder.decisions()) == 1


def test_what_is_not_answered_yet_is_not_forgotten(serve):
    served = serve(limits=Limits(max_in_flight=2))
    stream = served.session(1)
    stream.start(2)
    served.policy.gate.clear()
    first = stream.send(observe(1, agent(UP)))
    stream.send(observe(2, agent(UP)))
    served.let_it_read()
    stream.cut()
    other = served.stream(stream.next_number)
    assert other.ask(resume(stream.token)).resumed.last_sequence == 5
    for _ in range(2):
        assert other.ask(keep_alive()).HasField("done")
    other.send(first)
    served.policy.gate.set()
    assert action(other.receive().actions) == 2


def test_whoever_resumes_takes_over_and_the_old_stream_is_aborted(served):
    stream = served.session()
    other = served.stream(stream.next_number)
    other.ask(resume(stream.token))
    assert stream.status() is grpc.StatusCode.ABORTED
    assert other.act(1, UP) == 2
    assert served.server.counts["sessions"] == 1


def test_replies_are_forgotten_after_as_many_as_may_be_in_flight(serve):
    served = serve(limits=Limits(max_in_flight=2))
    stream = served.stream()
    greeting = stream.send(hello())
    stream.receive()
    for _ in range(2):
        stream.ask(keep_alive())
    error = stream.refused(greeting)
    assert error.code == sim.ERROR_CODE_SEQUENCE and "forgotten" in error.message


def test_a_lease_runs_out_and_its_episodes_end(served):
    stream = served.session(lease_seconds=0.05)
    stream.act(1, UP)
    stream.cut()
    assert served.recorder.wait("ended") == [End.LOST]
    last = served.recorder.steps()[-1]
    assert last.truncated and last.observation is None and last.previous.action == 2
    assert served.server.counts["episodes"] == 0
    error = served.stream().refused(resume(stream.token))
    assert error.code == sim.ERROR_CODE_SESSION_LOST


def test_a_silent_session_is_closed(serve):
    served = serve(limits=Limits(idle_seconds=0.2))
    stream = served.session()
    assert stream.status() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert served.recorder.wait("ended") == [End.LOST]


def test_a_session_that_waits_for_an_answer_is_not_silent(serve):
    served = serve(limits=Limits(idle_seconds=0.2))
    stream = served.session()
    served.policy.gate.clear()
    stream.send(observe(1, agent(UP)))
    bystander = served.session()
    assert bystander.status() is grpc.StatusCode.DEADLINE_EXCEEDED
    served.policy.gate.set()
    assert stream.receive().HasField("actions")


def test_a_stream_without_a_session_is_ended(serve):
    stream = serve(limits=Limits(open_seconds=0.1)).stream()
    stream.refused(keep_alive())
    assert stream.status() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_goodbye_truncates_what_runs_after_all_that_came_before(served):
    stream = served.session()
    served.policy.gate.clear()
    stream.send(observe(1, agent(UP)))
    stream.send(goodbye())
    served.let_it_read()
    served.policy.gate.set()
    assert stream.receive().HasField("actions")
    assert stream.receive().HasField("farewell")
    assert stream.status() is grpc.StatusCode.OK
    assert served.recorder.of("ended") == [End.GOODBYE]
    assert served.recorder.steps()[-1].truncated


def test_draining_answers_what_is_there_and_ends(served):
    stream = served.session()
    served.policy.gate.clear()
    stream.send(observe(1, agent(UP)))
    assert served.policy.asked.wait(30)
    closing = in_background(served.server.close)
    notice = stream.receive()
    assert notice.sequence == 0 and notice.draining.grace_seconds == 10
    stream.send(keep_alive())
    served.policy.gate.set()
    assert stream.receive().HasField("actions")
    assert stream.receive().error.code == sim.ERROR_CODE_DRAINING
    assert stream.status() is grpc.StatusCode.OK
    closing.join(30)
    assert not closing.is_alive()
    assert served.recorder.of("ended") == [End.STOPPED]


@pytest.mark.parametrize(
    ("limits", "event"),
    [
        (Limits(max_session_episodes=2), start(3)),
        (Limits(max_episodes=2), start(3)),
        (Limits(max_agents=1), observe(1, agent(UP, "a"), agent(UP, "b"))),
    ],
    ids=["session", "server", "agents"],
)
def test_bounds(serve, limits, event):
    stream = serve(limits=limits).session(1)
    stream.start(2)
    copy = pb.LiveEvent()
    copy.CopyFrom(event)
    assert stream.refused(copy).code == sim.ERROR_CODE_LIMIT
    stream.finish(2)
    stream.start(4)
    assert stream.act(1, UP) == 2


def test_sessions_are_bounded_and_make_room_when_they_go(serve):
    served = serve(limits=Limits(max_sessions=1))
    first = served.session()
    second = served.stream()
    assert second.refused(hello()).code == sim.ERROR_CODE_LIMIT
    first.ask(goodbye())
    second.next_number = 1
    second.hello()


def test_a_message_over_the_size_ends_the_stream(serve):
    stream = serve(limits=Limits(max_message_bytes=70000)).session()
    stream.send(b"\0" * 80000)
    assert stream.status() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_bytes_that_are_no_event_end_the_stream_but_not_the_session(served):
    stream = served.session()
    stream.send(b"\xff\xff\xff")
    assert stream.status() is grpc.StatusCode.INVALID_ARGUMENT
    other = served.stream(3)
    assert other.ask(resume(stream.token)).HasField("resumed")
    assert other.act(1, UP) == 2


def test_events_beyond_the_bound_wait_in_the_network(serve):
    served = serve(limits=Limits(max_in_flight=3))
    stream = served.session(1)
    served.policy.gate.clear()
    for number in range(2, 12):
        stream.send(start(number))
        stream.send(observe(number, agent(UP)))
    served.let_it_read()
    served.policy.gate.set()
    assert [stream.receive().sequence for _ in range(20)] == list(range(3, 23))
    told = [what for what, *_ in served.recorder.told]
    assert told[: told.index("acted")].count("started") <= 3


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (keep_alive(), sim.ERROR_CODE_PROTOCOL),
        (hello(protocol_version="2.0"), sim.ERROR_CODE_PROTOCOL_VERSION),
        (hello(mode=9), sim.ERROR_CODE_UNSUPPORTED),
        (hello(policy_version=5), sim.ERROR_CODE_UNKNOWN_POLICY),
        (hello(lease_seconds=-1), sim.ERROR_CODE_INVALID_ARGUMENT),
        (hello(groups=[sim.Group(name="g", agents=["a", "a"])]), sim.ERROR_CODE_INVALID_ARGUMENT),
        (hello(groups=[sim.Group(name="g", agents=["a"])]), sim.ERROR_CODE_INVALID_ARGUMENT),
        (resume("nonsense"), sim.ERROR_CODE_SESSION_LOST),
    ],
)
def test_streams_that_begin_badly_may_begin_again(served, event, code):
    stream = served.stream()
    copy = pb.LiveEvent()
    copy.CopyFrom(event)
    assert stream.refused(copy).code == code
    stream.next_number = 1
    stream.hello()


def test_collect_is_only_for_servers_that_learn(serve):
    stream = serve(learns=False).stream()
    error = stream.refused(hello(mode=pb.LIVE_MODE_COLLECT))
    assert (
        error.code == sim.ERROR_CODE_UNSUPPORTED and "serve, shadow, not collect" in error.message
    )


def wrong_dtype() -> pb.AgentObservation:
    message = agent(UP)
    message.observation.tensors[0].CopyFrom(tensors.pack(np.ones((1, 4), np.float64)))
    return message


def wrong_bytes() -> pb.AgentObservation:
    message = agent(UP)
    message.observation.tensors[0].data = b"123"
    return message


@pytest.mark.parametrize(
    ("event", "code", "says"),
    [
        (observe(1, wrong_dtype()), sim.ERROR_CODE_INVALID_OBSERVATION, "float32"),
        (observe(1, wrong_bytes()), sim.ERROR_CODE_INVALID_TENSOR, "bytes"),
        (observe(1, agent(np.nan)), sim.ERROR_CODE_INVALID_OBSERVATION, "nan"),
        (observe(1, agent(11.0)), sim.ERROR_CODE_INVALID_OBSERVATION, "11"),
        (observe(1, agent(UP), agent(UP)), sim.ERROR_CODE_INVALID_ARGUMENT, "twice"),
        (observe(1, agent(UP, reward=np.nan)), sim.ERROR_CODE_INVALID_ARGUMENT, "reward"),
        (observe(1, agent(UP, logged=7)), sim.ERROR_CODE_INVALID_ACTION, "7"),
        (observe(1, agent(logged=1)), sim.ERROR_CODE_INVALID_ARGUMENT, "observation"),
        (observe(1, agent(UP, taken=1)), sim.ERROR_CODE_PROTOCOL, "before"),
        (observe(1, agent(UP, logged=1, terminated=True)), sim.ERROR_CODE_INVALID_ARGUMENT, "none"),
        (
            observe(1, agent(UP, action_masks=[tensors.pack(np.ones((1, 3), np.bool_))])),
            sim.ERROR_CODE_INVALID_ARGUMENT,
            "masks",
        ),
        (observe(2, agent(UP)), sim.ERROR_CODE_PROTOCOL, "start"),
        (start(1), sim.ERROR_CODE_INVALID_ARGUMENT, "episode 1"),
        (hello(), sim.ERROR_CODE_PROTOCOL, "open"),
        (pb.LiveEvent(), sim.ERROR_CODE_PROTOCOL, "content"),
        (end(1, agent(np.nan)), sim.ERROR_CODE_INVALID_OBSERVATION, "nan"),
    ],
)
def test_an_event_that_cannot_be_carried_out_changes_nothing(served, event, code, says):
    stream = served.session()
    stream.send(observe(1, agent(DOWN, "other")))
    stream.receive()
    before = list(served.recorder.told)
    copy = pb.LiveEvent()
    copy.CopyFrom(event)
    error = stream.refused(copy)
    assert (error.code, says in error.message) == (code, True), error
    assert served.recorder.told == before
    assert stream.act(1, UP) == 2
    assert served.recorder.steps()[0].reward == 0


def test_an_episode_that_is_over_stays_over(served):
    stream = served.session()
    stream.act(1, UP)
    stream.finish(1)
    for event in (end(1), observe(1, agent(UP))):
        assert stream.refused(event).code == sim.ERROR_CODE_EPISODE_OVER
    assert stream.refused(start(1)).code == sim.ERROR_CODE_INVALID_ARGUMENT


def test_an_answer_that_fails_leaves_the_episode_and_the_others_as_they_were(served):
    stream = served.session(1)
    stream.start(2)
    served.policy.gate.clear()
    blocker = served.session()
    blocker.send(observe(1, agent(UP)))
    assert served.policy.asked.wait(30)
    for number, seen in ((1, [9, 0, 0, 0]), (2, [1, 1, 1, 1])):
        stream.send(observe(number, agent(np.array(seen, np.float32))))
    stream.send(start(3))
    served.recorder.wait("started", 4)  # So everything before has been received.
    served.policy.gate.set()
    failed, good, _ = (stream.receive() for _ in range(3))
    assert failed.error.code == sim.ERROR_CODE_INTERNAL and "makes the policy fail" in str(failed)
    assert action(good.actions) == 2
    assert stream.act(1, UP) == 2


def test_a_pinned_version_is_used_until_it_is_gone(served):
    served.policy.kept[:] = [3, 50]
    newest, pinned = served.session(), served.stream()
    assert pinned.hello(policy_version=3).policy_version == 3
    pinned.start(1)
    for stream, version, chosen in ((newest, 50, 0), (pinned, 3, 2)):
        (told,) = stream.observe(1, agent(2.0)).agents
        assert told.policy_version == version
        assert action(pb.Actions(agents=[told])) == chosen
    served.policy.kept[:] = [50]
    assert pinned.refused(observe(1, agent(2.0))).code == sim.ERROR_CODE_UNKNOWN_POLICY
    assert newest.act(1, 2.0) == 0


@pytest.mark.parametrize(
    ("fields", "greedy"),
    [
        ({}, True),
        ({"sampling": pb.SAMPLING_GREEDY}, True),
        ({"sampling": pb.SAMPLING_SAMPLED}, False),
        ({"sampling": pb.SAMPLING_GREEDY, "mode": pb.LIVE_MODE_COLLECT}, False),
    ],
)
def test_sampling(served, fields, greedy):
    served.session(**fields).act(1, UP)
    assert served.policy.queries[-1].greedy is greedy


def in_background(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread
