"""Episodes of a live session that is served."""

from __future__ import annotations

from typing import Any

from farsim.check import samples
from farsim.check.policy.session import LiveSession
from farsim.check.policy.stream import told
from farsim.check.policy.subject import PolicySubject, alike
from farsim.check.verdicts import Blocked, Broken, Chapter, NotExercised, NotOffered
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2, tensor_pb2

CHAPTER = Chapter()
_STAYS = (
    "An event that cannot be carried out gets an `error` reply; the episode it names is then as it "
    "was before, and the session goes on."
)
_ACTIONS = "The reply is `actions`: one for every agent named that is to act."
#: With more than this the bound is not tried.
_MOST_EPISODES = 256


def _action(subject: PolicySubject, action: pb.AgentAction, sent: str) -> Any:
    return subject.read(action.action, 1, sent)


@CHAPTER.check("live", "an action", _ACTIONS)
def _an_action(subject: PolicySubject) -> None:
    session = subject.serving()
    for observation in subject.observations(3):
        sent = "'observe' with one agent that is to act"
        reply = session.ask(observe=_seen(subject, 1, observation))
        if not reply.HasField("actions"):
            raise Broken(sent, "'actions'", told(reply))
        actions = reply.actions.agents
        if reply.actions.episode != 1 or len(actions) != 1:
            came = f"{len(actions)} of episode {reply.actions.episode}"
            raise Broken(sent, "one action of episode 1", came)
        _action(subject, actions[0], sent)


@CHAPTER.check("live", "who acts", "string agent = 1; // As in the event.")
def _who_acts(subject: PolicySubject) -> None:
    session = subject.serving()
    action = session.act(1, subject.agent(subject.observations(1)[0]))
    expected = (subject.agent_name, subject.name)
    if (action.agent, action.policy) != expected:
        came = f"agent '{action.agent}' and policy '{action.policy}'"
        raise Broken("'observe'", f"agent '{expected[0]}' and policy '{expected[1]}'", came)


@CHAPTER.check("live", "the last version", "0: the last one at every action")
def _the_last_version(subject: PolicySubject) -> None:
    session = subject.serving()
    action = session.act(1, subject.agent(subject.observations(1)[0]))
    if action.policy_version < subject.policy.versions[-1]:
        expected = f"policy_version {subject.policy.versions[-1]}"
        raise Broken("'observe'", expected, str(action.policy_version))


@CHAPTER.check("live", "a pinned version", "else pinned to this one.")
def _a_pinned_version(subject: PolicySubject) -> None:
    described = {policy.name: policy for policy in subject.describe().policies}
    for version in described[subject.name].versions:
        session = subject.serving(policy_version=version)
        action = session.act(1, subject.agent(subject.observations(1)[0]))
        if {action.policy_version, session.welcome.policy_version} != {version}:
            sent = f"'hello' with version {version}, then 'observe'"
            raise Broken(sent, f"policy_version {version}", str(action.policy_version))


@CHAPTER.check("live", "as Act", "The likeliest action.")
def _as_act(subject: PolicySubject) -> None:
    session = subject.serving()
    state: list[bytes] = []
    for observation in subject.observations(4):
        live = session.act(1, subject.agent(observation))
        reply = subject.act(observation, state=state)
        state = list(reply.state)
        if live.policy_version != reply.policy_version:
            raise NotExercised("a newer version came meanwhile")
        sent = "the same observations to Act and to a live episode, both with SAMPLING_GREEDY"
        one = _action(subject, live, sent)
        other = subject.read(reply.action, 1, sent)
        if not alike(one, other):
            raise Broken(sent, "the same likeliest actions", f"{one} live, {other} from Act")


@CHAPTER.check("live", "memory of each episode", "It remembers: within a live episode")
def _memory_of_each_episode(subject: PolicySubject) -> None:
    if not subject.policy.is_recurrent:
        raise NotOffered("is_recurrent is false")
    seen = subject.observations(8)
    alone = _course(subject, subject.serving(), seen)
    session = subject.serving()
    session.start(2)
    other = list(reversed(seen))
    between = _course(subject, session, seen, lambda at: session.act(2, subject.agent(other[at])))
    if not all(map(alike, alone, between)):
        sent = "an episode with another one between its events"
        raise Broken(sent, "the actions that it gets alone", "other ones")


def _course(
    subject: PolicySubject, session: LiveSession, seen: list[tensor_pb2.Value], between: Any = None
) -> list[Any]:
    actions = []
    for at, observation in enumerate(seen):
        if between is not None:
            between(at)
        actions.append(_action(subject, session.act(1, subject.agent(observation)), "'observe'"))
    return actions


@CHAPTER.check("live", "several episodes", "Several may run at a time in one session.")
def _several_episodes(subject: PolicySubject) -> None:
    session = subject.serving()
    if session.welcome.max_episodes == 1:
        raise NotOffered("max_episodes is 1")
    session.start(7)
    first, second = subject.observations(2)
    for episode, observation in ((1, first), (7, second), (1, second), (7, first)):
        sent = f"'observe' of episode {episode}, with two running"
        reply = session.ask(observe=_seen(subject, episode, observation))
        if not reply.HasField("actions") or reply.actions.episode != episode:
            raise Broken(sent, f"an action of episode {episode}", told(reply))
        _action(subject, reply.actions.agents[0], sent)


@CHAPTER.check("live", "too many episodes", "That may run at a time in this session; 0: no bound.")
def _too_many_episodes(subject: PolicySubject) -> None:
    session = subject.serving()
    bound = session.welcome.max_episodes
    if not 0 < bound <= _MOST_EPISODES:
        raise NotExercised(f"max_episodes is {bound or 'unbounded'}")
    for number in range(2, bound + 1):
        session.start(number)
    sent = f"'start' with all {bound} episodes running"
    start = pb.EpisodeStart(episode=bound + 1)
    session.refused([simulator_pb2.ERROR_CODE_LIMIT], sent, start=start)


@CHAPTER.check("live", "masks", "Every observation comes with masks")
def _masks(subject: PolicySubject) -> None:
    session = subject.serving()
    for choice, observation in enumerate(subject.observations(4)):
        masks = subject.one_allowed(choice)
        action = session.act(1, subject.agent(observation, action_masks=masks))
        sent = f"'observe' with masks that allow only choice {choice}"
        found = _action(subject, action, sent)
        if not alike(found, subject.only(masks)):
            raise Broken(sent, str(subject.only(masks)), str(found))


@CHAPTER.check("live", "a reward alone", "Absent: nothing new is seen, and no action is asked for.")
def _a_reward_alone(subject: PolicySubject) -> None:
    session = subject.serving()
    session.act(1, subject.agent(subject.observations(1)[0]))
    _no_action(session, subject.agent(reward=1.0), "'observe' with a reward and no observation")


@CHAPTER.check("live", "a logged action", "none is asked for.")
def _a_logged_action(subject: PolicySubject) -> None:
    session = subject.serving()
    (observation,) = subject.observations(1)
    agent = subject.agent(observation, logged_action=subject.action())
    _no_action(session, agent, "'observe' with a logged action")


@CHAPTER.check("live", "an action taken", "The action that was really taken after")
def _an_action_taken(subject: PolicySubject) -> None:
    session = subject.serving()
    first, second = subject.observations(2)
    events = [
        session.next(observe=_seen(subject, 1, first)),
        session.next(observe=_seen(subject, 1, second, action_taken=subject.action())),
    ]
    sent = "two 'observe' without waiting, the second with 'action_taken'"
    for event in events:
        session.stream.send(event)
    for _ in events:
        reply = session.stream.receive()[1]
        if not reply.HasField("actions"):
            raise Broken(sent, "'actions' twice", told(reply))


@CHAPTER.check(
    "live",
    "the last observation",
    "The agent's part in the episode ends with this observation, and no action follows.",
)
def _the_last_observation(subject: PolicySubject) -> None:
    session = subject.serving()
    session.start(2)
    for episode, flag in ((1, "terminated"), (2, "truncated")):
        first, last = subject.observations(2)
        session.act(episode, subject.agent(first))
        agent = subject.agent(last, reward=1.0, **{flag: True})
        _no_action(session, agent, f"'observe' with '{flag}'", episode)
        session.finish(episode)


@CHAPTER.check(
    "live", "agents in order", "In the order of the event, without those that do not act."
)
def _agents_in_order(subject: PolicySubject) -> None:
    if not subject.server.is_multi_agent:
        raise NotOffered("is_multi_agent is false")
    agents = list(subject.policy.agents) or ["agent-b", "agent-a"]
    if len(agents) < 2:
        raise NotExercised(f"the policy acts for '{agents[0]}' alone")
    session = subject.serving()
    named = list(reversed(agents))
    seen = subject.observations(len(named))
    sent = f"'observe' with {', '.join(named)}"
    actions = session.observe(
        1,
        *(
            pb.AgentObservation(agent=agent, observation=observation)
            for agent, observation in zip(named, seen, strict=True)
        ),
    )
    if [action.agent for action in actions] != named:
        raise Broken(sent, "actions in that order", str([action.agent for action in actions]))


# -- errors -----------------------------------------------------------------------------------


@CHAPTER.check("live errors", "a bad observation", _STAYS)
def _a_bad_observation(subject: PolicySubject) -> None:
    first, second = subject.observations(2)
    codes = [
        simulator_pb2.ERROR_CODE_INVALID_OBSERVATION,
        simulator_pb2.ERROR_CODE_INVALID_TENSOR,
    ]
    wrong = {
        "lacks a byte": samples.of_missing_bytes(list(first.tensors)),
        "has another shape": samples.of_another_shape(list(first.tensors)),
    }
    undisturbed, session = subject.serving(), subject.serving()
    undisturbed.act(1, subject.agent(first))
    session.act(1, subject.agent(first))
    for what, broken in wrong.items():
        sent = f"'observe' whose observation {what}"
        observe = _seen(subject, 1, tensor_pb2.Value(tensors=broken))
        session.refused(codes, sent, observe=observe)
    try:
        actions = [each.act(1, subject.agent(second)) for each in (undisturbed, session)]
    except Blocked as blocked:
        sent = "a right 'observe' after wrong ones"
        raise Broken(sent, "an action", str(blocked)) from blocked
    if actions[0].policy_version != actions[1].policy_version:
        return
    sent = "the same 'observe' with and without wrong ones before it"
    if not alike(*(_action(subject, action, sent) for action in actions)):
        raise Broken(sent, "the same action", "another one")


@CHAPTER.check("live errors", "outside the space", _STAYS)
def _outside_the_space(subject: PolicySubject) -> None:
    (observation,) = subject.observations(1)
    outside = samples.outside(subject.observation_space, list(observation.tensors), 0)
    if outside is None:
        raise NotOffered("every value is inside the observation space")
    observe = _seen(subject, 1, tensor_pb2.Value(tensors=outside))
    code = simulator_pb2.ERROR_CODE_INVALID_OBSERVATION
    subject.serving().refused([code], "'observe' outside the space", observe=observe)


@CHAPTER.check("live errors", "an agent twice", "Each agent at most once.")
def _an_agent_twice(subject: PolicySubject) -> None:
    session = subject.serving()
    agents = [subject.agent(one) for one in subject.observations(2)]
    observe = pb.Observe(episode=1, agents=agents)
    code = simulator_pb2.ERROR_CODE_INVALID_ARGUMENT
    session.refused([code], "'observe' that names an agent twice", observe=observe)


@CHAPTER.check("live errors", "a number twice", "never used before in the session.")
def _a_number_twice(subject: PolicySubject) -> None:
    session = subject.serving()
    session.finish(1)
    start = pb.EpisodeStart(episode=1)
    code = simulator_pb2.ERROR_CODE_INVALID_ARGUMENT
    session.refused([code], "'start' with a number that was used before", start=start)


@CHAPTER.check("live errors", "no such episode", _STAYS)
def _no_such_episode(subject: PolicySubject) -> None:
    session = subject.serving()
    code = simulator_pb2.ERROR_CODE_PROTOCOL
    observe = _seen(subject, 99, subject.observations(1)[0])
    session.refused([code], "'observe' of an episode that never started", observe=observe)
    session.act(1, subject.agent(subject.observations(1)[0]))


@CHAPTER.check("live errors", "after the end", _STAYS)
def _after_the_end(subject: PolicySubject) -> None:
    session = subject.serving()
    (observation,) = subject.observations(1)
    session.act(1, subject.agent(observation))
    session.finish(1)
    code = simulator_pb2.ERROR_CODE_EPISODE_OVER
    observe = _seen(subject, 1, observation)
    session.refused([code], "'observe' of an episode that is over", observe=observe)


@CHAPTER.check(
    "live errors",
    "after an agent's end",
    "The agent's part in the episode ends with this observation",
)
def _after_an_agents_end(subject: PolicySubject) -> None:
    session = subject.serving()
    first, last = subject.observations(2)
    session.act(1, subject.agent(first))
    session.observe(1, subject.agent(last, terminated=True))
    code = simulator_pb2.ERROR_CODE_EPISODE_OVER
    observe = _seen(subject, 1, first)
    session.refused([code], "'observe' of an agent whose part is over", observe=observe)


def _seen(
    subject: PolicySubject, episode: int, observation: tensor_pb2.Value, **fields: Any
) -> pb.Observe:
    return pb.Observe(episode=episode, agents=[subject.agent(observation, **fields)])


def _no_action(
    session: LiveSession, agent: pb.AgentObservation, sent: str, episode: int = 1
) -> None:
    reply = session.ask(observe=pb.Observe(episode=episode, agents=[agent]))
    if not reply.HasField("actions"):
        raise Broken(sent, "'actions' without any", told(reply))
    if reply.actions.agents:
        raise Broken(sent, "no action", f"{len(reply.actions.agents)}")
