"""The simulated link: late and narrow, but complete and in order."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from agent.bench.child import Child
from agent.bench.link import Link
from farsim.errors import InvalidOption


@contextmanager
def echo() -> Iterator[str]:
    """The address of a server that sends back what it gets, and ends when that ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=answer, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in (accepting, *threads):
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def through(link: Link, *targets: str) -> Iterator[list[socket.socket]]:
    """A connection to each target, by a proxy."""
    wanted = {
        "targets": targets,
        "round_trip_ms": link.round_trip_ms,
        "megabits": link.megabits,
    }
    proxy = Child([sys.executable, "-m", "agent.bench.proxy", json.dumps(wanted)])
    connections = []
    try:
        for address in proxy.hear(60)["addresses"]:
            host, _, port = address.rpartition(":")
            connections.append(socket.create_connection((host, int(port)), 30))
        yield connections
    finally:
        for connection in connections:
            connection.close()
        proxy.stop()


def receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        assert piece, f"the end after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


def exchange(connection: socket.socket, data: bytes) -> bytes:
    """Sends while it receives, and ends its side before it has everything."""

    def send() -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send)
    sending.start()
    received = receive(connection, len(data))
    sending.join(20)
    assert connection.recv(1) == b"", "the end has come too"
    return received


@pytest.mark.parametrize("link", ["none", "7ms", "200Mbit", "7ms,200Mbit"])
def test_bytes_arrive_all_and_in_order(link: str):
    data = os.urandom(3_000_000)
    with echo() as target, through(Link.of(link), target) as (connection,):
        assert exchange(connection, data) == data


def test_a_round_trip_takes_as_long_as_it_should():
    with echo() as target, through(Link(round_trip_ms=30), target) as (connection,):
        for _ in range(3):
            begun = time.perf_counter()
            connection.sendall(b"ping")
            assert receive(connection, 4) == b"ping"
            assert time.perf_counter() - begun >= 0.030


def test_many_messages_are_on_their_way_at_once():
    with echo() as target, through(Link(round_trip_ms=100), target) as (connection,):
        begun = time.perf_counter()
        for number in range(100):
            connection.sendall(b"%02d" % number)
        assert receive(connection, 200) == b"".join(b"%02d" % number for number in range(100))
        assert time.perf_counter() - begun >= 0.1


def test_bytes_pass_no_faster_than_the_link_lets_them():
    size, burst = 400_000, 16 * 1024
    with echo() as target, through(Link(megabits=32), target) as (connection,):
        begun = time.perf_counter()
        assert exchange(connection, bytes(size)) == bytes(size)
        assert time.perf_counter() - begun >= (size - burst) / 4e6


def test_each_server_has_a_link_of_its_own():
    with (
        echo() as first,
        echo() as second,
        through(Link(1.0), first, second) as (one, other),
    ):
        one.sendall(b"one")
        other.sendall(b"other")
        assert receive(other, 5) == b"other"
        assert receive(one, 3) == b"one"


def test_a_server_that_is_not_there_ends_the_connection():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with through(Link(), address) as (connection,), suppress(ConnectionResetError):
            assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("none", Link()),
        ("5ms", Link(5.0)),
        ("0.5ms,1Gbit", Link(0.5, 1000.0)),
        ("100Mbit", Link(0.0, 100.0)),
    ],
)
def test_links_as_people_write_them(text: str, link: Link):
    assert Link.of(text) == link
    assert str(link) == text


@pytest.mark.parametrize("text", ["5", "5 s", "fast", "5ms;1Gbit", ""])
def test_what_is_no_link_is_refused(text: str):
    with pytest.raises(InvalidOption, match="is no link: write 5ms"):
        Link.of(text)
