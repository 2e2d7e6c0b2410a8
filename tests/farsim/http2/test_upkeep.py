"""Connections that nobody uses for a while, or that are let go of."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import grpc
import pytest

from farsim.channel import ConnectionOptions
from farsim.http2 import frames, upkeep
from farsim.http2.client import Client
from tests.farsim.http2.callers import RESTLESS, RUN, SECONDS, call, connected
from tests.farsim.http2.echo import KINDS, Echo, echo


@pytest.mark.parametrize("kind", KINDS)
def test_an_idle_client_answers_the_servers_pings(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(upkeep, "_EVERY_SECONDS", 0.05)
    with echo(kind, **RESTLESS) as server, connected(server.address) as client:
        client.open(RUN)
        client.put(b"x")
        assert client.take(SECONDS) == b"x"
        time.sleep(1.2)  # Twice as long as the server waits for an answer.
        client.put(b"y")
        assert client.take(SECONDS) == b"y"


@contextlib.contextmanager
def greeting(listen: Callable[[socket.socket], object]) -> Iterator[str]:
    """The address of a server that greets its one client, and then does what ``listen`` does."""

    def serve() -> None:
        with listener.accept()[0] as peer:
            peer.settimeout(SECONDS)
            peer.sendall(frames.settings([]))
            listen(peer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(SECONDS)
        assert not thread.is_alive()


def until_it_hangs_up(peer: socket.socket) -> None:
    while peer.recv(1 << 16):
        pass


def test_a_silent_connection_is_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_EVERY_SECONDS", 0.02)
    ping = frames.frame(frames.PING, 0, 0, bytes(8))
    come = bytearray()
    pinged = threading.Event()

    def listen(peer: socket.socket) -> None:
        while ping not in come and (more := peer.recv(1 << 16)):
            come.extend(more)
        pinged.set()

    with greeting(listen) as address, connected(address, keepalive_seconds=0.1):
        assert pinged.wait(SECONDS)
    assert ping in come


def upkeep_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "farsim upkeep"]


def test_one_thread_looks_after_all_connections_and_ends_with_the_last(server: Echo) -> None:
    assert not upkeep_threads()
    clients = [Client(server.address, ConnectionOptions()) for _ in range(5)]
    for client in clients:
        client.connect(SECONDS)
    (thread,) = upkeep_threads()
    for client in clients:
        assert thread.is_alive()
        client.hang_up()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert call("direct", server.address, "Echo", b"again") == b"again"


def test_one_that_takes_nothing_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_EVERY_SECONDS", 0.05)
    with contextlib.ExitStack() as stack:
        over = threading.Event()
        address = stack.enter_context(greeting(lambda peer: bool(over.wait(60))))
        stack.callback(over.set)
        first = stack.enter_context(connected(address, keepalive_seconds=0.01, request_seconds=60))
        link = first._link
        assert link is not None
        refused = 0
        with link.lock:
            while refused < 20:  # The kernel makes room for a while.
                try:
                    link._pipe._sock.send(bytes(1 << 10))
                except BlockingIOError:
                    refused += 1
                    time.sleep(0.01)
                else:
                    refused = 0
        server = stack.enter_context(echo(**RESTLESS))
        second = stack.enter_context(connected(server.address))
        second.open(RUN)
        time.sleep(1.2)  # As above.
        second.put(b"x")
        assert second.take(SECONDS) == b"x"


def test_a_forgotten_client_can_be_hung_up_by_a_garbage_collection(server: Echo) -> None:
    class Session:
        def __init__(self) -> None:
            self.itself = self
            client = Client(server.address, ConnectionOptions())
            client.connect(SECONDS)
            client.open(RUN)
            client.put(b"x")
            weakref.finalize(self, client.hang_up, b"good bye")

    Session()
    gc.collect()
    assert server.over.wait(SECONDS)
    for thread in upkeep_threads():
        thread.join(SECONDS)


def test_hanging_up_while_another_thread_waits(server: Echo) -> None:
    with connected(server.address) as client:
        client.open(RUN)
        client.put(b"x")
        assert client.take(SECONDS) == b"x"
        taken: list[object] = []
        waiter = threading.Thread(target=lambda: taken.append(client.take(60)))
        waiter.start()
        client.hang_up(b"good bye")
        waiter.join(SECONDS)
        assert isinstance(taken[0], (grpc.RpcError, bytes))


def test_a_forked_process_leaves_connections_alone_and_has_its_own(server: Echo) -> None:
    with connected(server.address) as client:
        client.open(RUN)
        client.put(b"x")
        assert client.take(SECONDS) == b"x"
        with greeting(until_it_hangs_up) as address:
            process = os.fork()
            if not process:
                code = 1
                try:
                    client.hang_up(b"good bye")
                    own = Client(address, ConnectionOptions())
                    own.connect(SECONDS)
                    (thread,) = upkeep_threads()
                    own.hang_up()
                    thread.join(SECONDS)
                    code = int(thread.is_alive())
                finally:
                    os._exit(code)
            assert os.waitpid(process, 0)[1] == 0
        client.put(b"y")
        assert client.take(SECONDS) == b"y"
