"""What a server says that it serves."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

from farsim import spaces
from farsim.check.policy.subject import PolicySubject
from farsim.check.verdicts import Broken, Chapter
from farsim.errors import FarsimError
from farsim.protocol import PROTOCOL_VERSION, compatible
from farsim.v1 import policy_pb2 as pb

CHAPTER = Chapter()
_DESCRIBE = "Describe"
_MODES = (pb.LIVE_MODE_SERVE, pb.LIVE_MODE_COLLECT, pb.LIVE_MODE_SHADOW)


@CHAPTER.check(
    "describe",
    "version",
    '"major.minor". Peers with the same major version understand each other',
    once=True,
)
def _version(subject: PolicySubject) -> None:
    found = subject.server.protocol_version
    if not re.fullmatch(r"[0-9]+\.[0-9]+", found) or not compatible(found):
        major = PROTOCOL_VERSION.partition(".")[0]
        raise Broken(_DESCRIBE, f"protocol_version {major}.x", repr(found))


@CHAPTER.check(
    "describe", "whenever", "Cheap, free of side effects, and allowed at any time.", once=True
)
def _whenever(subject: PolicySubject) -> None:
    if subject.server.modes:
        subject.session().start(1)
    before, during = _fixed(subject.server), _fixed(subject.describe(PROTOCOL_VERSION))
    if before != during:
        sent = "Describe again, while an episode runs"
        raise Broken(sent, "the same policies and modes", "others")


def _fixed(reply: pb.DescribePoliciesReply) -> bytes:
    """What stays while newer checkpoints come."""
    copy = pb.DescribePoliciesReply()
    copy.CopyFrom(reply)
    for policy in copy.policies:
        policy.ClearField("versions")
        policy.ClearField("checkpoint")
    return copy.SerializeToString(deterministic=True)


@CHAPTER.check("describe", "names", "Unique on this server.", once=True)
def _names(subject: PolicySubject) -> None:
    found = [policy.name for policy in subject.server.policies]
    if len(set(found)) != len(found) or not all(found):
        raise Broken(_DESCRIBE, "policies with different names", str(found))


@CHAPTER.check(
    "describe",
    "agents",
    "The agents that this policy acts for. Empty: any agent that no other policy names.",
    once=True,
)
def _agents(subject: PolicySubject) -> None:
    policies = subject.server.policies
    named = Counter(agent for policy in policies for agent in policy.agents)
    twice = [agent for agent, count in named.items() if count > 1]
    if twice:
        raise Broken(_DESCRIBE, "no agent that two policies act for", f"'{twice[0]}' in two")
    anybody = [policy.name for policy in policies if not policy.agents]
    if len(anybody) > 1:
        raise Broken(_DESCRIBE, "at most one policy for any agent", str(anybody))


@CHAPTER.check("describe", "modes", "Those that `Hello.mode` may name.", once=True)
def _modes(subject: PolicySubject) -> None:
    found = list(subject.server.modes)
    if len(set(found)) != len(found) or not set(found) <= set(_MODES):
        raise Broken(_DESCRIBE, "modes of LiveMode, each once, not UNSPECIFIED", str(found))


@CHAPTER.check(
    "describe",
    "digests",
    "Of the spaces and of `has_action_mask`: the same digest, the same interface.",
    once=True,
)
def _digests(subject: PolicySubject) -> None:
    interfaces: dict[str, bytes] = {}
    for policy in subject.server.policies:
        if not policy.digest:
            raise Broken(_DESCRIBE, f"a digest of policy '{policy.name}'", "none")
        parts = (policy.observation_space, policy.action_space)
        interface = b"".join(part.SerializeToString(deterministic=True) for part in parts)
        interface += bytes([policy.has_action_mask])
        if interfaces.setdefault(policy.digest, interface) != interface:
            raise Broken(_DESCRIBE, "other digests of other interfaces", f"{policy.digest} twice")
    if len(set(interfaces.values())) < len(interfaces):
        raise Broken(_DESCRIBE, "one digest of one interface", f"{len(interfaces)} of them")


@CHAPTER.check("describe", "spaces", "Exactly one is set.")
def _spaces(subject: PolicySubject) -> None:
    described = {
        "observation_space": subject.policy.observation_space,
        "action_space": subject.policy.action_space,
    }
    for place, space in described.items():
        try:
            spaces.from_proto(space)
        except FarsimError as error:
            expected = "spaces as space.proto defines them"
            raise Broken(_DESCRIBE, expected, f"{place}: {error}") from error


@CHAPTER.check("describe", "versions", "Increasing; the last one is what is used.")
def _versions(subject: PolicySubject) -> None:
    found = list(subject.policy.versions)
    if not found or 0 in found or any(one >= other for one, other in pairwise(found)):
        raise Broken(_DESCRIBE, "at least one version, none of them 0, increasing", str(found))
