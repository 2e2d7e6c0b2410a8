"""Requests that reach the gateway just as the stream to their server ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from agent.gateway.attach import relay
from agent.gateway.attach.clients import ClientStream
from agent.gateway.attach.gateway import Gateway, GatewayOptions
from agent.session import Session
from tests.agent.test_env_runner import INTEGRITY
from tests.gateways import dialling
from tests.proxy import Proxy

CONNECTION = {"request_seconds": 20.0, "resume_seconds": 20.0}


class HeldBack:
    """A call's context, of which one request is read when the call has just been told to end.

    Args:
        context: the call's own.
        proxy: what the server has dialled through.
        wanted: set for the next request to be that one; clear again once it has been read.
    """

    def __init__(
        self, context: grpc.aio.ServicerContext, proxy: Proxy, wanted: threading.Event
    ) -> None:
        self.stream: ClientStream
        self._context, self._proxy, self._wanted = context, proxy, wanted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        raw = await self._context.read()
        if self._wanted.is_set():
            self._wanted.clear()
            assert self._proxy.cut()
            # Its turn comes before that of whoever waits for the end of the call.
            while not self.stream.over.done():
                await asyncio.sleep(0)
        return raw


@contextmanager
def gateway() -> Iterator[Gateway]:
    """A gateway in this process, where the order of what happens in it can be chosen."""
    head = Gateway("127.0.0.1:0", "127.0.0.1:0", GatewayOptions())
    head.start()
    thread = threading.Thread(target=head.run_until_stopped)
    thread.start()
    try:
        yield head
    finally:
        head.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_a_request_read_as_its_server_is_lost_is_carried_out_after_the_break(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = threading.Event()
    with gateway() as head, Proxy(head.listens_at) as there:

        def stream(context: grpc.aio.ServicerContext, *rest: Any) -> ClientStream:
            held: Any = HeldBack(context, there, wanted)
            held.stream = ClientStream(held, *rest)
            return held.stream

        monkeypatch.setattr(relay, "ClientStream", stream)
        with (
            dialling(there.address, INTEGRITY),
            Session.open(head.address, num_envs=2, connection=CONNECTION) as session,
        ):
            first = session.reset().groups[0].observation
            actions = [np.ones(2, np.int64)]
            for number in (1, 2):
                wanted.set()
                observation = session.step(actions).groups[0].observation
                assert not wanted.is_set()
                np.testing.assert_array_equal(observation[:, :3], first[:, :3])
                # The simulator says in column 3 which step it is in.
                np.testing.assert_array_equal(observation[:, 3], number)
