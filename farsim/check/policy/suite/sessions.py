"""Live sessions: opening, numbers, resuming, parting."""

from __future__ import annotations

import grpc

from farsim import spaces
from farsim.check.policy.session import expect_error
from farsim.check.policy.stream import told
from farsim.check.policy.subject import PolicySubject
from farsim.check.stream import StreamEnded
from farsim.check.verdicts import Blocked, Broken, Chapter, NotOffered
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2, space_pb2

CHAPTER = Chapter()
_ONCE = (
    "The server carries each number out once; see `SimRequest.sequence`, whose rules hold here too."
)
_ENDS = (
    "The server ends the stream itself with status OK after `farewell` and after `draining`, and "
    "otherwise only with one of these statuses:"
)


@CHAPTER.check("session", "is granted", "Opens a session. The server answers `welcome`.")
def _is_granted(subject: PolicySubject) -> None:
    try:
        welcome = subject.session().welcome
    except Blocked as blocked:
        raise Broken("'hello'", "'welcome'", str(blocked)) from blocked
    if not welcome.session_token or not welcome.max_in_flight or not welcome.policy_version:
        expected = "a session_token, max_in_flight and policy_version"
        raise Broken("'hello'", expected, str(welcome))


@CHAPTER.check("session", "mode", "In `Hello`: the same as SERVE.")
def _mode(subject: PolicySubject) -> None:
    subject.offers(pb.LIVE_MODE_SERVE)
    found = subject.session(mode=pb.LIVE_MODE_UNSPECIFIED).welcome.mode
    if found != pb.LIVE_MODE_SERVE:
        raise Broken("'hello' without a mode", "LIVE_MODE_SERVE", pb.LiveMode.Name(found))


@CHAPTER.check("session", "undeclared mode", "Those that `Hello.mode` may name.")
def _undeclared_mode(subject: PolicySubject) -> None:
    every = (pb.LIVE_MODE_SERVE, pb.LIVE_MODE_COLLECT, pb.LIVE_MODE_SHADOW)
    mode = next((mode for mode in every if mode not in subject.server.modes), None)
    if mode is None:
        raise NotOffered("every mode is declared")
    stream = subject.stream()
    stream.send(subject.hello(mode=mode))
    expect_error(
        stream, [simulator_pb2.ERROR_CODE_UNSUPPORTED], f"'hello' with {pb.LiveMode.Name(mode)}"
    )


@CHAPTER.check(
    "session",
    "another major version",
    "Another major version gets ERROR_CODE_PROTOCOL_VERSION.",
)
def _another_major_version(subject: PolicySubject) -> None:
    stream = subject.stream()
    stream.send(subject.hello(protocol_version="99.0"))
    code = simulator_pb2.ERROR_CODE_PROTOCOL_VERSION
    expect_error(stream, [code], "'hello' with version 99.0")


@CHAPTER.check("session", "its own spaces", "The simulator's agents and their spaces. May be empty")
def _its_own_spaces(subject: PolicySubject) -> None:
    try:
        subject.session(groups=[_group(subject)])
    except Blocked as blocked:
        sent = "'hello' with the policy's own spaces"
        raise Broken(sent, "'welcome'", str(blocked)) from blocked


@CHAPTER.check(
    "session",
    "other spaces",
    "Spaces that differ from the policy's get ERROR_CODE_SPACE_MISMATCH, which says where.",
)
def _other_spaces(subject: PolicySubject) -> None:
    for name in ("observation_space", "action_space"):
        group = _group(subject)
        own = getattr(group, name)
        pair = space_pb2.Space(tuple=space_pb2.Tuple(members=[own, own]))
        own.CopyFrom(pair)
        stream = subject.stream()
        stream.send(subject.hello(groups=[group]))
        code = simulator_pb2.ERROR_CODE_SPACE_MISMATCH
        error = expect_error(stream, [code], f"'hello' with another {name}")
        if not error.message:
            raise Broken(f"'hello' with another {name}", "a message that says where", "none")


@CHAPTER.check("session", "unknown version", "0: the last one at every action, else pinned")
def _unknown_version(subject: PolicySubject) -> None:
    stream = subject.stream()
    stream.send(subject.hello(policy_version=2**62 + 1))
    code = simulator_pb2.ERROR_CODE_UNKNOWN_POLICY
    expect_error(stream, [code], f"'hello' with version {2**62 + 1}")


@CHAPTER.check("session", "first event", "The first event is `hello` or `resume`.")
def _first_event(subject: PolicySubject) -> None:
    stream = subject.stream()
    stream.send(pb.LiveEvent(sequence=1, keep_alive=pb.KeepAlive()))
    expect_error(stream, [simulator_pb2.ERROR_CODE_PROTOCOL], "'keep_alive' as the first event")


@CHAPTER.check(
    "session", "hello twice", "An event that cannot be carried out gets an `error` reply"
)
def _hello_twice(subject: PolicySubject) -> None:
    session = subject.session()
    hello = subject.hello().hello
    session.refused([simulator_pb2.ERROR_CODE_PROTOCOL], "'hello' twice", hello=hello)
    session.start(1)


@CHAPTER.check("session", "keep alive", "Done done = 5; // To `start`, `end` and `keep_alive`.")
def _keep_alive(subject: PolicySubject) -> None:
    reply = subject.session().ask(keep_alive=pb.KeepAlive())
    if not reply.HasField("done"):
        raise Broken("'keep_alive'", "'done'", told(reply))


@CHAPTER.check("session", "farewell", "The server ends the stream itself with status OK")
def _farewell(subject: PolicySubject) -> None:
    session = subject.session()
    reply = session.ask(goodbye=pb.Goodbye())
    if not reply.HasField("farewell"):
        raise Broken("'goodbye'", "'farewell'", told(reply))
    status = session.stream.status()
    if status is not grpc.StatusCode.OK:
        raise Broken("'goodbye'", "the end of the stream, with status OK", status.name)


@CHAPTER.check("session", "no event", _ENDS)
def _no_event(subject: PolicySubject) -> None:
    session = subject.session()
    session.stream.send(b"\xff\xff\xff")
    status = session.stream.status()
    if status is not grpc.StatusCode.INVALID_ARGUMENT:
        raise Broken("bytes that are no LiveEvent", "INVALID_ARGUMENT", status.name)


def _group(subject: PolicySubject) -> simulator_pb2.Group:
    return simulator_pb2.Group(
        name="all",
        agents=[subject.agent_name or "agent"],
        observation_space=spaces.to_proto(subject.observation_space),
        action_space=spaces.to_proto(subject.action_space),
        has_action_mask=subject.policy.has_action_mask,
    )


# -- numbers ----------------------------------------------------------------------------------


@CHAPTER.check(
    "sequence",
    "one reply each",
    "Every event carries a sequence number and gets exactly one reply with that number, in the "
    "order of the numbers",
)
def _one_reply_each(subject: PolicySubject) -> None:
    session = subject.serving()
    first, *_ = subject.observations(1)
    events = [
        session.next(observe=pb.Observe(episode=1, agents=[subject.agent(first)])),
        *(session.next(keep_alive=pb.KeepAlive()) for _ in range(3)),
    ]
    events = events[: session.welcome.max_in_flight]
    for event in events:
        session.stream.send(event)
    sent = f"{len(events)} events without waiting for replies"
    found = []
    for _ in events:
        try:
            found.append(session.stream.receive()[1].sequence)
        except StreamEnded as ended:
            raise Broken(sent, "as many replies", str(ended)) from ended
    expected = [event.sequence for event in events]
    if found != expected:
        raise Broken(sent, f"replies to {expected}", f"to {found}")


@CHAPTER.check("sequence", "a repeated event", _ONCE)
def _a_repeated_event(subject: PolicySubject) -> None:
    session = subject.session()
    start = session.next(start=pb.EpisodeStart(episode=1))
    replies = []
    for _ in range(2):
        session.stream.send(start)
        replies.append(session.stream.receive())
    if replies[0][0] != replies[1][0]:
        sent = "a 'start' twice, the same bytes"
        raise Broken(sent, "the same bytes twice", f"then {told(replies[1][1])}")


@CHAPTER.check("sequence", "another event with its number", _ONCE)
def _another_event_with_its_number(subject: PolicySubject) -> None:
    session = subject.session()
    session.start(1)
    session.sequence -= 1
    code = simulator_pb2.ERROR_CODE_SEQUENCE
    sent = "a 'keep_alive' with the number of a 'start'"
    session.refused([code], sent, keep_alive=pb.KeepAlive())


@CHAPTER.check("sequence", "a gap", _ONCE)
def _a_gap(subject: PolicySubject) -> None:
    session = subject.session()
    session.sequence += 5
    code = simulator_pb2.ERROR_CODE_SEQUENCE
    sent = "a 'keep_alive' with five numbers left out"
    session.refused([code], sent, keep_alive=pb.KeepAlive())


# -- resuming ---------------------------------------------------------------------------------


@CHAPTER.check(
    "resume", "goes on", "Goes on with a session whose stream has broken, on a new stream."
)
def _goes_on(subject: PolicySubject) -> None:
    session = subject.serving()
    session.stream.cut()
    stream = subject.stream()
    stream.send(subject.resuming(session.welcome.session_token))
    reply = stream.receive()[1]
    sent = "'resume' after the stream broke"
    if not reply.HasField("resumed"):
        raise Broken(sent, "'resumed'", told(reply))
    if reply.resumed.last_sequence != session.sequence:
        came = str(reply.resumed.last_sequence)
        raise Broken(sent, f"last_sequence {session.sequence}", came)
    session.stream = stream
    (observation,) = subject.observations(1)
    try:
        session.act(1, subject.agent(observation))
    except Blocked as blocked:
        sent = "'observe' in an episode from before the stream broke"
        raise Broken(sent, "an action", str(blocked)) from blocked


@CHAPTER.check(
    "resume", "the reply it lacks", "with their old numbers, the events whose replies it lacks."
)
def _the_reply_it_lacks(subject: PolicySubject) -> None:
    session = subject.serving()
    (observation,) = subject.observations(1)
    observe = session.next(observe=pb.Observe(episode=1, agents=[subject.agent(observation)]))
    session.stream.send(observe)
    raw, reply = session.stream.receive()
    if not reply.HasField("actions"):
        raise Blocked(f"'observe' got {told(reply)}")
    session.stream.cut()
    stream = subject.stream()
    stream.send(subject.resuming(session.welcome.session_token))
    reply = stream.receive()[1]
    if not reply.HasField("resumed"):
        raise Blocked(f"'resume' got {told(reply)}")
    stream.send(observe)
    again, reply = stream.receive()
    session.stream = stream
    if again != raw:
        sent = "'resume', and an 'observe' again that had got its reply"
        raise Broken(sent, "the same bytes as before", told(reply))


@CHAPTER.check(
    "resume", "unknown token", "An unknown or expired token gets ERROR_CODE_SESSION_LOST"
)
def _unknown_token(subject: PolicySubject) -> None:
    stream = subject.stream()
    stream.send(subject.resuming("a-token-that-nobody-gave"))
    code = simulator_pb2.ERROR_CODE_SESSION_LOST
    expect_error(stream, [code], "'resume' with a made-up token")


@CHAPTER.check("resume", "takes over", "ABORTED another stream has resumed this session")
def _takes_over(subject: PolicySubject) -> None:
    session = subject.session()
    stream = subject.stream()
    stream.send(subject.resuming(session.welcome.session_token))
    reply = stream.receive()[1]
    if not reply.HasField("resumed"):
        raise Blocked(f"'resume' got {told(reply)}")
    status = session.stream.status()
    session.stream = stream
    if status is not grpc.StatusCode.ABORTED:
        sent = "'resume' on another stream while the first one stood"
        raise Broken(sent, "the end of the first, with status ABORTED", status.name)
