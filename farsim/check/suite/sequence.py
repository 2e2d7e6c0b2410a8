"""Sequence numbers: each request is carried out once and answered in order."""

from __future__ import annotations

from farsim.check.play import Play, expect_error, step_of
from farsim.check.stream import StreamEnded, told
from farsim.check.subject import Subject
from farsim.check.verdicts import Blocked, Broken, Chapter, NotExercised
from farsim.v1 import simulator_pb2 as pb

CHAPTER = Chapter()
_ONCE = (
    "The server carries each number out once. A number it has seen gets the reply it got before, "
    "provided the request is the same byte for byte and is among the last "
    "`Opened.max_in_flight`; otherwise ERROR_CODE_SEQUENCE. So does a gap."
)
#: So many requests are answered before one counts as forgotten, at most.
_MOST = 64


@CHAPTER.check("sequence", "a repeated request", _ONCE.partition("; otherwise")[0])
def _a_repeated_request(subject: Subject) -> None:
    def plain(play: Play) -> object:
        play.reset(seeds=subject.seeds())
        play.act()
        return play.act().figure()

    def repeated(play: Play) -> object:
        play.reset(seeds=subject.seeds())
        raw = play.next(step=step_of(play.draw())).SerializeToString()
        play.stream.send(raw)
        first, reply = play.stream.receive()
        play.see("step", reply)
        play.stream.send(raw)
        try:
            again, reply = play.stream.receive()
        except StreamEnded as ended:
            raise Broken("a 'step' twice", "the same reply twice", str(ended)) from ended
        if again != first:
            raise Broken(
                "a 'step' twice, the same bytes", "the same bytes twice", f"then {told(reply)}"
            )
        return play.act().figure()

    try:
        one, other = subject.alike(plain, repeated)
    except NotExercised:
        repeated(subject.open())
        return
    if one != other:
        raise Broken("a 'step' twice, then another", "two steps carried out", "three, it seems")


@CHAPTER.check("sequence", "another request with its number", _ONCE)
def _another_request_with_its_number(subject: Subject) -> None:
    play = subject.open()
    play.reset()
    play.act()
    other = pb.SimRequest(sequence=play.sequence, reset=pb.Reset())
    play.refused_exactly([pb.ERROR_CODE_SEQUENCE], "a 'reset' with the number of a 'step'", other)


@CHAPTER.check("sequence", "a gap", _ONCE)
def _a_gap(subject: Subject) -> None:
    play = subject.open()
    play.reset()
    request = pb.SimRequest(sequence=play.sequence + 3, step=step_of(play.draw()))
    sent = f"number {request.sequence} after number {play.sequence}"
    play.refused_exactly([pb.ERROR_CODE_SEQUENCE], sent, request)


@CHAPTER.check("sequence", "a forgotten number", _ONCE)
def _a_forgotten_number(subject: Subject) -> None:
    play = subject.open()
    bound = play.opened.max_in_flight
    if bound > _MOST:
        raise NotExercised(f"max_in_flight is {bound}, which would take long")
    first = play.next(reset=pb.Reset())
    play.stream.send(first)
    play.see("reset", play.answer("reset"))
    for _ in range(bound + 1):
        play.reset()
    play.refused_exactly(
        [pb.ERROR_CODE_SEQUENCE], f"a request again, {bound + 1} requests later", first
    )


@CHAPTER.check(
    "sequence",
    "the first number",
    "1 for `open`, then one more with each request of the session, across streams.",
)
def _the_first_number(subject: Subject) -> None:
    stream = subject.stream()
    request = subject.opening()
    request.sequence = 2
    stream.send(request)
    codes = [pb.ERROR_CODE_SEQUENCE, pb.ERROR_CODE_PROTOCOL]
    expect_error(stream, codes, "'open' with number 2")


@CHAPTER.check(
    "sequence",
    "many in flight",
    "Every request carries a sequence number and gets exactly one reply with that number, in the "
    "order of the numbers",
)
def _many_in_flight(subject: Subject) -> None:
    play = subject.open()
    play.reset()
    count = min(play.opened.max_in_flight, _MOST)
    requests = [play.next(reset=pb.Reset()) for _ in range(count)]
    for request in requests:
        play.stream.send(request)
    sent = f"{count} requests without waiting for a reply"
    expected = f"replies {requests[0].sequence} to {requests[-1].sequence}, in order"
    for request in requests:
        try:
            reply = play.answer("reset")
        except Blocked as blocked:
            raise Broken(sent, expected, str(blocked)) from blocked
        if reply.sequence != request.sequence or reply.HasField("error"):
            raise Broken(sent, expected, f"reply {reply.sequence}, {told(reply)}")
    play.act()


@CHAPTER.check(
    "sequence",
    "heartbeats",
    "The longest silence while a request is carried out: at least every so many seconds the "
    "server sends a `heartbeat`.",
)
def _heartbeats(subject: Subject) -> None:
    play = subject.open(heartbeat_seconds=0.2)
    asked = play.opened.heartbeat_seconds
    play.reset()
    for _ in range(5):
        play.act()
    # A busy machine may be silent for longer than was asked, though not many times as long.
    most = max(5 * asked, 2.0)
    silence = play.stream.longest_silence
    if silence > most:
        raise Broken(
            "requests that take long", f"a heartbeat every {asked} s", f"{silence:.1f} s of silence"
        )
    numbers = {number for number, _ in play.stream.heartbeats}
    if numbers and not numbers <= set(range(1, play.sequence + 1)):
        raise Broken("requests", "heartbeats with their numbers", f"{sorted(numbers)}")
    if not numbers:
        raise NotExercised("no request took long enough")
