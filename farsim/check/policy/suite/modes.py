"""The modes of a live session beside SERVE."""

from __future__ import annotations

from farsim.check.policy.stream import told
from farsim.check.policy.subject import PolicySubject
from farsim.check.verdicts import Blocked, Broken, Chapter
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2

CHAPTER = Chapter()


@CHAPTER.check(
    "shadow", "no actions", "Replies hold no actions then, and do not wait for the policy."
)
def _no_actions(subject: PolicySubject) -> None:
    subject.offers(pb.LIVE_MODE_SHADOW)
    session = subject.session(mode=pb.LIVE_MODE_SHADOW)
    session.start(1)
    for observation in subject.observations(3):
        agent = subject.agent(observation, logged_action=subject.action(), reward=1.0)
        reply = session.ask(observe=pb.Observe(episode=1, agents=[agent]))
        if not reply.HasField("actions") or reply.actions.agents:
            sent = "'observe' with a logged action, in a session with SHADOW"
            raise Broken(sent, "'actions' without any", told(reply))
    session.finish(1)


@CHAPTER.check(
    "shadow",
    "an action has to be said",
    "every observation that an agent acts on carries `logged_action`.",
)
def _an_action_has_to_be_said(subject: PolicySubject) -> None:
    subject.offers(pb.LIVE_MODE_SHADOW)
    session = subject.session(mode=pb.LIVE_MODE_SHADOW)
    session.start(1)
    agent = subject.agent(subject.observations(1)[0])
    sent = "'observe' without a logged action, in a session with SHADOW"
    observe = pb.Observe(episode=1, agents=[agent])
    session.refused([simulator_pb2.ERROR_CODE_INVALID_ARGUMENT], sent, observe=observe)


@CHAPTER.check("collect", "actions", "Actions, and the experience goes to the learner.")
def _collects(subject: PolicySubject) -> None:
    subject.offers(pb.LIVE_MODE_COLLECT)
    session = subject.session(mode=pb.LIVE_MODE_COLLECT)
    session.start(1)
    sent = "'observe' in a session with COLLECT"
    try:
        for observation in subject.observations(2):
            action = session.act(1, subject.agent(observation, reward=0.0))
            subject.read(action.action, 1, sent)
        logged = subject.agent(subject.observations(1)[0], logged_action=subject.action())
        if session.observe(1, logged):
            raise Broken(f"{sent}, with a logged action", "no action", "one")
        # What was made up here is nothing to learn from.
        session.finish(1, aborted=True)
    except Blocked as blocked:
        raise Broken(sent, "an action", str(blocked)) from blocked
