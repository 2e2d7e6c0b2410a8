"""Describe and Act, and what stands beside the service: health, reflection, tokens, metrics."""

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from prometheus_client import generate_latest

from agent.live.inference import PolicySpec
from agent.live.limits import Limits
from agent.live.metrics import PrometheusMetrics
from agent.live.server import PolicyServer, PolicyServerOptions
from farsim import errors, spaces, tensors
from farsim.errors import InvalidAddress, InvalidArgument
from farsim.serving import InsecureAddress
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2 as sim
from tests.agent.live.linear import ACTIONS, OBSERVATIONS, Linear
from tests.agent.live.raw import agent, filled, hello, read, value

UP, DOWN = 1.0, -1.0
TWO = (
    PolicySpec("one", OBSERVATIONS, ACTIONS, agents=("agent",)),
    PolicySpec("two", OBSERVATIONS, ACTIONS, has_action_mask=True, agents=("other",)),
)
REMEMBERS = PolicySpec("default", OBSERVATIONS, ACTIONS, is_recurrent=True)


def request(*seen, **fields):
    rows = [filled(OBSERVATIONS, one) for one in seen]
    return pb.ActRequest(observation=value(OBSERVATIONS, *rows), rows=len(seen), **fields)


def refused(call):
    """The status of a call that has to fail, and the error it came with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    (raw,) = [
        item.value for item in caught.value.trailing_metadata() if item.key == "farsim-error-bin"
    ]
    error = sim.Error.FromString(raw)
    assert caught.value.details() == error.message
    return caught.value.code(), error


def test_describe(serve):
    served = serve(TWO)
    served.policy.kept[:] = [4, 6]
    told = served.stub.Describe(pb.DescribePoliciesRequest(protocol_version="1.7"))
    assert told.protocol_version == "1.0" and told.is_multi_agent
    assert pb.LIVE_MODE_COLLECT in told.modes and told.limits.max_sessions == 4096
    one, two = told.policies
    assert (one.name, list(one.versions), list(one.agents)) == ("one", [4, 6], ["agent"])
    assert spaces.from_proto(one.observation_space) == OBSERVATIONS
    assert two.has_action_mask and one.digest != two.digest
    with pytest.raises(grpc.RpcError) as caught:
        served.stub.Describe(pb.DescribePoliciesRequest(protocol_version="2.0"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_server_for_one_agent_says_so(serve):
    told = serve(TWO[:1]).stub.Describe(pb.DescribePoliciesRequest())
    assert not told.is_multi_agent


def test_act_answers_all_rows_by_one_version_and_keeps_nothing(serve):
    served = serve(limits=Limits(max_batch=2))
    reply = served.stub.Act(request(UP, DOWN, UP, DOWN, UP))
    assert read(reply.action, rows=5) == [2, 0, 2, 0, 2] and reply.policy_version == 1
    assert not reply.state
    assert served.policy.batches == [("default", 5, 1)]
    assert served.server.counts["sessions"] == 0
    (decisions,) = served.recorder.of("called")
    assert [one.action for one in decisions] == [2, 0, 2, 0, 2]


def test_act_takes_policy_version_masks_and_sampling(serve):
    served = serve(TWO)
    served.policy.kept[:] = [3, 50]
    masks = [tensors.pack(np.array([[False, True, True]]))]
    reply = served.stub.Act(
        request(
            DOWN,
            policy="two",
            policy_version=3,
            action_masks=masks,
            sampling=pb.SAMPLING_SAMPLED,
        )
    )
    assert read(reply.action) == [1] and reply.policy_version == 3
    assert served.policy.queries[0].greedy is False


def test_memory_travels_with_the_client(serve):
    stub = serve([REMEMBERS]).stub
    first = stub.Act(request(3.0, DOWN))
    assert len(first.state) == 2
    both = stub.Act(request(DOWN, DOWN, state=first.state))
    assert read(both.action, rows=2) == [2, 0]
    mixed = stub.Act(request(DOWN, DOWN, state=[first.state[0], b""]))
    assert read(mixed.action, rows=2) == [2, 0]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"policy": "three"}, grpc.StatusCode.NOT_FOUND, sim.ERROR_CODE_UNKNOWN_POLICY),
        ({"policy": ""}, grpc.StatusCode.NOT_FOUND, sim.ERROR_CODE_UNKNOWN_POLICY),
        (
            {"policy_version": 8},
            grpc.StatusCode.FAILED_PRECONDITION,
            sim.ERROR_CODE_UNKNOWN_POLICY,
        ),
        ({"digest": "00"}, grpc.StatusCode.FAILED_PRECONDITION, sim.ERROR_CODE_SPACE_MISMATCH),
        ({"rows": 3}, grpc.StatusCode.INVALID_ARGUMENT, sim.ERROR_CODE_INVALID_OBSERVATION),
        ({"rows": 5000}, grpc.StatusCode.INVALID_ARGUMENT, sim.ERROR_CODE_LIMIT),
        ({"state": [b"1"]}, grpc.StatusCode.INVALID_ARGUMENT, sim.ERROR_CODE_INVALID_ARGUMENT),
        (
            {"observation": value(OBSERVATIONS, filled(OBSERVATIONS, 11))},
            grpc.StatusCode.INVALID_ARGUMENT,
            sim.ERROR_CODE_INVALID_OBSERVATION,
        ),
        (
            {"observation": value(OBSERVATIONS, filled(OBSERVATIONS, 9))},
            grpc.StatusCode.INTERNAL,
            sim.ERROR_CODE_INTERNAL,
        ),
    ],
)
def test_what_act_refuses(serve, fields, status, code):
    served = serve(TWO)
    valid = {
        "policy": "one",
        "rows": 1,
        "observation": value(OBSERVATIONS, filled(OBSERVATIONS, UP)),
    }
    got, error = refused(lambda: served.stub.Act(pb.ActRequest(**(valid | fields))))
    assert (got, error.code) == (status, code)
    assert isinstance(errors.from_proto(error), errors.FarsimError) and error.message
    assert read(served.stub.Act(pb.ActRequest(**valid)).action) == [2]


@pytest.mark.parametrize("state", [b"nonsense", b"\x0a\x00", b"cut"])
def test_a_state_that_is_none_is_refused(serve, state):
    stub = serve([REMEMBERS]).stub
    good = stub.Act(request(UP)).state[0]
    bad = good[:-3] if state == b"cut" else state
    status, error = refused(lambda: stub.Act(request(UP, state=[bad])))
    assert status is grpc.StatusCode.INVALID_ARGUMENT and "ActReply.state" in error.message


def test_a_state_of_another_shape_is_refused(serve):
    from agent.live import states

    stub = serve([REMEMBERS]).stub
    stub.Act(request(UP))
    other = states.to_bytes("default", {"sum": np.zeros(5, np.float32)})
    status, _ = refused(lambda: stub.Act(request(UP, state=[other])))
    assert status is grpc.StatusCode.INVALID_ARGUMENT


def test_draining_refuses_calls(served):
    service = served.server._service
    service._host.is_draining = True
    status, error = refused(lambda: served.stub.Act(request(UP)))
    assert (status, error.code) == (grpc.StatusCode.UNAVAILABLE, sim.ERROR_CODE_DRAINING)
    assert served.stream().refused(hello()).code == sim.ERROR_CODE_DRAINING


def test_health_and_reflection(served):
    check = health_pb2_grpc.HealthStub(served.channel).Check
    for name in ("", "farsim.v1.Policy"):
        reply = check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    names = ProtoReflectionDescriptorDatabase(served.channel).get_services()
    assert "farsim.v1.Policy" in names


def test_a_token_is_needed_but_for_health_checks(serve):
    served = serve(token="secret")
    health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest())
    good = (("authorization", "Bearer secret"),)
    for metadata in (None, (("authorization", "Bearer wrong"),)):
        with pytest.raises(grpc.RpcError) as caught:
            served.stub.Act(request(UP), metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        stream = served.stream(metadata=metadata)
        stream.send(hello())
        assert stream.status() is grpc.StatusCode.UNAUTHENTICATED
    assert read(served.stub.Act(request(UP), metadata=good).action) == [2]
    served.stream(metadata=good).hello()


def test_beyond_this_machine_only_with_tls():
    with pytest.raises(InsecureAddress, match="--tls-cert"):
        PolicyServer(Linear(), "0.0.0.0:0")
    with PolicyServer(Linear(), "0.0.0.0:0", PolicyServerOptions(insecure=True)):
        pass


def test_an_address_that_is_taken_is_an_error(served):
    with pytest.raises(InvalidAddress, match="taken"):
        PolicyServer(Linear(), served.server.address)


@pytest.mark.parametrize(
    "specs", [(), (TWO[0], TWO[0]), (TWO[0], PolicySpec("x", ACTIONS, ACTIONS, agents=("agent",)))]
)
def test_policies_that_contradict_each_other_are_an_error(specs):
    with pytest.raises(InvalidArgument):
        PolicyServer(Linear(specs))


def test_metrics(serve):
    metrics = PrometheusMetrics()
    served = serve(metrics=metrics)
    stream = served.session()
    stream.act(1, UP)
    stream.act(1, DOWN)
    stream.refused(hello())
    served.stub.Act(request(UP, UP))
    text = generate_latest(metrics.registry).decode()
    for line in (
        "farsim_live_sessions 1.0",
        "farsim_live_episodes 1.0",
        'farsim_policy_action_seconds_count{policy="default"} 4.0',
        'farsim_policy_batch_rows_count{policy="default"} 3.0',
        'farsim_policy_batch_rows_sum{policy="default"} 4.0',
        'farsim_policy_errors_total{code="ERROR_CODE_PROTOCOL"} 1.0',
        "farsim_policy_queue 0.0",
    ):
        assert line in text, text


def test_errors_carry_tracebacks_only_in_debug_mode(serve):
    for debug in (False, True):
        error = serve(debug=debug).session().refused(pb.LiveEvent())
        assert bool(error.traceback) is debug


def test_an_agent_is_called_agent_unless_it_has_a_name(served):
    stream = served.session()
    (told,) = stream.observe(1, agent(UP)).agents
    assert told.agent == ""
    (told,) = stream.observe(1, agent(UP, "agent")).agents
    assert told.agent == "agent"
    assert len(served.recorder.decisions("agent")) == 2
