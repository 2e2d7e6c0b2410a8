"""Everything that can go wrong between two peers, one class for each thing someone can act on.

Those with a ``code`` cross the wire as ``farsim.v1.Error``; the others arise on one side. Each
also inherits the builtin that a Python user would catch, and all of them pickle, since Ray
carries exceptions between processes.
"""

from __future__ import annotations

from typing import ClassVar

from farsim.v1 import simulator_pb2 as pb


class FarsimError(Exception):
    """Base of all errors of this package.

    Args:
        message: what was wrong, and what to do.
        subject: what it is about: an option's name, "groups[0].actions", an address, ...
    """

    code: ClassVar[pb.ErrorCode] = pb.ERROR_CODE_UNSPECIFIED

    def __init__(self, message: str, subject: str = "") -> None:
        super().__init__(message)
        self.subject = subject

    @property
    def message(self) -> str:
        return str(self.args[0])


class ProtocolVersionError(FarsimError, RuntimeError):
    """The peers do not speak the same major version of the contract."""

    code = pb.ERROR_CODE_PROTOCOL_VERSION


class ProtocolError(FarsimError, RuntimeError):
    """A request out of turn: before the session is open, before a reset, open twice."""

    code = pb.ERROR_CODE_PROTOCOL


class SequenceError(FarsimError, RuntimeError):
    """A sequence number skipped, used for two different requests, or no longer remembered."""

    code = pb.ERROR_CODE_SEQUENCE


class SessionLost(FarsimError, ConnectionError):
    """The session is gone and with it its environments; their episodes are truncated."""

    code = pb.ERROR_CODE_SESSION_LOST


class UnknownSimulator(FarsimError, LookupError):
    """No simulator of that name is on offer."""

    code = pb.ERROR_CODE_UNKNOWN_SIMULATOR


class UnknownOption(FarsimError, ValueError):
    """The simulator declares no such parameter."""

    code = pb.ERROR_CODE_UNKNOWN_OPTION


class InvalidOption(FarsimError, ValueError):
    """A value outside the parameter's space or choices, or not allowed at this point."""

    code = pb.ERROR_CODE_INVALID_OPTION


class InvalidTensor(FarsimError, ValueError):
    """The dtype, shape and bytes of a tensor do not agree with each other or with its space."""

    code = pb.ERROR_CODE_INVALID_TENSOR


class InvalidAction(FarsimError, ValueError):
    """An action of the wrong dtype or shape, or outside the action space."""

    code = pb.ERROR_CODE_INVALID_ACTION


class InvalidArgument(FarsimError, ValueError):
    """Something else in a request: rows, counts, seeds."""

    code = pb.ERROR_CODE_INVALID_ARGUMENT


class EpisodeOver(FarsimError, RuntimeError):
    """A step for an environment whose episode is over, without autoreset."""

    code = pb.ERROR_CODE_EPISODE_OVER


class Unsupported(FarsimError, NotImplementedError):
    """Something that the simulator does not declare that it can."""

    code = pb.ERROR_CODE_UNSUPPORTED


class LimitExceeded(FarsimError, RuntimeError):
    """A bound of the server: sessions, environments, requests in flight."""

    code = pb.ERROR_CODE_LIMIT


class Draining(FarsimError, ConnectionError):
    """The server is about to stop and takes no more requests."""

    code = pb.ERROR_CODE_DRAINING


class SimulatorFault(FarsimError, RuntimeError):
    """The simulator raised an exception."""

    code = pb.ERROR_CODE_SIMULATOR


class InternalError(FarsimError, RuntimeError):
    """The server itself is wrong."""

    code = pb.ERROR_CODE_INTERNAL


class UnknownPolicy(FarsimError, LookupError):
    """A policy, an agent or a version that is not served."""

    code = pb.ERROR_CODE_UNKNOWN_POLICY


class InvalidObservation(FarsimError, ValueError):
    """An observation of the wrong dtype or shape, or outside the observation space."""

    code = pb.ERROR_CODE_INVALID_OBSERVATION


class InvalidAddress(FarsimError, ValueError):
    """Not ``host:port`` or ``host:first-last``."""


class ServerUnavailable(FarsimError, ConnectionError):
    """Nobody answers at that address, or the connection broke and did not come back."""


class DeadlineExceeded(FarsimError, TimeoutError):
    """A request was not answered within its deadline."""


class AuthenticationFailed(FarsimError, PermissionError):
    """The server does not accept the token, or the peers do not accept each other's certificate."""


class MessageTooLarge(FarsimError, ValueError):
    """A message over the size that one of the peers accepts."""


class SpaceMismatch(FarsimError, ValueError):
    """Spaces that should be the same are not."""

    code = pb.ERROR_CODE_SPACE_MISMATCH


_BY_CODE: dict[int, type[FarsimError]] = {
    cls.code: cls for cls in FarsimError.__subclasses__() if cls.code
}


def to_proto(error: BaseException, traceback: str = "") -> pb.Error:
    """The wire form. An exception that is no ``FarsimError`` counts as the simulator's own."""
    if isinstance(error, FarsimError) and error.code:
        return pb.Error(
            code=error.code, message=error.message, subject=error.subject, traceback=traceback
        )
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return pb.Error(code=pb.ERROR_CODE_SIMULATOR, message=text, traceback=traceback)


def from_proto(error: pb.Error) -> FarsimError:
    """The exception for a wire error; codes of a newer minor version become ``FarsimError``."""
    message = error.message
    if error.traceback:
        message = f"{message}\n\n{error.traceback}"
    return _BY_CODE.get(error.code, FarsimError)(message, error.subject)
