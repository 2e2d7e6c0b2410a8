"""Sessions that outlive their stream, and how streams and sessions end."""

from __future__ import annotations

import grpc

from farsim.check.play import Play, expect_error, step_of
from farsim.check.stream import Stream, StreamEnded, told
from farsim.check.subject import Subject
from farsim.check.verdicts import Broken, Chapter, NotExercised
from farsim.v1 import simulator_pb2 as pb

CHAPTER = Chapter()
_GOES_ON = "Goes on with a session whose stream has broken, on a new stream."
_LOST = "An unknown or expired token gets ERROR_CODE_SESSION_LOST"


def _resume(subject: Subject, play: Play, sent: str) -> pb.Resumed:
    """Takes the session over on a new stream, which ``play`` then uses."""
    stream, reply = subject.resumed(play)
    if not reply.HasField("resumed"):
        raise Broken(sent, "'resumed'", told(reply))
    if reply.sequence:
        raise Broken(sent, "'resumed' with number 0", f"number {reply.sequence}")
    play.stream = stream
    return reply.resumed


def _course(subject: Subject, play: Play, cut: bool) -> object:
    """Four steps, the third of them sent right before the stream breaks, if it does."""
    play.reset(seeds=subject.seeds())
    for _ in range(2):
        view = play.act()
    figures = [view.figure()]
    request = play.next(step=step_of(play.draw()))
    play.stream.send(request)
    if cut:
        play.stream.cut()
        _resume(subject, play, "'resume' after the stream broke")
        play.stream.send(request)
    reply = play.answer("step")
    if not reply.HasField("batch"):
        raise Broken("'resume', then the unanswered 'step' again", "'batch'", told(reply))
    figures.append(play.see("step", reply).figure())
    figures.append(play.act().figure())
    return figures


@CHAPTER.check("resume", "a broken stream", _GOES_ON)
def _a_broken_stream(subject: Subject) -> None:
    try:
        one, other = subject.alike(
            lambda play: _course(subject, play, False), lambda play: _course(subject, play, True)
        )
    except NotExercised:
        _course(subject, subject.open(), True)
        return
    if one != other:
        raise Broken(
            "a 'step' without awaiting its reply, 'resume', the 'step' again",
            "the replies that come when no stream breaks",
            "different ones: a step was carried out twice or not at all",
        )


@CHAPTER.check(
    "resume",
    "the highest number",
    "The highest number carried out or being carried out.",
)
def _the_highest_number(subject: Subject) -> None:
    play = subject.open()
    play.reset()
    play.act()
    play.stream.cut()
    found = _resume(subject, play, "'resume' after the stream broke").last_sequence
    if found != play.sequence:
        raise Broken(
            f"'resume' after number {play.sequence} was answered",
            f"last_sequence {play.sequence}",
            str(found),
        )


@CHAPTER.check(
    "resume",
    "a taken-over stream",
    "If another stream still carries the session, that one is ended.",
)
def _a_taken_over_stream(subject: Subject) -> None:
    play = subject.open()
    play.reset()
    before: Stream = play.stream
    _resume(subject, play, "'resume' on a second stream, while the first carries the session")
    status = before.status()
    if status is not grpc.StatusCode.ABORTED:
        raise Broken("'resume' on a second stream", "status ABORTED on the first", status.name)
    play.act()


@CHAPTER.check("resume", "an unknown token", _LOST)
def _an_unknown_token(subject: Subject) -> None:
    stream = subject.stream()
    stream.send(subject.resuming("no-such-token"))
    expect_error(stream, [pb.ERROR_CODE_SESSION_LOST], "'resume' with a token made up")


@CHAPTER.check("resume", "a closed session", _LOST)
def _a_closed_session(subject: Subject) -> None:
    play = subject.open()
    play.close()
    stream = subject.stream()
    stream.send(subject.resuming(play.opened.session_token))
    expect_error(stream, [pb.ERROR_CODE_SESSION_LOST], "'resume' of a closed session")


@CHAPTER.check(
    "close", "ends the stream", "The server ends the stream itself with status OK after `closed`"
)
def _ends_the_stream(subject: Subject) -> None:
    play = subject.open()
    reply = play.ask(close=pb.Close())
    play.closed = True
    if not reply.HasField("closed"):
        raise Broken("'close'", "'closed'", told(reply))
    status = play.stream.status()
    if status is not grpc.StatusCode.OK:
        raise Broken("'close'", "the end of the stream with status OK", status.name)


@CHAPTER.check("sessions", "side by side", "One session over one stream.")
def _side_by_side(subject: Subject) -> None:
    if subject.server.limits.max_sessions == 1:
        raise NotExercised("the server has one session at a time")

    def alone(play: Play) -> object:
        return [play.reset(seeds=subject.seeds()).figure(), *(play.act().figure() for _ in "...")]

    def in_company(play: Play) -> object:
        other = subject.open()
        other.reset(seeds=subject.seeds(77))
        figures = [play.reset(seeds=subject.seeds()).figure()]
        for _ in "...":
            other.act()
            figures.append(play.act().figure())
        other.reset()
        return figures

    one, other = subject.alike(alone, in_company)
    if one != other:
        raise Broken("two sessions by turns", "the replies that each gets alone", "different ones")


@CHAPTER.check("stream", "no request", "INVALID_ARGUMENT bytes that are no SimRequest", once=True)
def _no_request(subject: Subject) -> None:
    play = subject.open()
    play.stream.send(b"\xff\xff\xff")
    try:
        reply = play.stream.receive()[1]
    except StreamEnded as ended:
        if ended.status is not grpc.StatusCode.INVALID_ARGUMENT:
            raise Broken("bytes FF FF FF", "status INVALID_ARGUMENT", str(ended)) from ended
        return
    raise Broken("bytes FF FF FF", "status INVALID_ARGUMENT", told(reply))


#: A larger bound than this is not tried.
_MOST_BYTES = 128 * 1024 * 1024


@CHAPTER.check("stream", "too large", "RESOURCE_EXHAUSTED a message over the size limit", once=True)
def _too_large(subject: Subject) -> None:
    bound = subject.server.limits.max_message_bytes
    if not 0 < bound <= _MOST_BYTES:
        raise NotExercised(f"max_message_bytes is {bound or 'unbounded'}")
    channel = subject.channel(max_message_bytes=bound + 4096)
    play = subject.open(channel)
    padding = pb.LoadState(states=[bytes(bound + 1)])
    play.stream.send(pb.SimRequest(sequence=2, load_state=padding))
    sent = f"a request of more than {bound} bytes"
    try:
        reply = play.stream.receive()[1]
    except StreamEnded as ended:
        if ended.status is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise Broken(sent, "status RESOURCE_EXHAUSTED", str(ended)) from ended
        return
    raise Broken(sent, "status RESOURCE_EXHAUSTED", told(reply))
