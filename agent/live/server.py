"""One server of policies: port, transport security, health, reflection, and an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from agent.live.batching import Batcher
from agent.live.greeted import Greeted
from agent.live.inference import EpisodeSink, Inference
from agent.live.limits import Limits
from agent.live.metrics import Metrics
from agent.live.service import PolicyService
from farsim.protocol import POLICY_SERVICE
from farsim.serving import AioTokenCheck, ListenOptions, channel_options, listen
from farsim.v1 import policy_pb2 as pb

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class PolicyServerOptions(ListenOptions):
    """How a server of policies listens, whom it lets in and what for.

    Attributes:
        debug: whether tracebacks reach clients.
        limits: what clients may use.
        modes: those that live sessions may have; COLLECT only where somebody learns.
        greedy: whether actions are the likeliest ones where the client leaves it open; drawn
            ones otherwise.
    """

    debug: bool = False
    limits: Limits = field(default_factory=Limits)
    modes: tuple[pb.LiveMode, ...] = (pb.LIVE_MODE_SERVE, pb.LIVE_MODE_SHADOW)
    greedy: bool = True


class PolicyServer:
    """Serves policies at one address until it is told to stop, from a thread of its own.

    ``farsim.serving.run`` runs it as a process; within another program use it as a context, or
    call ``start`` and ``close``.

    Args:
        inference: the policies.
        address: ``host:port``; port 0 takes a free one.
        options: how.
        sinks: are told of what live sessions and calls go through.
        metrics: where to count.

    Attributes:
        address: with the port that was bound.

    Raises:
        InsecureAddress: ``address`` is beyond loopback, without TLS and without ``insecure``.
        InvalidAddress: it can not be listened on.
        InvalidCertificate: the PEM files do not hold what they should.
        InvalidArgument: the policies contradict each other.
        OSError: a certificate or key can not be read.
    """

    def __init__(
        self,
        inference: Inference,
        address: str = "127.0.0.1:0",
        options: PolicyServerOptions | None = None,
        sinks: Sequence[EpisodeSink] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self._options = options or PolicyServerOptions()
        self._inference, self._sinks = inference, tuple(sinks)
        self._metrics = metrics or Metrics()
        self._stop = threading.Event()
        self._closing = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="live", daemon=True)
        self._thread.start()
        try:
            self.address: str = self._in_loop(self._prepare(address))
        except BaseException:
            self._end_loop()
            raise

    def __enter__(self) -> PolicyServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def batcher(self) -> Batcher:
        """Whom every call and stream asks; its outcomes come in the server's own thread."""
        return self._service.batcher

    @property
    def counts(self) -> dict[str, int]:
        """What is open now: sessions, episodes, streams."""

        async def counts() -> dict[str, int]:
            return self._service.counts

        return self._in_loop(counts())

    def adopt(self, greeted: Greeted) -> None:
        """Takes over a session that another server has opened; to be called before ``start``.

        Its client can resume it here, and repeats all events but the first.

        Raises:
            FarsimError: the session can not be granted here.
        """

        async def adopt() -> None:
            self._service.adopt(greeted)

        self._in_loop(adopt())

    def start(self) -> None:
        """Begins to serve, and says so to health checks."""
        self._in_loop(self._start())

    def run_until_stopped(self) -> None:
        """Serves until ``stop`` is called, then drains."""
        # Event.wait without a time-out would not let signal handlers run on every platform.
        while not self._stop.wait(1.0):
            pass
        self.close()

    def stop(self, *_: Any) -> None:
        """Tells ``run_until_stopped`` to drain and return; fit for a signal handler."""
        self._stop.set()

    def close(self, grace_seconds: float | None = None) -> None:
        """Drains and ends. Later calls do nothing.

        Args:
            grace_seconds: how long what is being answered may take; None for the option.
        """
        with self._closing:
            if not self._loop.is_running():
                return
            grace = self._options.grace_seconds if grace_seconds is None else grace_seconds
            self._in_loop(self._close(grace))
            self._end_loop()

    async def _prepare(self, address: str) -> str:
        options = self._options
        self._grpc = grpc.aio.server(
            interceptors=(AioTokenCheck(options.token),) if options.token else (),
            options=channel_options(options.limits.max_message_bytes),
        )
        bound = listen(self._grpc, address, options)
        self._service = self._make_service(options, self._metrics)
        self._health = health.aio.HealthServicer()
        self._grpc.add_generic_rpc_handlers((self._service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        name = pb.DESCRIPTOR.services_by_name["Policy"].full_name
        reflection.enable_server_reflection(
            (name, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc
        )
        return bound

    def _make_service(self, options: PolicyServerOptions, metrics: Metrics) -> PolicyService:
        return PolicyService(
            self._inference,
            options.limits,
            metrics,
            self._sinks,
            options.modes,
            options.greedy,
            options.debug,
        )

    async def _start(self) -> None:
        await self._grpc.start()
        for service in ("", POLICY_SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def _close(self, grace_seconds: float) -> None:
        await self._health.enter_graceful_shutdown()
        await self._service.drain(grace_seconds)
        await self._grpc.stop(1.0)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _in_loop(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
