"""A server of a linear policy, in a thread of its own, and streams to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from agent.live.inference import PolicySpec
from agent.live.limits import Limits
from agent.live.server import PolicyServer, PolicyServerOptions
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import policy_pb2_grpc
from tests.agent.live.linear import Linear
from tests.agent.live.raw import RawLive, keep_alive
from tests.agent.live.recorder import Recorder


@dataclass
class Served:
    """A server and all that a test wants of it."""

    server: PolicyServer
    policy: Linear
    recorder: Recorder
    channel: grpc.Channel
    _streams: list[RawLive] = field(default_factory=list)

    @property
    def stub(self) -> Any:
        return policy_pb2_grpc.PolicyStub(self.channel)

    def stream(self, next_number: int = 1, **options: Any) -> RawLive:
        stream = RawLive(self.channel, next_number, **options)
        self._streams.append(stream)
        return stream

    def session(self, episode: int = 1, **hello: Any) -> RawLive:
        """A stream whose session is open and runs an episode."""
        stream = self.stream()
        stream.hello(**hello)
        stream.start(episode)
        return stream

    def let_it_read(self) -> None:
        """Gives the server time to receive what was sent, if it would; correct or not."""
        bystander = self.stream()
        bystander.hello()
        for _ in range(20):
            bystander.ask(keep_alive())

    def close(self) -> None:
        for stream in self._streams:
            stream.cut()
        self.channel.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    with ExitStack() as stack:

        def make(
            specs: Sequence[PolicySpec] | None = None,
            limits: Limits | None = None,
            learns: bool = True,
            metrics: Any = None,
            **options: Any,
        ) -> Served:
            policy = Linear(specs) if specs is not None else Linear()
            recorder = Recorder()
            modes = (pb.LIVE_MODE_SERVE, pb.LIVE_MODE_COLLECT, pb.LIVE_MODE_SHADOW)
            settings = PolicyServerOptions(
                limits=limits or Limits(),
                modes=modes if learns else (modes[0], modes[2]),
                grace_seconds=10.0,
                **options,
            )
            server = PolicyServer(policy, options=settings, sinks=(recorder,), metrics=metrics)
            stack.enter_context(server)
            stack.callback(policy.gate.set)
            served = Served(server, policy, recorder, grpc.insecure_channel(server.address))
            stack.callback(served.close)
            return served

        yield make


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()
