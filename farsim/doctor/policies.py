"""Where the time of an answer goes, for servers of policies."""

from __future__ import annotations

import time

import grpc
import numpy as np

from farsim import spaces, tensors
from farsim.channel import ConnectionOptions, open_channel
from farsim.doctor.findings import Cause, Diagnosis, Finding, Share, Step, Stopped
from farsim.errors import FarsimError
from farsim.v1 import policy_pb2, policy_pb2_grpc, tensor_pb2

#: Questions of each size, after the first ones.
_QUESTIONS, _WARM_UP = 40, 3
#: Observations in a question, and in a larger one.
_ROWS, _MORE_ROWS = 1, 16
_CALL_SECONDS = 10.0
#: Parts of an answer's time that are no cause: smaller than this share, and these seconds.
_NOTEWORTHY, _QUICK_SECONDS, _BUSY_SECONDS = 0.25, 4e-3, 8e-3


def examine_policy(
    diagnosis: Diagnosis,
    description: policy_pb2.DescribePoliciesReply,
    connection: ConnectionOptions,
    round_trip: float,
) -> None:
    """Asks the first policy for actions, and adds what is found.

    Args:
        diagnosis: of the server, which has been reached.
        description: what it says it has.
        connection: how to reach it.
        round_trip: of the network alone, seconds.

    Raises:
        Stopped: there is no policy, or it does not answer.
    """
    if not description.policies:
        raise Stopped(
            "policy", Finding(Cause.NO_SIMULATOR, "it serves no policy", "see the server's log")
        )
    policy = description.policies[0]
    try:
        space = spaces.from_proto(policy.observation_space)
        action_space = spaces.from_proto(policy.action_space)
    except FarsimError as error:
        raise Stopped(
            "spaces",
            Finding(Cause.SPACES, f"{policy.name}: {error}", "mend the description"),
        ) from error
    diagnosis.steps.append(Step("spaces", f"{policy.name}: {space} to {action_space}"[:120]))

    def question(rows: int, name: str) -> policy_pb2.ActRequest:
        batch = spaces.batch(space, [space.sample() for _ in range(rows)])
        masks = spaces.full_masks(action_space, rows) if policy.has_action_mask else ()
        return policy_pb2.ActRequest(
            policy=name,
            rows=rows,
            observation=tensor_pb2.Value(tensors=spaces.encode(space, batch, rows)),
            action_masks=[tensors.pack(mask) for mask in masks],
        )

    with open_channel(diagnosis.address, connection) as channel:
        stub = policy_pb2_grpc.PolicyStub(channel)
        nobody = question(_ROWS, policy.name + "?")
        whole, idle, codec = [], [], []
        for number in range(-_WARM_UP, _QUESTIONS):
            began = time.perf_counter()
            asked = question(_ROWS, policy.name)
            packed = time.perf_counter()
            answer = _act(stub, asked)
            arrived = time.perf_counter()
            spaces.decode(action_space, answer.action.tensors, _ROWS)
            read = time.perf_counter()
            _nothing(stub, nobody)
            if number >= 0:
                whole.append(read - began)
                codec.append(packed - began + read - arrived)
                idle.append(time.perf_counter() - read)
        large = question(_MORE_ROWS, policy.name)
        larger = []
        for _ in range(_QUESTIONS // 2):
            began = time.perf_counter()
            _act(stub, large)
            larger.append(time.perf_counter() - began)
    diagnosis.steps.append(Step("act", f"{len(whole)} answers"))
    inference = np.maximum(np.array(whole) - np.array(codec) - float(np.median(idle)), 0)
    parts = {
        "inference": inference,
        "codec": np.array(codec),
        "network": np.full(len(whole), round_trip),
        "queue": np.maximum(np.array(idle) - round_trip, 0),
    }
    found = [
        Share(part, float(np.median(values)), float(np.percentile(values, 99)))
        for part, values in parts.items()
    ]
    found.sort(key=lambda share: -share.median)
    step = Share("step", float(np.median(whole)), float(np.percentile(whole, 99)))
    diagnosis.shares = [*found, step]
    diagnosis.notes.append(
        f"{_ROWS / step.median:,.0f} actions/s with {_ROWS} observation in a question, "
        f"{_MORE_ROWS / float(np.median(larger)):,.0f} with {_MORE_ROWS}"
    )
    diagnosis.findings += _causes({share.part: share.median for share in found}, step.median)


def _act(stub: policy_pb2_grpc.PolicyStub, request: policy_pb2.ActRequest) -> policy_pb2.ActReply:
    try:
        reply: policy_pb2.ActReply = stub.Act(request, timeout=_CALL_SECONDS)
        return reply
    except grpc.RpcError as error:
        late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        raise Stopped(
            "act",
            Finding(
                Cause.HANGS if late else Cause.LOST,
                f"{error.code().name}: {error.details()}",
                "see the server's log",
            ),
        ) from error


def _nothing(stub: policy_pb2_grpc.PolicyStub, request: policy_pb2.ActRequest) -> None:
    """Asks a policy that there is none of: an error, and nothing else."""
    try:
        stub.Act(request, timeout=_CALL_SECONDS)
    except grpc.RpcError:
        return


def _causes(parts: dict[str, float], whole: float) -> list[Finding]:
    found: list[tuple[float, Finding]] = []
    if parts["inference"] / whole > _NOTEWORTHY and parts["inference"] > _QUICK_SECONDS:
        finding = Finding(
            Cause.INFERENCE,
            f"{parts['inference'] * 1e3:.1f} ms an answer, waiting for others included",
            "a smaller network, a shorter --max-wait-ms, a GPU, or questions with several "
            "observations each",
        )
        found.append((parts["inference"], finding))
    if parts["network"] / whole > _NOTEWORTHY and parts["network"] > _QUICK_SECONDS:
        finding = Finding(
            Cause.LATENCY,
            f"a round trip takes {parts['network'] * 1e3:.1f} ms",
            "serve the policy nearer to the simulator, or export it and run it there "
            "(farsim policy --export)",
        )
        found.append((parts["network"], finding))
    if parts["queue"] > _BUSY_SECONDS and parts["queue"] / whole > _NOTEWORTHY:
        finding = Finding(
            Cause.BUSY,
            f"a question that nobody has to think about waits {parts['queue'] * 1e3:.1f} ms",
            "see what else runs there, and serve from more processes",
        )
        found.append((parts["queue"], finding))
    found.sort(key=lambda each: -each[0])
    return [finding for _, finding in found] or [
        Finding(
            Cause.NOTHING, f"{whole * 1e3:.2f} ms an answer", "ask for several at once for more"
        )
    ]
