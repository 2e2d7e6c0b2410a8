"""The first calls to a server: health, what it is, which version, and its simulators' spaces."""

from __future__ import annotations

import grpc

from farsim import spaces
from farsim.channel import ConnectionOptions, open_channel
from farsim.check.health import status
from farsim.doctor.findings import Cause, Finding, Step, Stopped
from farsim.errors import FarsimError
from farsim.options import nearest
from farsim.protocol import PROTOCOL_VERSION, compatible
from farsim.v1 import policy_pb2, policy_pb2_grpc, simulator_pb2_grpc
from farsim.v1 import simulator_pb2 as pb

Description = pb.DescribeReply | policy_pb2.DescribePoliciesReply


class Greeting:
    """Asks a server who it is.

    Args:
        address: host:port.
        options: of the connection.
        seconds: for each call.
    """

    def __init__(self, address: str, options: ConnectionOptions, seconds: float) -> None:
        self._address, self._options, self._seconds = address, options, seconds
        #: Worth knowing, though it is no obstacle.
        self.remarks: list[Finding] = []

    def walk(self, steps: list[Step]) -> Description:
        """Adds each good step to ``steps``, and returns what the server says it has.

        Raises:
            Stopped: at the first that is not good.
        """
        with open_channel(self._address, self._options) as channel:
            steps.append(Step("health", self._health(channel)))
            description = self._describe(channel)
        steps.append(Step("token", "sent" if self._options.read_token() else "none is asked for"))
        if not compatible(description.protocol_version):
            raise Stopped(
                "version",
                Finding(
                    Cause.VERSION,
                    f"it speaks {description.protocol_version or 'none that it names'}, this "
                    f"client {PROTOCOL_VERSION}",
                    "use releases whose major versions agree on both ends",
                ),
            )
        steps.append(Step("version", f"{description.protocol_version}, {description.server}"))
        return description

    def _health(self, channel: grpc.Channel) -> str:
        try:
            found = status(channel, self._seconds)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self.remarks.append(
                    Finding(
                        Cause.HEALTH,
                        "grpc.health.v1 is not implemented",
                        "add it, for probes and load balancers: the contract asks for it",
                    )
                )
                return "no health service"
            raise Stopped("health", self._failed(error)) from error
        if found != "SERVING":
            raise Stopped("health", _draining(f"its health is {found}"))
        return found

    def _describe(self, channel: grpc.Channel) -> Description:
        try:
            stub = simulator_pb2_grpc.SimulatorStub(channel)
            return stub.Describe(pb.DescribeRequest(), timeout=self._seconds)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise Stopped("description", self._failed(error)) from error
        try:
            other = policy_pb2_grpc.PolicyStub(channel)
            return other.Describe(policy_pb2.DescribePoliciesRequest(), timeout=self._seconds)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise Stopped("description", self._failed(error)) from error
            raise Stopped(
                "description",
                Finding(
                    Cause.NOT_FARSIM,
                    "it has neither farsim.v1.Simulator nor farsim.v1.Policy",
                    "check the port; another gRPC service listens there",
                ),
            ) from error

    def _failed(self, error: grpc.RpcError) -> Finding:
        code, details = error.code(), error.details() or "no details"
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            if self._options.read_token() is None:
                return Finding(
                    Cause.TOKEN_MISSING, details, "give --token-file the file with its token"
                )
            return Finding(
                Cause.TOKEN_WRONG, details, "compare --token-file here with the server's"
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Finding(
                Cause.HANGS,
                f"no answer within {self._seconds:g} s",
                "look at the server's log and processor; a process in one long call answers "
                "nobody (farsim serve --max-step-seconds starts such a one anew)",
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return Finding(Cause.NOT_FARSIM, details, "check the port")
        return Finding(Cause.LOST, f"{code.name}: {details}", "try again, and see the server's log")


def simulator_of(
    description: pb.DescribeReply, wanted: str, steps: list[Step]
) -> pb.SimulatorDescription:
    """The simulator called ``wanted``, by default the first; its spaces can be read.

    Raises:
        Stopped: there is none such, or one of its spaces can not be read.
    """
    names = [found.name for found in description.simulators]
    if not names or (wanted and wanted not in names):
        raise Stopped(
            "simulator",
            Finding(
                Cause.NO_SIMULATOR,
                f"'{wanted}'{nearest(wanted, names)}" if wanted else "it has none at all",
                "name one that it has with --simulator, or serve this one",
            ),
        )
    found = next(each for each in description.simulators if not wanted or each.name == wanted)
    for group in found.groups:
        for kind, message in (
            ("observation_space", group.observation_space),
            ("action_space", group.action_space),
        ):
            try:
                spaces.from_proto(message)
            except FarsimError as error:
                raise Stopped(
                    "spaces",
                    Finding(
                        Cause.SPACES,
                        f"{found.name}, group {group.name}, {kind}: {error}",
                        "mend the description; farsim check says what else the contract asks for",
                    ),
                ) from error
    agents = sum(len(group.agents) for group in found.groups)
    steps.append(Step("spaces", f"{found.name}: {len(found.groups)} groups, {agents} agents"))
    return found


def _draining(evidence: str) -> Finding:
    return Finding(
        Cause.DRAINING, evidence, "wait until it is back, or use another; see who stopped it"
    )


def of_error(error: pb.Error) -> Finding:
    """Why a request of a session was refused."""
    name = pb.ErrorCode.Name(error.code) if error.code in pb.ErrorCode.values() else error.code
    evidence = f"{name}: {error.message}"
    if error.code == pb.ERROR_CODE_LIMIT:
        return Finding(
            Cause.FULL,
            evidence,
            "use another server or more --workers, close what is not used, or raise its limits "
            "(--max-sessions, --max-environments, --max-message-bytes)",
        )
    if error.code == pb.ERROR_CODE_DRAINING:
        return _draining(evidence)
    if error.code in (
        pb.ERROR_CODE_UNKNOWN_OPTION,
        pb.ERROR_CODE_INVALID_OPTION,
        pb.ERROR_CODE_INVALID_ARGUMENT,
    ):
        return Finding(Cause.OPTIONS, evidence, "give --option other values, or fewer --envs")
    if error.code == pb.ERROR_CODE_PROTOCOL_VERSION:
        return Finding(Cause.VERSION, evidence, "use releases whose major versions agree")
    return Finding(
        Cause.SIMULATOR_FAILS,
        evidence,
        "see the server's log; farsim serve --debug sends the traceback along",
    )
