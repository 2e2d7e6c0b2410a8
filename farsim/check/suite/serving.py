"""What a server has beside simulators: health, reflection, tokens, bounds."""

from __future__ import annotations

from dataclasses import replace

import grpc

from farsim.channel import open_channel
from farsim.check.health import status
from farsim.check.play import expect_error
from farsim.check.stream import StreamEnded, told
from farsim.check.subject import Subject
from farsim.check.verdicts import Blocked, Broken, Chapter, NotExercised, NotOffered
from farsim.protocol import SERVICE
from farsim.v1 import simulator_pb2 as pb

CHAPTER = Chapter()
_NEXT_TO_IT = "Next to it a server offers grpc.health.v1 and should offer server reflection."
_TOKEN = (
    "If the server asks for a token, every call but health checks must carry the metadata "
    "`authorization: Bearer <token>`."
)
#: Three pings of 20 s and a little.
_PINGS_SECONDS = 70.0
#: With more sessions than this the bound is not tried.
_MOST_SESSIONS = 16


@CHAPTER.check("serving", "health", _NEXT_TO_IT, once=True)
def _health(subject: Subject) -> None:
    try:
        found = status(subject.channel(), subject.seconds_left())
    except grpc.RpcError as error:
        found = f"status {error.code().name}"
    if found != "SERVING":
        raise Broken("grpc.health.v1.Health/Check", "SERVING", found)


@CHAPTER.check("serving", "reflection", _NEXT_TO_IT, once=True)
def _reflection(subject: Subject) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    stub = reflection_pb2_grpc.ServerReflectionStub(subject.channel())
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    try:
        reply = next(
            iter(stub.ServerReflectionInfo(iter([request]), timeout=subject.seconds_left()))
        )
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise NotOffered("no server reflection, which a server should offer") from error
        raise Broken("server reflection", "the names of services", error.code().name) from error
    found = [service.name for service in reply.list_services_response.service]
    if SERVICE not in found:
        raise Broken("server reflection", SERVICE, str(found))


@CHAPTER.check("serving", "token", _TOKEN, once=True)
def _token(subject: Subject) -> None:
    if subject.connection.read_token() is None:
        raise NotOffered("no --token-file was given")
    bare = replace(subject.connection, token=None, token_file=None)
    with open_channel(subject.address, bare) as channel:
        stream = subject.stream(channel)
        stream.send(subject.opening())
        try:
            came = told(stream.receive()[1])
        except StreamEnded as ended:
            if ended.status is not grpc.StatusCode.UNAUTHENTICATED:
                raise Broken("'open' without a token", "UNAUTHENTICATED", str(ended)) from ended
        else:
            raise Broken("'open' without a token", "UNAUTHENTICATED", came)
        try:
            found = status(channel, subject.seconds_left())
        except grpc.RpcError as error:
            found = f"status {error.code().name}"
        if found != "SERVING":
            raise Broken("a health check without a token", "SERVING", found)


@CHAPTER.check(
    "serving", "pings", "It must allow HTTP/2 pings every 20 s on open streams.", once=True
)
def _pings(subject: Subject) -> None:
    if subject.seconds < _PINGS_SECONDS + 10:
        raise NotExercised("takes 70 s: --only serving/pings --seconds 90")
    play = subject.open(subject.channel(keepalive_seconds=20.0))
    # Nothing comes; a server that minds the pings closes the connection meanwhile.
    subject.wait(_PINGS_SECONDS)
    try:
        play.reset()
    except Blocked as blocked:
        sent = f"nothing but pings every 20 s, for {_PINGS_SECONDS:g} s, then 'reset'"
        raise Broken(sent, "'batch'", str(blocked)) from blocked


@CHAPTER.check(
    "serving",
    "too many sessions",
    "Bounds of the whole server. A request beyond one gets ERROR_CODE_LIMIT",
    once=True,
)
def _too_many_sessions(subject: Subject) -> None:
    bound = subject.server.limits.max_sessions
    if not 0 < bound <= _MOST_SESSIONS:
        raise NotExercised(f"max_sessions is {bound or 'unbounded'}")
    for _ in range(bound):
        try:
            subject.open(num_environments=1)
        except Blocked as blocked:
            raise NotExercised(f"not all sessions are free: {blocked}") from blocked
    stream = subject.stream()
    stream.send(subject.opening(num_environments=1))
    expect_error(stream, [pb.ERROR_CODE_LIMIT], f"'open' with all {bound} sessions open")
