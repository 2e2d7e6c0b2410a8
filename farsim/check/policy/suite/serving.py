"""What a server has beside policies: health, reflection, tokens."""

from __future__ import annotations

from dataclasses import replace

import grpc

from farsim.channel import open_channel
from farsim.check.health import status
from farsim.check.policy.subject import PolicySubject
from farsim.check.verdicts import Broken, Chapter, NotOffered
from farsim.protocol import POLICY_SERVICE
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import policy_pb2_grpc

CHAPTER = Chapter()
_NEXT_TO_IT = "Next to it a server offers grpc.health.v1 and should offer server reflection."
_TOKEN = (
    "If the server asks for a token, every call but health checks must carry the metadata "
    "`authorization: Bearer <token>`."
)


@CHAPTER.check("serving", "health", _NEXT_TO_IT, once=True)
def _health(subject: PolicySubject) -> None:
    try:
        found = status(subject.shared_channel, subject.seconds_left())
    except grpc.RpcError as error:
        found = f"status {error.code().name}"
    if found != "SERVING":
        raise Broken("grpc.health.v1.Health/Check", "SERVING", found)


@CHAPTER.check("serving", "reflection", _NEXT_TO_IT, once=True)
def _reflection(subject: PolicySubject) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    stub = reflection_pb2_grpc.ServerReflectionStub(subject.shared_channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    try:
        replies = stub.ServerReflectionInfo(iter([request]), timeout=subject.seconds_left())
        reply = next(iter(replies))
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise NotOffered("no server reflection, which a server should offer") from error
        raise Broken("server reflection", "the names of services", error.code().name) from error
    found = [service.name for service in reply.list_services_response.service]
    if POLICY_SERVICE not in found:
        raise Broken("server reflection", POLICY_SERVICE, str(found))


@CHAPTER.check("serving", "token", _TOKEN, once=True)
def _token(subject: PolicySubject) -> None:
    if subject.connection.read_token() is None:
        raise NotOffered("no --token-file was given")
    bare = replace(subject.connection, token=None, token_file=None)
    with open_channel(subject.address, bare) as channel:
        stub = policy_pb2_grpc.PolicyStub(channel)
        try:
            stub.Describe(pb.DescribePoliciesRequest(), timeout=subject.seconds_left())
            came = "a reply"
        except grpc.RpcError as error:
            came = error.code().name
        if came != "UNAUTHENTICATED":
            raise Broken("Describe without a token", "UNAUTHENTICATED", came)
        try:
            found = status(channel, subject.seconds_left())
        except grpc.RpcError as error:
            found = f"status {error.code().name}"
        if found != "SERVING":
            raise Broken("a health check without a token", "SERVING", found)
