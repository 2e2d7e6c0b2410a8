"""What the doctor says: what each step saw, causes and remedies."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Cause(str, Enum):
    """Everything that the doctor can name as the cause; each is the start of its sentence."""

    # Why a server can not be used, in the order in which it is tried.
    NAME = "the name does not resolve"
    PORT_CLOSED = "nothing listens on the port"
    PORT_SILENT = "the port does not answer"
    NO_ROUTE = "there is no way to the host"
    WANTS_TLS = "the server wants TLS, and this client spoke plain text"
    SPEAKS_PLAIN = "the server speaks plain text, and this client TLS"
    CERTIFICATE_EXPIRED = "the server's certificate has expired, or is not valid yet"
    CERTIFICATE_NAME = "the server's certificate is for another name"
    CERTIFICATE_AUTHORITY = "the server's certificate is not signed by the authority trusted here"
    CLIENT_CERTIFICATE = "the server wants a client certificate, and not this one or none"
    TLS_FAILED = "the TLS handshake fails"
    HTTP1 = "the server answers in HTTP/1, not gRPC"
    NOT_GRPC = "the server does not speak HTTP/2"
    NOT_FARSIM = "the server speaks gRPC, but not farsim.v1"
    TOKEN_MISSING = "the server wants a token, and none was sent"
    TOKEN_WRONG = "the server does not accept this token"
    DRAINING = "the server is about to stop"
    VERSION = "the server speaks another version of the contract"
    NO_SIMULATOR = "the server does not have that simulator"
    SPACES = "a space of the simulator can not be read"
    FULL = "the server is full"
    OPTIONS = "the simulator does not take these options"
    SIMULATOR_FAILS = "the simulator fails"
    HANGS = "the server is at work on a request and does not come to an end"
    LOST = "the connection breaks"

    # Why steps take as long as they do.
    SLOW_SIMULATOR = "the simulator is slow"
    LARGE_MESSAGES = "the link is slow for messages this large"
    LATENCY = "the link is long: most of a step is on its way"
    CODEC = "packing and unpacking values takes the most"
    BUSY = "the server's process is busy with something else"
    SMALL_BATCHES = "batches are small: a step's fixed cost is the most of it"
    CROWDED_CORES = "the servers share too few cores"
    INFERENCE = "the policy's network is slow"
    NOTHING = "nothing stands out"

    # Worth knowing, whatever else there is.
    DEBUG = "the server runs with --debug"
    HEALTH = "the server has no health service"
    DIFFERENT = "the servers do not offer the same"


@dataclass(frozen=True)
class Finding:
    """A cause and what to do about it.

    Attributes:
        cause: of a kind that the doctor knows.
        evidence: what was seen that says so.
        remedy: what to do.
    """

    cause: Cause
    evidence: str
    remedy: str


@dataclass(frozen=True)
class Step:
    """One step on the way to a server.

    Attributes:
        name: in a word.
        saw: what was found.
        is_good: whether the next step can be tried.
    """

    name: str
    saw: str
    is_good: bool = True


class Stopped(Exception):
    """A step on the way failed.

    Args:
        name: of the step.
        finding: why.
    """

    def __init__(self, name: str, finding: Finding) -> None:
        super().__init__(finding.cause.value)
        self.name, self.finding = name, finding


@dataclass(frozen=True)
class Share:
    """A part of a step's time, in seconds.

    Attributes:
        part: "simulator", "codec", "network", "queue", "inference" or "step" for the whole.
        median: half of the steps took less.
        p99: of 100 steps one took longer.
    """

    part: str
    median: float
    p99: float


@dataclass
class Diagnosis:
    """What was found at one address.

    Attributes:
        address: host:port.
        steps: on the way, in order.
        findings: the likeliest cause first.
        shares: of a step's time, the whole last; empty if it was not measured.
        notes: more that was measured, for people.
    """

    address: str
    steps: list[Step] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_reached(self) -> bool:
        """Whether every step on the way was good."""
        return all(step.is_good for step in self.steps)
