"""A server's port, met by clients that are slow, silent, greedy or talk nonsense."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from farsim.errors import InvalidAddress
from farsim.http2 import frames
from farsim.http2.events import Broken
from farsim.v1 import simulator_pb2 as pb
from simserver import catalogue
from simserver.direct import connection, front, relay
from simserver.direct.listeners import bind
from simserver.limits import Limits
from simserver.server import Server, ServerOptions
from tests.direct_client import PATIENCE, RUN, DirectStream, connected, opening_fields
from tests.proxy import Proxy
from tests.raw_client import RawStream, opening, reset, step
from tests.servers import Serving, serving
from tests.simserver.test_server import resume, wait_until

OURS = frames.PREFACE + frames.settings([(frames.ONE_STREAM, 1)])
BEGIN = frames.frame(
    frames.HEADERS, frames.END_HEADERS, 1, frames.header_block(opening_fields(RUN))
)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving("adder") as server:
        yield server


@pytest.fixture
def sock(server: Serving) -> Iterator[socket.socket]:
    """A connection that has said nothing yet; at the end, that others are still served."""
    with connected(server.address) as sock:
        yield sock
        assert_serves(server.address)


def assert_serves(address: str) -> None:
    """Clients of both kinds open a session and close it."""
    direct = DirectStream(address)
    with grpc.insecure_channel(address) as channel:
        for stream in (direct, RawStream(channel)):
            assert stream.ask(opening()).HasField("opened")
            assert stream.ask(pb.SimRequest(sequence=2, close=pb.Close())).HasField("closed")
            assert stream.status() is grpc.StatusCode.OK
    direct.close()


@contextmanager
def running(limits: Limits | None = None, address: str = "127.0.0.1:0") -> Iterator[Server]:
    """A server in this process, whose patience can be shortened."""
    options = ServerOptions(limits=limits or Limits())
    server = Server(catalogue.load(["adder"], {}), address, options)
    server.start()
    thread = threading.Thread(target=server.run_until_stopped)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def frames_of(sock: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Kind, stream and content of each frame, until the server hangs up."""
    file = sock.makefile("rb")
    while len(head := file.read(9)) == 9:
        high, low, kind, _, stream = frames.frame_header.unpack(head)
        yield kind, stream, file.read(high << 16 | low)


def farewell(sock: socket.socket) -> int:
    """The error code with which the server hangs up."""
    codes = [struct.unpack(">II", text[:8])[1] for k, _, text in frames_of(sock) if k == 7]
    assert len(codes) == 1, codes
    return int(codes[0])


def is_over(sock: socket.socket) -> bool:
    """Whether the server has hung up, whatever it said before."""
    sock.settimeout(PATIENCE)
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


# -- first words --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        os.urandom(4096),
        frames.PREFACE + os.urandom(4096),
        frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, bytes(1 << 20)),
    ],
    ids=["HTTP/1", "TLS", "noise", "noise after the preface", "endless settings"],
)
def test_what_is_no_client_at_all(server, sock, words):
    with suppress(OSError):  # It may have heard enough.
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
    assert is_over(sock)


def test_a_client_that_speaks_byte_by_byte(server, sock):
    for byte in OURS + BEGIN:
        sock.send(bytes([byte]))
    sock.shutdown(socket.SHUT_WR)
    assert frames.SETTINGS in [kind for kind, _, _ in frames_of(sock)]


def test_who_says_too_little_is_let_go(monkeypatch):
    monkeypatch.setattr(front, "_GREETING_SECONDS", 0.5)
    with running() as server, ExitStack() as stack:
        silent, half, slow = (stack.enter_context(connected(server.address)) for _ in range(3))
        half.send(OURS[:12])
        begun = time.monotonic()
        # Within the time of a read, and beyond that of all together.
        with pytest.raises(ConnectionError):
            for byte in frames.PREFACE * 100:
                assert time.monotonic() - begun < PATIENCE
                slow.send(bytes([byte]))
                time.sleep(0.1)
        assert is_over(silent) and is_over(half)
        assert_serves(server.address)


def test_those_who_say_nothing_keep_nobody_out(server, monkeypatch):
    process = psutil.Process(server.process.pid)
    before = process.num_threads()
    with ExitStack() as stack:
        strangers = [stack.enter_context(connected(server.address)) for _ in range(300)]
        wait_until(lambda: process.num_threads() >= before + 200, "strangers to be met")
        assert_serves(server.address)
        assert is_over(strangers[0]), "the first has made room for the last"
        assert process.num_threads() <= before + 270
    wait_until(lambda: process.num_threads() <= before + 4, "threads to end")


def test_more_connections_than_there_may_be():
    with running(Limits(max_sessions=1)) as server, ExitStack() as stack:
        streams = [DirectStream(server.address) for _ in range(260)]
        for stream in streams:
            stack.callback(stream.close)
        assert streams[-1].ask(opening()).HasField("opened")
        one_more = stack.enter_context(connected(server.address))
        assert is_over(one_more)
        streams[-1].ask(pb.SimRequest(sequence=2, close=pb.Close()))
        streams[-1].cut()
        wait_until(lambda: _opens(server.address), "room for one more")


def _opens(address: str) -> bool:
    try:
        with closing(DirectStream(address)) as stream:
            return stream.ask(opening()).HasField("opened")
    except Broken:  # There was no room, which it may learn at any moment.
        return False


# -- nonsense afterwards ------------------------------------------------------------------


def headers(stream: int, *more: tuple[str, str], flags: int = frames.END_HEADERS) -> bytes:
    block = frames.header_block(opening_fields(RUN, more))
    return frames.frame(frames.HEADERS, flags, stream, block)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (struct.pack(">BHBBI", 0xFF, 0xFFFF, 0, 0, 1), frames.FRAME_SIZE_ERROR),
        (BEGIN + frames.frame(frames.DATA, 0, 1, b"\1\0\0\0\1x"), frames.PROTOCOL_ERROR),
        (headers(1, ("x", "y" * 100_000)), frames.ENHANCE_YOUR_CALM),
        (frames.frame(frames.HEADERS, 4, 1, b"\xff" * 40), frames.COMPRESSION_ERROR),
        (headers(1, flags=0) + frames.frame(frames.PING, 0, 0, bytes(8)), frames.PROTOCOL_ERROR),
        (headers(2), frames.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 0, 5, b"x"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.PING, 0, 0, b"x"), frames.FRAME_SIZE_ERROR),
        (frames.settings([(frames.INITIAL_WINDOW, 1 << 31)]), frames.FLOW_CONTROL_ERROR),
    ],
    ids=[
        "a frame too large",
        "a compressed message",
        "fields too large",
        "fields that are none",
        "fields without end",
        "a server's stream",
        "data on no stream",
        "a short ping",
        "a window too large",
    ],
)
def test_what_ends_a_connection(server, sock, words, code):
    sock.sendall(OURS + words)
    assert farewell(sock) == code


def test_pings_at_once_end_a_connection(server, sock):
    sock.settimeout(PATIENCE)
    with suppress(ConnectionError):
        sock.sendall(OURS + frames.frame(frames.PING, 0, 0, bytes(8)) * 100_000)
    # What it says at the end may be lost with what it did not read.
    assert is_over(sock)


def test_a_second_call_at_the_same_time_is_refused(server, sock):
    sock.sendall(OURS + BEGIN)
    request = opening().SerializeToString()
    message = struct.pack(">BI", 0, len(request)) + request
    sock.sendall(headers(3) + frames.frame(frames.DATA, 0, 1, message))
    refused = frames.REFUSED_STREAM.to_bytes(4, "big")
    seen = []
    for kind, stream, content in frames_of(sock):
        if kind == frames.RST_STREAM:
            seen.append((stream, content))
        elif kind == frames.DATA:
            assert pb.SimReply.FromString(content[5:]).HasField("opened")
            break
    assert seen == [(3, refused)]


def test_pings_of_a_client_that_does_not_read(server):
    """Costs neither memory nor anyone else's time."""
    process = psutil.Process(server.process.pid)
    with connected(server.address) as sock:
        sock.sendall(OURS)
        before = process.memory_info().rss
        sock.settimeout(0.5)
        pings = frames.frame(frames.PING, 0, 0, bytes(8)) * 1000
        with pytest.raises((TimeoutError, ConnectionError)):
            for _ in range(10_000):
                sock.sendall(pings)
        assert process.memory_info().rss - before < 50e6
        assert_serves(server.address)


def test_messages_during_a_step_wait_in_the_network():
    with serving("tests.simulators.envs:Slow", "--heartbeat-seconds", "0.05") as slow:
        process = psutil.Process(slow.process.pid)
        stream = DirectStream(slow.address)
        stream.ask(opening())
        stream.ask(reset(2))
        stream.send(step(3, np.array([1.0, 0.0])))
        assert next(stream.replies).HasField("heartbeat")
        before = process.memory_info().rss
        sock = stream.sock
        sock.settimeout(0.3)
        message = frames.frame(frames.DATA, 0, 1, struct.pack(">BI", 0, 60_000) + bytes(60_000))
        with pytest.raises((TimeoutError, ConnectionError)):
            for _ in range(2_000):
                sock.sendall(message)
        assert process.memory_info().rss - before < 50e6
        stream.close()


# -- patience -----------------------------------------------------------------------------


def test_a_call_that_opens_no_session(monkeypatch):
    monkeypatch.setattr(connection, "OPEN_WITHIN_SECONDS", 0.3)
    with running() as server:
        stream = DirectStream(server.address)
        assert stream.status() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert stream.details == "no session was opened on this stream"
        stream.close()


def test_a_connection_without_a_call(monkeypatch):
    monkeypatch.setattr(connection, "_IDLE_SECONDS", 0.3)
    with running() as server, connected(server.address) as sock:
        sock.sendall(OURS)
        assert farewell(sock) == frames.NO_ERROR
        stream = DirectStream(server.address)
        assert stream.ask(opening()).HasField("opened")
        threading.Event().wait(0.6)  # A call may be silent for longer.
        assert stream.ask(reset(2)).HasField("batch")
        stream.close()


# -- relaying -----------------------------------------------------------------------------


def test_a_relayed_connection_that_breaks_starts_the_lease():
    flags = ["--max-sessions", "1", "--lease-seconds", "0.5"]
    with serving("adder", *flags) as server, Proxy(server.address) as proxy:
        with grpc.insecure_channel(proxy.address) as channel:
            token = RawStream(channel).ask(opening()).opened.session_token
            assert proxy.cut() == 1
        with grpc.insecure_channel(server.address) as channel:
            assert RawStream(channel).ask(resume(token)).HasField("resumed")
        with grpc.insecure_channel(server.address) as channel:
            stream = RawStream(channel)
            while not stream.ask(opening()).HasField("opened"):
                pass


def test_a_large_message_through_the_relay_and_back(server):
    with grpc.insecure_channel(server.address) as channel:
        stream = RawStream(channel)
        assert stream.ask(opening(num_environments=4000)).HasField("opened")
        assert stream.ask(reset(2, seeds=range(4000))).HasField("batch")
        first = stream.ask(reset(3, seeds=[2**62] * 4000)).SerializeToString()
        assert len(first) > 30_000


def test_a_killed_server_leaves_no_socket_behind(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serving("adder", anew=True) as server:
        assert_serves(server.address)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(20)
    assert not list(tmp_path.glob("farsim-??????*/grpc"))


def test_a_server_without_a_place_for_the_socket(monkeypatch):
    def nowhere() -> str:
        raise OSError("no folder for a socket")

    monkeypatch.setattr(relay, "_private_folder", nowhere)
    with running() as server, grpc.insecure_channel(server.address) as channel:
        assert RawStream(channel).ask(opening()).HasField("opened")


# -- addresses ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::]"])
def test_where_it_listens(host):
    listeners = bind(f"{host}:0")
    try:
        (port,) = {listener.getsockname()[1] for listener in listeners}
        anywhere = host in ("0.0.0.0", "[::]")
        for name in ["127.0.0.1", "::1"] if anywhere else [host.strip("[]")]:
            socket.create_connection((name, port), timeout=PATIENCE).close()
        with pytest.raises(InvalidAddress, match="is the port taken"):
            bind(f"{host}:{port}")
    finally:
        for listener in listeners:
            listener.close()


def test_an_address_of_another_machine():
    with pytest.raises(InvalidAddress, match="not this machine's"):
        bind("192.0.2.1:0")
    with pytest.raises(InvalidAddress, match="not this machine's"):
        bind("no-such-host.invalid:0")
