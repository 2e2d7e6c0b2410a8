"""Messages that are put together where they will stay, however they come."""

from __future__ import annotations

import gzip
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from farsim.certs import make_certificates
from farsim.http2 import frames
from farsim.http2.events import Headers, TooLarge
from tests.farsim.http2.peer import (
    ANSWER,
    CALL,
    SECONDS,
    TRAILERS,
    both,
    broken,
    client,
    data,
    headers,
    message,
    send,
    server,
    take,
)

#: More than a large message has at least, and not a multiple of any frame.
SIZE = 1_300_003


def framed(payload: bytes, size: int, end: bool = False) -> bytes:
    """As DATA frames of at most ``size`` bytes."""
    starts = range(0, len(payload), size)
    return b"".join(data(payload[at : at + size], end=end and at == starts[-1]) for at in starts)


@pytest.mark.parametrize("written", [1_000_000_000, 300_001, 65_536])
@pytest.mark.parametrize("size", [1 << 20, 700_000, 16_384])
def test_large_and_small_messages_in_frames_of_any_size(size: int, written: int) -> None:
    messages = [os.urandom(SIZE), b"small", b"", os.urandom(SIZE), os.urandom(1 << 19)]
    said = framed(b"".join(map(message, messages)), size) + headers(TRAILERS, end=True)
    with client() as (link, peer), ThreadPoolExecutor(1) as pool:
        peer.say(headers(ANSWER))
        assert isinstance(take(link), Headers)
        parts = [said[at : at + written] for at in range(0, len(said), written)]
        saying = pool.submit(lambda: [peer.say(part) for part in parts])
        for expected in messages:
            come = take(link)
            assert type(come) is bytes
            assert come == expected
        assert take(link) == Headers(1, TRAILERS, True)
        saying.result(SECONDS)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_over_tls(tmp_path: Path, version: str) -> None:
    make_certificates(tmp_path, ["localhost"], days=1)
    with both(folder=tmp_path, version=version) as (near, far), ThreadPoolExecutor(1) as pool:
        with near.lock:
            near.open(CALL)
            near.pump(0)
        take(far)
        with far.lock:
            far.answer(ANSWER)
        payloads = [os.urandom(SIZE), os.urandom(900_000), b"end"]
        sending = pool.submit(lambda: [send(far, payload) for payload in payloads])
        assert [take(near) for _ in range(4)] == [Headers(1, ANSWER, False), *payloads]
        sending.result(SECONDS)


@pytest.mark.parametrize("reset", [False, True])
def test_the_rest_of_a_frame_of_a_stream_that_was_given_up_is_thrown_away(reset: bool) -> None:
    whole = data(message(bytes(1_000_000)))
    with client() as (link, peer), ThreadPoolExecutor(1) as pool:
        peer.say(headers(ANSWER))
        assert isinstance(take(link), Headers)
        saying = pool.submit(peer.say, whole[:400_000])
        with link.lock:
            while not saying.done():
                link.pump(0.01)
            link.pump(0)
            assert link._messages.takes_more
            if reset:
                link.reset()
            link.open(CALL)
            link.pump(0)
        answered = headers(ANSWER, stream=3), data(message(bytes(800_000) + b"x"), stream=3)
        saying = pool.submit(peer.say, whole[400_000:], *answered)
        assert take(link) == Headers(3, ANSWER, False)
        assert take(link) == bytes(800_000) + b"x"
        saying.result(SECONDS)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_stream_may_end_with_a_large_frame(compressed: bool) -> None:
    sent = os.urandom(1_000_000)
    prefixed = message(sent)
    if compressed:
        prefixed = b"\1" + message(gzip.compress(sent))[1:]
    with server() as (link, peer), ThreadPoolExecutor(1) as pool:
        saying = pool.submit(peer.say, headers(CALL), data(prefixed, end=True))
        assert isinstance(take(link), Headers)
        assert take(link) == sent
        saying.result(SECONDS)
        with link.lock:
            link.pump(0)
            assert not link.sending_on or link.events


def test_a_large_frame_that_ends_within_a_message() -> None:
    with server() as (link, peer), ThreadPoolExecutor(1) as pool:
        cut = message(bytes(1_000_000))[:-1]
        saying = pool.submit(peer.say, headers(CALL), data(cut, end=True))
        assert isinstance(take(link), Headers)
        assert "ends within a message" in str(broken(link))
        saying.result(SECONDS)


def test_too_much_is_refused_before_it_has_come() -> None:
    with client(limit=900_000) as (link, peer):
        peer.say(headers(ANSWER), data(message(bytes(900_001)))[: 1 << 15])
        assert isinstance(take(link), Headers)
        assert isinstance(broken(link), TooLarge)


def test_a_size_alone_takes_no_memory() -> None:
    """Only what has come in part says that the rest will."""
    with server(limit=1 << 30) as (link, peer):
        begun = frames.frame(frames.DATA, 0, 1, message(b"")[:1] + (1 << 30).to_bytes(4, "big"))
        peer.say(headers(CALL), begun)
        assert isinstance(take(link), Headers)
        with link.lock:
            while link.pump(0):
                pass
        assert not link._messages.takes_more
