"""Whatever two ends do one after another, each takes what the other said on the same stream."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from farsim.http2.events import End, Headers
from farsim.http2.frames import CANCEL
from farsim.http2.link import Link
from tests.farsim.http2.peer import ANSWER, CALL, TRAILERS, both

ACTIONS = ("open", "send", "send", "end", "reset", "take", "take", "take")


class Side:
    """One end, and what it has said and taken on each stream."""

    def __init__(self, link: Link, name: str) -> None:
        self.link, self.name = link, name
        #: The stream that it has begun, or of which it has taken the beginning.
        self.stream = 0
        self.answered = False
        self.said: dict[int, list[bytes]] = defaultdict(list)
        self.taken: dict[int, list[bytes]] = defaultdict(list)
        #: Streams that it ended without giving up anything, and that it knows the end of.
        self.ended: set[int] = set()
        self.over: dict[int, bool] = {}

    @property
    def may_send(self) -> bool:
        return self.stream != 0 and self.link.sending_on == self.stream

    def open(self) -> None:
        if self.name == "client":
            self.stream += 2 if self.stream else 1
            self.link.open([*CALL, ("stream", str(self.stream))])
        elif self.may_send and not self.answered:
            self.answered = True
            self.link.answer(ANSWER)

    def send(self) -> None:
        if self.may_send and (self.name == "client" or self.answered):
            message = f"{self.name} {self.stream} {len(self.said[self.stream])}".encode()
            self.said[self.stream].append(message)
            self.link.send(message)

    def end(self) -> None:
        if self.may_send:
            self.ended.add(self.stream)
            if self.name == "client":
                self.link.end()
            else:
                self.link.answer(TRAILERS if self.answered else ANSWER + TRAILERS, end=True)

    def reset(self) -> None:
        if self.may_send:
            self.link.reset()

    def take(self) -> bool:
        event = self.link.take(0)
        if isinstance(event, bytes):
            self.taken[self.stream].append(event)
        elif isinstance(event, End):
            self.over[self.stream] = event.code is None
        elif isinstance(event, Headers):
            if self.name == "server":
                self.stream, self.answered = event.stream, False
                assert dict(event.fields)["stream"] == str(event.stream)
            assert event.stream == self.stream
            if event.end:
                self.over[self.stream] = True
        return event is not None


@settings(max_examples=120)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(ACTIONS)), min_size=40, max_size=60))
def test_any_order(steps: list[tuple[bool, str]]) -> None:
    with both(stall_seconds=1.0) as links:
        client, server = Side(links[0], "client"), Side(links[1], "server")
        with links[0].lock, links[1].lock:
            for at_client, action in steps:
                getattr(client if at_client else server, action)()
            for side in (client, server, client, server):
                while side.take():
                    pass
        for side, other in ((client, server), (server, client)):
            for stream, taken in side.taken.items():
                assert taken == other.said[stream][: len(taken)]
            for stream, whole in side.over.items():
                if whole:
                    assert stream in other.ended
                    assert side.taken[stream] == other.said[stream]
        # No stream is refused, whatever became of those before.
        assert server.stream == client.stream


def test_every_code_of_a_reset_is_passed_on() -> None:
    with both() as (client, server):
        client.open(CALL)
        client.pump(0)
        assert isinstance(server.take(10), Headers)
        client.reset(CANCEL)
        assert server.take(10) == End(CANCEL)
