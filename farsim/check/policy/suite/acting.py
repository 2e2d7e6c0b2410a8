"""``Act``: actions for observations, of which the server keeps nothing."""

from __future__ import annotations

from typing import Any

import grpc

from farsim import spaces
from farsim.check import samples
from farsim.check.policy.subject import PolicySubject, alike
from farsim.check.verdicts import Broken, Chapter, NotExercised, NotOffered
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2, tensor_pb2

CHAPTER = Chapter()
_REFUSED = (
    "A request that cannot be carried out ends with the status INVALID_ARGUMENT (NOT_FOUND for an "
    "unknown policy, FAILED_PRECONDITION for a version or spaces that are not served, UNAVAILABLE "
    "while draining, INTERNAL if the server is at fault), whose details are the message for people "
    "and whose trailing metadata `farsim-error-bin` is a serialised `Error`."
)
_MASKED = "Every observation comes with masks, as at `GroupBatch.action_masks`."
_STATE = "Of a recurrent policy: one for each row, opaque."


@CHAPTER.check("act", "an action", "Actions for observations, and nothing else")
def _an_action(subject: PolicySubject) -> None:
    for observation in subject.observations(3):
        for sampling in (pb.SAMPLING_UNSPECIFIED, pb.SAMPLING_GREEDY, pb.SAMPLING_SAMPLED):
            reply = subject.act(observation, sampling=sampling)
            subject.read(reply.action, 1, f"Act with {pb.Sampling.Name(sampling)}")


@CHAPTER.check("act", "rows", "Value action = 1; // A batch of as many rows.")
def _rows(subject: PolicySubject) -> None:
    for rows in (1, 3):
        reply = subject.act(subject.rows(rows), rows=rows)
        subject.read(reply.action, rows, f"Act with rows {rows}")


@CHAPTER.check("act", "each row for itself", "Value observation = 3; // A batch of `rows`.")
def _each_row_for_itself(subject: PolicySubject) -> None:
    first, last = subject.observations(2)
    replies = [subject.act(one) for one in (first, last)]
    together = subject.act(subject.rows(2), rows=2)
    _same_version(*replies, together)
    sent = "Act with two rows, and with each of them alone"
    actions = subject.read(together.action, 2, sent)
    apart = [subject.read(reply.action, 1, sent) for reply in replies]
    space = subject.action_space
    rows = spaces.unbatch(space, actions, 2)
    alone = [spaces.unbatch(space, action, 1)[0] for action in apart]
    if not all(alike(one, other) for one, other in zip(rows, alone, strict=True)):
        raise Broken(sent, "the same likeliest actions", f"{rows} and {alone}")


@CHAPTER.check("act", "keeps nothing", "the server keeps nothing from one call to the next.")
def _keeps_nothing(subject: PolicySubject) -> None:
    first, *others = subject.observations(6)
    sent = "Act with the same observation, and others between"
    before = subject.act(first)
    for other in others:
        subject.act(other)
    after = subject.act(first)
    _same_version(before, after)
    actions = [subject.read(reply.action, 1, sent) for reply in (before, after)]
    if not alike(*actions):
        raise Broken(sent, "the same likeliest action", f"{actions[0]} and {actions[1]}")


@CHAPTER.check("act", "the last version", "0: the last one.")
def _the_last_version(subject: PolicySubject) -> None:
    reply = subject.act(subject.observations(1)[0])
    known = _versions(subject)
    last = subject.policy.versions[-1]
    if not last <= reply.policy_version or reply.policy_version not in (last, *known):
        raise Broken("Act without a version", f"policy_version {last}", str(reply.policy_version))


@CHAPTER.check("act", "pinned versions", "Several while older ones are kept.")
def _pinned_versions(subject: PolicySubject) -> None:
    for version in _versions(subject):
        reply = subject.act(subject.observations(1)[0], policy_version=version)
        if reply.policy_version != version:
            came = str(reply.policy_version)
            raise Broken(f"Act with version {version}", f"policy_version {version}", came)


@CHAPTER.check("act", "a digest", "Empty, or what `PolicyDescription.digest` has to be.")
def _a_digest(subject: PolicySubject) -> None:
    subject.act(subject.observations(1)[0], digest=subject.policy.digest)


@CHAPTER.check("act", "masks", _MASKED)
def _masks(subject: PolicySubject) -> None:
    for choice in (0, 1):
        masks = subject.one_allowed(choice)
        for sampling in (pb.SAMPLING_GREEDY, pb.SAMPLING_SAMPLED):
            for observation in subject.observations(3):
                sent = f"Act with masks that allow only choice {choice}"
                reply = subject.act(observation, action_masks=masks, sampling=sampling)
                found = subject.read(reply.action, 1, sent)
                if not alike(found, subject.only(masks)):
                    raise Broken(sent, str(subject.only(masks)), str(found))


@CHAPTER.check("act", "state", _STATE)
def _state(subject: PolicySubject) -> None:
    reply = subject.act(subject.rows(3), rows=3)
    count = 3 if subject.policy.is_recurrent else 0
    if len(reply.state) != count:
        recurrent = "recurrent" if count else "not recurrent"
        came = f"{len(reply.state)} states"
        raise Broken(f"Act with 3 rows; the policy is {recurrent}", f"{count} states", came)


@CHAPTER.check("act", "state goes on", "no bytes where an episode begins here.")
def _state_goes_on(subject: PolicySubject) -> None:
    if not subject.policy.is_recurrent:
        raise NotOffered("is_recurrent is false")
    first, second = subject.observations(2)
    begun = [subject.act(first), subject.act(first, state=[b""])]
    replies = [subject.act(second, state=one.state) for one in begun]
    _same_version(*begun, *replies)
    actions = [subject.read(reply.action, 1, "Act with a state") for reply in replies]
    if not alike(*actions) or replies[0].state[0] != replies[1].state[0]:
        sent = "Act with no state and with empty bytes, and then on with the states in the replies"
        raise Broken(sent, "the same actions and states", "others")
    if begun[0].state[0] == replies[0].state[0]:
        raise Broken("Act, and again with the state in the reply", "another state", "the same one")


def _same_version(*replies: pb.ActReply) -> None:
    """Raises ``NotExercised`` if a newer version came between."""
    if len({reply.policy_version for reply in replies}) > 1:
        raise NotExercised("a newer version came meanwhile")


def _versions(subject: PolicySubject) -> list[int]:
    return [
        version
        for policy in subject.describe().policies
        if policy.name == subject.name
        for version in policy.versions
    ]


# -- what is refused --------------------------------------------------------------------------


def _refuse(subject: PolicySubject, sent: str, status: str, *codes: int, **fields: object) -> None:
    (observation,) = subject.observations(1)
    chosen: dict[str, Any] = {"policy": subject.name, "observation": observation} | fields
    found = getattr(grpc.StatusCode, status)
    subject.not_acted(pb.ActRequest(**chosen), found, codes, sent)


@CHAPTER.check("act errors", "unknown policy", _REFUSED)
def _unknown_policy(subject: PolicySubject) -> None:
    code = simulator_pb2.ERROR_CODE_UNKNOWN_POLICY
    _refuse(subject, "Act for policy 'nobody'", "NOT_FOUND", code, policy="nobody")


@CHAPTER.check("act errors", "unknown version", _REFUSED)
def _unknown_version(subject: PolicySubject) -> None:
    version = 2**62 + 1
    code = simulator_pb2.ERROR_CODE_UNKNOWN_POLICY
    sent = f"Act with version {version}"
    _refuse(subject, sent, "FAILED_PRECONDITION", code, policy_version=version)


@CHAPTER.check("act errors", "another digest", _REFUSED)
def _another_digest(subject: PolicySubject) -> None:
    code = simulator_pb2.ERROR_CODE_SPACE_MISMATCH
    _refuse(subject, "Act with another digest", "FAILED_PRECONDITION", code, digest="another")


@CHAPTER.check("act errors", "bytes missing", _REFUSED)
def _bytes_missing(subject: PolicySubject) -> None:
    (observation,) = subject.observations(1)
    broken = samples.of_missing_bytes(list(observation.tensors))
    codes = (
        simulator_pb2.ERROR_CODE_INVALID_TENSOR,
        simulator_pb2.ERROR_CODE_INVALID_OBSERVATION,
    )
    sent = "Act with an observation that lacks a byte"
    value = tensor_pb2.Value(tensors=broken)
    _refuse(subject, sent, "INVALID_ARGUMENT", *codes, observation=value)


@CHAPTER.check("act errors", "another shape", _REFUSED)
def _another_shape(subject: PolicySubject) -> None:
    (observation,) = subject.observations(1)
    broken = samples.of_another_shape(list(observation.tensors))
    codes = (
        simulator_pb2.ERROR_CODE_INVALID_OBSERVATION,
        simulator_pb2.ERROR_CODE_INVALID_TENSOR,
    )
    sent = "Act with an observation of another shape"
    value = tensor_pb2.Value(tensors=broken)
    _refuse(subject, sent, "INVALID_ARGUMENT", *codes, observation=value)


@CHAPTER.check("act errors", "outside the space", _REFUSED)
def _outside_the_space(subject: PolicySubject) -> None:
    (observation,) = subject.observations(1)
    outside = samples.outside(subject.observation_space, list(observation.tensors), 0)
    if outside is None:
        raise NotOffered("every value is inside the observation space")
    code = simulator_pb2.ERROR_CODE_INVALID_OBSERVATION
    sent = "Act with an observation outside the space"
    value = tensor_pb2.Value(tensors=outside)
    _refuse(subject, sent, "INVALID_ARGUMENT", code, observation=value)


@CHAPTER.check("act errors", "wrong number of states", _REFUSED)
def _wrong_number_of_states(subject: PolicySubject) -> None:
    code = simulator_pb2.ERROR_CODE_INVALID_ARGUMENT
    sent = "Act with 2 states for 1 row"
    _refuse(subject, sent, "INVALID_ARGUMENT", code, state=[b"", b""])
