"""Links against peers that do too much, too little, or what is not allowed."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farsim.http2 import frames
from farsim.http2.events import Broken, Headers, TooLarge
from farsim.http2.link import Link
from tests.farsim.http2.peer import (
    ANSWER,
    CALL,
    SECONDS,
    Peer,
    broken,
    client,
    data,
    headers,
    is_silent,
    message,
    opened,
    send,
    server,
    take,
    window,
)


def test_a_ping_is_answered() -> None:
    with client() as (link, peer):
        peer.say(frames.frame(frames.PING, 0, 0, b"12345678"))
        with link.lock:
            link.pump(SECONDS)
        assert peer.hear_kind(frames.PING).payload == b"12345678"
        peer.say(frames.frame(frames.PING, frames.ACK, 0, b"12345678"))
        assert is_silent(link)


def test_a_ping_is_answered_between_the_frames_of_a_message() -> None:
    with server() as (link, peer), ThreadPoolExecutor(1) as pool:
        opened(link, peer, 10)
        sending = pool.submit(send, link, bytes(100))
        peer.hear_kind(frames.DATA)
        peer.say(frames.frame(frames.PING, 0, 0, b"12345678"))
        assert peer.hear_kind(frames.PING, frames.ACK).payload == b"12345678"
        peer.say(window(95, stream=1))
        assert len(peer.hear().payload) == 95
        sending.result(SECONDS)


def test_settings_are_acknowledged() -> None:
    with client() as (link, peer):
        with link.lock:
            link.pump(SECONDS)
        first = peer.hear()
        assert (first.kind, first.stream) == (frames.SETTINGS, 0)
        told = dict(struct.iter_unpack(">HI", first.payload))
        assert told[frames.ENABLE_PUSH] == 0 and told[frames.ONE_STREAM] == 1
        assert peer.hear_kind(frames.SETTINGS, frames.ACK).payload == b""


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "pings": lambda: itertools.repeat(100 * frames.frame(frames.PING, 0, 0, bytes(8))),
    "settings": lambda: itertools.repeat(100 * frames.settings([])),
    "streams": lambda: (headers(CALL, stream) for stream in itertools.count(3, 2)),
}


@pytest.mark.parametrize("begun", FLOODS.values(), ids=FLOODS)
def test_floods_that_ask_for_answers_end(begun: Callable[[], Iterator[bytes]]) -> None:
    """Nothing grows without bound while nobody reads the answers."""
    with server(limit=1 << 16, stall_seconds=0.2) as (link, peer), ThreadPoolExecutor(1) as pool:
        flood = begun()
        peer.say(headers(CALL))
        take(link)

        def say_on() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer.say(next(flood))

        saying = pool.submit(say_on)
        broken(link)
        assert len(link._owed) < 1 << 17 and len(link._pipe.buffer) < 1 << 22
        link.close()
        saying.result(SECONDS)


def test_what_needs_no_answer_holds_nobody_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with client() as (link, peer):
        pump = link.pump

        def pump_what_never_ends(seconds: float | None) -> bool:
            peer.say(frames.frame(0x42, 0, 0, bytes(100)))
            return pump(seconds)

        monkeypatch.setattr(link, "pump", pump_what_never_ends)
        with link.lock:
            assert link.take(0.1) is None


def test_a_peer_that_takes_nothing() -> None:
    with client(stall_seconds=0.2) as (link, _peer):
        with pytest.raises(Broken, match=r"the peer took nothing for 0\.2 s"):
            for _ in range(1_000):  # Of its first window.
                send(link, bytes(60_000))
        assert "took nothing" in str(broken(link))


def test_a_peer_that_opens_no_window_however_much_it_says() -> None:
    with server(limit=1 << 16, stall_seconds=0.3) as (link, peer), ThreadPoolExecutor(1) as pool:
        peer.say(frames.settings([(frames.INITIAL_WINDOW, 0)]), headers(CALL))
        take(link)

        def say_on() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer.say(frames.frame(0x42, 0, 0, bytes(100)) * 100)

        saying = pool.submit(say_on)
        with pytest.raises(Broken, match="took nothing"):
            send(link, b"x")
        link.close()
        saying.result(SECONDS)


def test_what_comes_while_sending_waits_is_bounded() -> None:
    with server(limit=1 << 16) as (link, peer), ThreadPoolExecutor(1) as pool:
        peer.say(frames.settings([(frames.INITIAL_WINDOW, 0)]), headers(CALL))
        take(link)

        def say_on() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer.say(data(message(bytes(10_000))))

        saying = pool.submit(say_on)
        with pytest.raises(Broken):
            send(link, b"x")
        assert sum(len(event) for event in link.events if isinstance(event, bytes)) < 1 << 22
        link.close()
        saying.result(SECONDS)


def test_reading_stops_while_nobody_takes_anything() -> None:
    with client(limit=1 << 16) as (link, peer), ThreadPoolExecutor(1) as pool:
        peer.say(headers(ANSWER))
        saying = pool.submit(peer.say, data(message(bytes(10_000))) * 1_000)
        with link.lock:
            link.pump(SECONDS)
            while link.pump(0.1):
                pass
        assert not saying.done()
        assert take(link) == Headers(1, ANSWER, False)
        for _ in range(1_000):
            assert take(link) == bytes(10_000)
        saying.result(SECONDS)


BAD: dict[str, tuple[bytes, str, int]] = {
    "a frame too large": (struct.pack(">BHBBI", 0x7F, 0, 0, 0, 1), "larger than allowed", 6),
    "a compressed message cut off": (data(b"\1" + bytes(4)), "it is cut off", 1),
    "a message that is not compressed": (data(b"\1\0\0\0\1x"), "be decompressed", 1),
    "data without a stream": (data(b"", stream=0), "not open", 1),
    "data on a stream to come": (data(b"", stream=9), "not open", 1),
    "other frames within fields": (
        headers(ANSWER, frame_bytes=10)[:19] + frames.frame(frames.PING, 0, 0, bytes(8)),
        "without their end",
        1,
    ),
    "data within fields": (
        headers(ANSWER, frame_bytes=10)[:19] + data(b""),
        "without their end",
        1,
    ),
    "fields of two streams": (
        headers(ANSWER, frame_bytes=10)[:19] + frames.frame(frames.CONTINUATION, 4, 3),
        "without their end",
        1,
    ),
    "fields without a beginning": (frames.frame(9, 4, 1), "without their beginning", 1),
    "fields that are no HPACK": (frames.frame(1, 4, 1, b"\xff" * 9), "cannot be read", 9),
    "fields cut off": (frames.frame(1, 4, 1, headers(ANSWER)[9:-2]), "cannot be read", 9),
    "fields that are no UTF-8": (
        frames.frame(1, 4, 1, b"\0\1x\1\xff"),
        "cannot be read",
        9,
    ),
    "priority cut off": (frames.frame(1, 4 | 32, 1, b"1234"), "cut off", 1),
    "fields too large": (headers([("x", "y" * 40_000)]), "more header fields than allowed", 11),
    "fields that grow": (
        frames.frame(1, 4, 1, b"\x40\1x\x7f\xa1\x1e" + b"y" * 4_000 + b"\xbe" * 20),
        "more header fields than allowed",
        11,
    ),
    "fields without end": (
        headers([("x", "y" * 99)], frame_bytes=50)[:59]
        + frames.frame(frames.CONTINUATION, 0, 1, bytes(16_384)) * 3,
        "more header fields than allowed",
        11,
    ),
    "padding too long": (frames.frame(0, 8, 1, b"\5" + bytes(4)), "more padding", 1),
    "padding without a length": (frames.frame(1, 8 | 4, 1), "more padding", 1),
    "settings cut off": (frames.frame(4, 0, 0, bytes(5)), "wrong size", 6),
    "a window too large": (frames.settings([(4, 1 << 31)]), "too large", 3),
    "a window that overflows": (window(2**31 - 1), "too large", 3),
    "a stream's window that overflows": (window(2**31 - 1, stream=1), "too large", 3),
    "frames too small": (frames.settings([(5, 100)]), "frames of up to 100", 1),
    "a ping of a wrong size": (frames.frame(6, 0, 0, b"12"), "wrong size", 6),
    "a push": (frames.frame(5, 4, 1, bytes(4)), "a push", 1),
}


@pytest.mark.parametrize(("said", "words", "code"), BAD.values(), ids=BAD)
def test_what_is_not_allowed(said: bytes, words: str, code: int) -> None:
    """What came before is still good, and then the connection is broken, with a reason."""
    with client() as (link, peer):
        peer.say(headers(ANSWER), data(message(b"good")), said)
        assert take(link) == Headers(1, ANSWER, False)
        assert take(link) == b"good"
        failure = broken(link)
        assert words in str(failure)
        assert failure.code == code
        link.close(failure.code)
        assert peer.hear_kind(frames.GOAWAY).payload[4:] == struct.pack(">I", code)


def test_a_message_over_the_limit() -> None:
    with client(limit=100) as (link, peer):
        peer.say(headers(ANSWER), data(message(bytes(100))), data(message(bytes(101))[:6]))
        assert take(link) == Headers(1, ANSWER, False)
        assert take(link) == bytes(100)
        failure = broken(link)
        assert isinstance(failure, TooLarge)
        assert str(failure) == "Received message larger than max (101 vs. 100)"


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_compressed_messages(compress: Callable[[bytes], bytes], pieces: int) -> None:
    """Within the limit, and one that would be over it once decompressed."""
    with client(limit=1_000) as (link, peer):
        for size in (0, 1_000, 1_000_000):
            compressed = b"\1" + message(compress(bytes(size)))[1:]
            cut = len(compressed) // pieces + 1
            peer.say(headers(ANSWER) if not size else b"")
            peer.say(*(data(compressed[at : at + cut]) for at in range(0, len(compressed), cut)))
        assert take(link) == Headers(1, ANSWER, False)
        assert [take(link), take(link)] == [b"", bytes(1_000)]
        assert isinstance(broken(link), TooLarge)


def test_a_stream_with_a_servers_number() -> None:
    with server() as (link, peer):
        peer.say(headers(CALL, stream=2))
        assert "a server's number" in str(broken(link))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP/2"),
        (b"\x15\x03\x03\0\2\2\x50", "Socket closed"),  # An alert of TLS.
    ],
)
def test_servers_of_another_kind(said: bytes, words: str) -> None:
    near, far = socket.socketpair()
    link = Link(near, True, 100)
    with far:
        with link.lock:
            link.open(CALL)
            link.pump(0)
        far.sendall(said)
        far.shutdown(socket.SHUT_WR)
        assert words in str(broken(link))
        link.close()


def test_clients_of_another_kind() -> None:
    near, far = socket.socketpair()
    link = Link(near, False, 100)
    with far:
        far.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "does not speak HTTP/2" in str(broken(link))
        link.close()


def test_waiting_for_ever() -> None:
    with client() as (link, peer):
        peer.say(headers(ANSWER))
        assert take(link, float("inf")) == Headers(1, ANSWER, False)
        peer.say(data(message(b"x")))
        with link.lock:
            assert link.take(None) == b"x"


def test_what_was_read_before() -> None:
    near, far = socket.socketpair()
    link, peer = Link(near, False, 100), Peer(far)
    with far:
        whole = frames.PREFACE + frames.settings([]) + headers(CALL) + data(message(b"x"))
        link.received(whole[:40])
        peer.say(whole[40:])
        assert take(link) == Headers(1, CALL, False)
        assert take(link) == b"x"
        link.close()


@settings(max_examples=150)
@given(said=st.binary(max_size=200), whole=st.booleans(), kind=st.integers(0, 10))
def test_noise_breaks_nothing_but_the_connection(said: bytes, whole: bool, kind: int) -> None:
    for end in (client, server):
        with end(limit=1000) as (link, peer):
            if end is server:
                peer.say(headers(CALL))
            peer.say(frames.frame(kind, said[0] if said else 0, 1, said) if whole else said)
            peer.sock.shutdown(socket.SHUT_WR)
            broken(link)
