"""Links send what there is room for, and make room for what comes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from farsim.certs import make_certificates
from farsim.http2 import frames
from farsim.http2 import link as link_module
from farsim.http2.events import Event, Headers
from farsim.http2.link import Link
from tests.farsim.http2.peer import (
    ANSWER,
    CALL,
    SECONDS,
    TRAILERS,
    both,
    client,
    headers,
    is_silent,
    message,
    opened,
    send,
    server,
    take,
    window,
)


@pytest.mark.parametrize("step", [1, 1000])
def test_nothing_is_sent_that_there_is_no_room_for(step: int) -> None:
    sent = bytes(range(256)) * 2
    with server() as (link, peer), ThreadPoolExecutor(1) as pool:
        opened(link, peer, 0)
        sending = pool.submit(send, link, sent)
        come = b""
        while len(come) < len(sent) + 5:
            peer.say(window(step, stream=1))
            piece = peer.hear_kind(frames.DATA).payload
            assert len(piece) <= step
            come += piece
        sending.result(SECONDS)
        assert come == message(sent)


def test_a_window_may_become_negative() -> None:
    with server() as (link, peer), ThreadPoolExecutor(1) as pool:
        opened(link, peer, 105)
        send(link, b"x" * 100)
        assert peer.hear_data(105) == message(b"x" * 100)
        peer.say(frames.settings([(frames.INITIAL_WINDOW, 5)]))  # Which leaves -100.
        sending = pool.submit(send, link, b"y" * 10)
        peer.hear_kind(frames.SETTINGS, frames.ACK)
        peer.say(window(100, stream=1), frames.frame(frames.PING, 0, 0, b"nothing."))
        assert peer.hear().payload == b"nothing."
        peer.say(window(7, stream=1))
        assert peer.hear().payload == message(b"y" * 10)[:7]
        peer.say(frames.settings([(frames.INITIAL_WINDOW, 13)]))
        assert peer.hear_kind(frames.DATA).payload == message(b"y" * 10)[7:]
        sending.result(SECONDS)


def test_the_connections_window_counts_over_streams() -> None:
    with server() as (link, peer), ThreadPoolExecutor(1) as pool:
        peer.say(frames.settings([(frames.INITIAL_WINDOW, 1 << 20)]))
        for stream in (1, 3):
            peer.say(headers(CALL, stream, end=True))
            assert isinstance(take(link), Headers)
            sending = pool.submit(send, link, b"x" * 40_000)
            if stream == 1:
                peer.hear_data(40_005)
            else:
                assert len(peer.hear_data(25_530)) == 65_535 - 40_005
                peer.say(window(1 << 20))
                peer.hear_data(40_005 - 25_530)
            sending.result(SECONDS)
            with link.lock:
                link.answer(TRAILERS, end=True)
            peer.hear_kind(frames.HEADERS, frames.END_STREAM)


@pytest.mark.parametrize("size", [16_384, 40_000])
def test_frames_are_of_the_size_that_the_peer_takes(size: int) -> None:
    with server() as (link, peer), ThreadPoolExecutor(1) as pool:
        peer.say(frames.settings([(frames.MAX_FRAME, size)]), window(1 << 20))
        opened(link, peer, 1 << 20)
        sending = pool.submit(send, link, bytes(100_000))
        sizes = []
        while sum(sizes) < 100_005:
            sizes.append(len(peer.hear_kind(frames.DATA).payload))
        assert max(sizes) == size
        sending.result(SECONDS)


def exchange(link: Link, payload: bytes, count: int) -> list[Event]:
    """Sends a message and takes what comes."""
    send(link, payload)
    return [take(link) for _ in range(count)]


@pytest.mark.parametrize("shrunk", [False, True])
@pytest.mark.parametrize("kind", ["unix", "tcp", "TLSv1_2", "TLSv1_3"])
def test_both_ends_send_before_they_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shrunk: bool, kind: str
) -> None:
    if shrunk:
        monkeypatch.setattr(link_module, "_WINDOW", 65_535)
    folder = None
    if kind.startswith("TLS"):
        folder = tmp_path
        make_certificates(folder, ["localhost"], days=1)
    ends = both(tcp=kind == "tcp", folder=folder, version=kind)
    with ends as (client, server), ThreadPoolExecutor(1) as pool:
        with client.lock:
            client.open(CALL)
            client.pump(0)
        take(server)
        with server.lock:
            server.answer(ANSWER)
        there, back = b"t" * 5_000_000, b"b" * 5_000_000
        at_server = pool.submit(exchange, server, back, 1)
        assert exchange(client, there, 2) == [Headers(1, ANSWER, False), back]
        assert at_server.result(SECONDS) == [there]
        at_server = pool.submit(exchange, server, b"b", 1)
        assert exchange(client, b"t", 1) == [b"b"]
        assert at_server.result(SECONDS) == [b"t"]
        # What it took to keep so much has been given back.
        assert max(len(link._pipe.buffer) for link in (client, server)) <= 1 << 22


def test_windows_are_filled_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many streams that end in every way, the connection's window never runs dry."""
    monkeypatch.setattr(link_module, "_WINDOW", 65_535)
    with both(stall_seconds=2.0) as (client, server):
        for number in range(30):
            with client.lock:
                client.open(CALL)
                client.pump(0)
            take(server)
            for _ in range(3):
                send(client, bytes(9_000))
                send(server, bytes(9_000))
            kind = number % 4
            with server.lock, client.lock:
                if kind == 0:
                    server.answer(TRAILERS, end=True)
                elif kind == 1:
                    server.reset()
                elif kind == 2:
                    client.reset()
                # Else the client's next stream gives this one up.
            while not is_silent(server):
                pass


def test_padding_uses_up_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_WINDOW", 65_535)
    with client() as (link, peer):
        peer.hear_kind(frames.HEADERS)
        padded = frames.frame(frames.DATA, frames.PADDED, 1, bytes([255]) + bytes(255))
        room = {0: 65_535, 1: 65_535}
        peer.say(headers(ANSWER))
        for _ in range(1_000):
            peer.say(padded)
            with link.lock:
                while link.take(0) is not None:
                    pass
            for stream in room:
                room[stream] -= 256
            peer.sock.setblocking(False)
            try:
                while True:
                    frame = peer.hear()
                    if frame.kind == frames.WINDOW_UPDATE:
                        room[frame.stream] += int.from_bytes(frame.payload, "big")
            except BlockingIOError:
                peer.sock.settimeout(SECONDS)
            assert min(room.values()) >= 0
