"""Links, against each other and against peers that keep to the protocol."""

from __future__ import annotations

import gc
import itertools
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farsim.http2 import frames
from farsim.http2.events import Broken, End, Event, Headers
from farsim.http2.link import Link
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
    is_silent,
    message,
    opened,
    send,
    server,
    take,
    window,
)


def test_a_call_and_the_next() -> None:
    with both() as (client, server):
        for number in (1, 3):
            with client.lock:
                client.open([*CALL, ("x", "é")])
                client.send(b"question", end=True)
            assert take(server) == Headers(number, [*CALL, ("x", "é")], False)
            assert take(server) == b"question"
            assert take(server) == End()
            with server.lock:
                server.answer(ANSWER)
                server.send(b"")
                server.send(b"answer")
                server.answer(TRAILERS, end=True)
            assert take(client) == Headers(number, ANSWER, False)
            assert [take(client), take(client)] == [b"", b"answer"]
            assert take(client) == Headers(number, TRAILERS, True)
            assert is_silent(client) and is_silent(server)


@settings(max_examples=60)
@given(
    messages=st.lists(st.binary(max_size=40), max_size=8),
    frame_sizes=st.lists(st.integers(0, 60), min_size=1),
    write_sizes=st.lists(st.integers(1, 60), min_size=1),
    paddings=st.lists(st.none() | st.integers(0, 9), min_size=1),
)
def test_messages_however_they_are_cut(
    messages: list[bytes],
    frame_sizes: list[int],
    write_sizes: list[int],
    paddings: list[int | None],
) -> None:
    """Into frames, with or without padding, and these into what one read brings."""
    whole = b"".join(map(message, messages))
    said, at = headers(ANSWER), 0
    for size, padding in zip(itertools.cycle([*frame_sizes, 1]), itertools.cycle(paddings)):
        if at >= len(whole):
            break
        piece = whole[at : at + size]
        at += size
        if padding is None:
            said += data(piece)
        else:
            padded = bytes([padding]) + piece + bytes(padding)
            said += frames.frame(frames.DATA, frames.PADDED, 1, padded)
    said += headers(TRAILERS, end=True)
    with client() as (link, peer):
        events, at = [], 0
        for size in itertools.cycle(write_sizes):
            if at >= len(said):
                break
            peer.say(said[at : at + size])
            at += size
            with link.lock:
                while (event := link.take(0)) is not None:
                    events.append(event)
        assert events == [Headers(1, ANSWER, False), *messages, Headers(1, TRAILERS, True)]


def test_header_fields_in_many_frames_with_padding_and_priority() -> None:
    encoder = hpack.Encoder()  # With Huffman's code and a table, as other peers do it.
    fields = [*CALL, ("x-long", "abc" * 100)]
    block = encoder.encode(fields)
    first = bytes([4]) + bytes(5) + block[:10] + bytes(4)
    said = frames.frame(frames.HEADERS, frames.PADDED | frames.PRIORITY, 1, first)
    said += b"".join(
        frames.frame(frames.CONTINUATION, 0, 1, block[at : at + 50])
        for at in range(10, len(block), 50)
    )
    with server() as (link, peer):
        peer.say(said, frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1))
        assert take(link) == Headers(1, fields, False)


def test_the_decoders_table_outlives_streams() -> None:
    encoder = hpack.Encoder()
    fields = [*CALL, ("x-token", "something that is worth an entry")]
    with server() as (link, peer):
        for stream in (1, 3, 5):
            block = encoder.encode(fields)
            flags = frames.END_HEADERS | frames.END_STREAM
            peer.say(frames.frame(frames.HEADERS, flags, stream, block))
            assert take(link) == Headers(stream, fields, True)
            with link.lock:
                link.answer(TRAILERS, end=True)


def test_long_header_fields_are_cut_into_frames() -> None:
    with both() as (client, server):
        fields = [*CALL, ("x", "y" * 20_000)]
        with client.lock:
            client.open(fields)
            client.pump(0)
        assert take(server) == Headers(1, fields, False)


def test_frames_that_are_to_be_ignored() -> None:
    with client() as (link, peer):
        peer.say(
            frames.frame(2, 0, 1, bytes(5)),  # PRIORITY
            frames.frame(0x42, 0xFF, 7, b"grease"),
            frames.settings([(0x0A0A, 1), (frames.ONE_STREAM, 1)]),
            frames.frame(frames.RST_STREAM, 0, 2, bytes(4)),
            window(1, stream=99),
            headers(ANSWER, stream=2),
            struct.pack(">BHBBI", 0, 6, frames.DATA, 0, 1 << 31 | 1) + message(b"x"),
            headers(ANSWER),
            data(message(b"y")),
        )
        # The reserved bit of a stream's number means nothing.
        assert take(link) == b"x"
        assert take(link) == Headers(1, ANSWER, False)
        assert take(link) == b"y"


def test_a_reset() -> None:
    with client() as (link, peer):
        peer.say(headers(ANSWER), data(message(b"x")), frames.reset(1, 8))
        assert take(link) == Headers(1, ANSWER, False)
        assert take(link) == b"x"
        assert take(link) == End(8)
        send(link, b"never sent")
        peer.say(data(message(b"late")), headers(TRAILERS, end=True), frames.reset(1, 8))
        assert is_silent(link)
        with link.lock:
            link.open(CALL)
            link.send(b"next")
        assert peer.hear_kind(frames.HEADERS).stream == 1
        assert peer.hear_kind(frames.HEADERS).stream == 3
        assert peer.hear_kind(frames.DATA).payload == message(b"next")


def test_a_reset_after_the_end_means_nothing() -> None:
    with client() as (link, peer):
        peer.say(headers([*ANSWER, *TRAILERS], end=True), frames.reset(1, 0))
        assert take(link) == Headers(1, [*ANSWER, *TRAILERS], True)
        assert is_silent(link)


def test_a_reset_in_the_middle_of_a_message_to_be_sent() -> None:
    with server() as (link, peer), ThreadPoolExecutor(1) as pool:
        opened(link, peer, 10)
        sending = pool.submit(send, link, bytes(100), True)
        peer.hear_kind(frames.DATA)
        peer.say(frames.reset(1, 8), headers(CALL, stream=3, end=True))
        sending.result(SECONDS)
        assert take(link) == End(8)
        assert take(link) == Headers(3, CALL, True)
        # The end of the message was that of another stream.
        assert link.sending_on == 3


def test_a_stream_given_up_for_the_next_is_reset() -> None:
    with client() as (link, peer):
        with link.lock:
            link.open(CALL)
            link.pump(0)
        assert peer.hear_kind(frames.RST_STREAM) == (frames.RST_STREAM, 0, 1, b"\0\0\0\x08")
        assert peer.hear().stream == 3
        peer.say(data(message(b"late")), headers(ANSWER, stream=3))
        assert take(link) == Headers(3, ANSWER, False)


def test_a_server_that_ends_early_is_told_that_the_client_will_say_no_more() -> None:
    with client() as (link, peer):
        peer.say(headers([*ANSWER, *TRAILERS], end=True))
        take(link)
        assert peer.hear_kind(frames.RST_STREAM).stream == 1
        with link.lock:
            link.open(CALL)
            link.pump(0)
        assert peer.hear_kind(frames.HEADERS).stream == 3


def test_a_second_stream_is_refused() -> None:
    with server() as (link, peer):
        peer.say(headers(CALL), headers(CALL, stream=3), data(message(b"b"), stream=3))
        peer.say(headers(TRAILERS, stream=3, end=True), data(message(b"a")))
        assert take(link) == Headers(1, CALL, False)
        assert take(link) == b"a"
        refused = peer.hear_kind(frames.RST_STREAM)
        assert (refused.stream, refused.payload) == (3, b"\0\0\0\x07")
        with link.lock:
            link.answer(TRAILERS, end=True)
        # What was under way to the refused one is not the beginning of another.
        peer.say(data(message(b"c"), stream=3), headers(CALL, stream=5, end=True))
        assert take(link) == Headers(5, CALL, True)


@pytest.mark.parametrize("last", [0, 1, 2**31 - 1])
def test_a_server_that_goes_away(last: int) -> None:
    with client() as (link, peer):
        peer.say(frames.frame(frames.GOAWAY, 0, 0, struct.pack(">II", last, 11) + b"too loud"))
        if not last:
            failure = broken(link)
        else:
            # The stream goes on to its end, but there is no other.
            peer.say(headers([*ANSWER, *TRAILERS], end=True))
            assert take(link) == Headers(1, [*ANSWER, *TRAILERS], True)
            with pytest.raises(Broken) as caught, link.lock:
                link.open(CALL)
            failure = caught.value
        assert (str(failure), failure.code) == ("the server is going away too loud", 11)


def test_a_client_that_goes_away_is_still_answered() -> None:
    with server() as (link, peer):
        peer.say(headers(CALL), frames.goodbye(0, 0), data(message(b"x")))
        assert take(link) == Headers(1, CALL, False)
        assert take(link) == b"x"


CUTS: dict[str, tuple[bytes, list[Event]]] = {
    "nothing": (b"", []),
    "within a frame's header": (headers(ANSWER) + data(b"x")[:5], [Headers(1, ANSWER, False)]),
    "within a frame": (headers(ANSWER) + data(bytes(9))[:-3], [Headers(1, ANSWER, False)]),
    "within a message": (
        headers(ANSWER) + data(message(b"x") + message(b"y")[:-1]),
        [Headers(1, ANSWER, False), b"x"],
    ),
    "after the trailers": (
        headers(ANSWER) + data(message(b"x")) + headers(TRAILERS, end=True),
        [Headers(1, ANSWER, False), b"x", Headers(1, TRAILERS, True)],
    ),
}


@pytest.mark.parametrize("when", ["before", "while it sends"])
@pytest.mark.parametrize(("said", "expected"), CUTS.values(), ids=CUTS)
def test_what_came_before_the_end_is_taken(said: bytes, expected: list[Event], when: str) -> None:
    with client() as (link, peer):
        with link.lock:
            link.pump(SECONDS)
        # It is to be answered, when nobody is there to hear the answer.
        peer.say(frames.frame(frames.PING, 0, 0, bytes(8)), said)
        peer.sock.close()
        if when == "while it sends":
            with pytest.raises(Broken):
                for _ in range(1_000):
                    send(link, bytes(60_000))
        assert [take(link) for _ in expected] == expected
        assert any(words in str(broken(link)) for words in ("Socket closed", "reset by peer"))


def test_what_came_before_the_end_is_taken_though_something_is_to_be_sent() -> None:
    with server() as (link, peer):
        peer.say(headers(CALL))
        assert take(link) == Headers(1, CALL, False)
        peer.say(data(message(b"x"), end=True))
        peer.sock.close()
        with link.lock:
            link.answer(ANSWER)
        assert [take(link), take(link)] == [b"x", End()]
        broken(link)


def test_a_stream_that_ends_within_a_message() -> None:
    with server() as (link, peer):
        peer.say(headers(CALL), data(message(b"xyz")[:-1], end=True))
        take(link)
        assert "ends within a message" in str(broken(link))


def waiting(link: Link, wait: Callable[[], object]) -> tuple[threading.Thread, list[Exception]]:
    """A thread that waits, with the lock held."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            wait()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while link.lock.acquire(blocking=False):
        link.lock.release()
        time.sleep(0.001)
    return thread, errors


def test_closing_while_another_thread_waits_for_something() -> None:
    with client() as (link, _peer):
        thread, errors = waiting(link, lambda: take(link, 60))
        link.close()
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert isinstance(errors[0], Broken)


def test_closing_while_another_thread_sends() -> None:
    with client(stall_seconds=60) as (link, _peer):
        thread, errors = waiting(link, lambda: [send(link, bytes(60_000)) for _ in range(1_000)])
        link.close()
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert isinstance(errors[0], Broken)


def test_closing_says_goodbye_and_can_be_done_again() -> None:
    with client() as (link, peer):
        link.close()
        link.close()
        assert peer.hear_kind(frames.GOAWAY).payload == bytes(8)
        assert "this end has closed" in str(broken(link))
        with pytest.raises(Broken):
            send(link, b"x")


def test_a_garbage_collection_may_close_what_its_thread_waits_for() -> None:
    with client() as (link, peer):
        peer.say(headers(ANSWER))

        class Holder:
            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                link.close()

        Holder()
        with link.lock:
            gc.collect()
            with pytest.raises(Broken, match="this end has closed"):
                link.take(60)
