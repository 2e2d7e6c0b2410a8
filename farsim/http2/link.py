"""One end of an HTTP/2 connection that carries one gRPC stream at a time, in the calling thread."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence

from farsim.http2 import frames
from farsim.http2.events import Broken, End, Event, Headers
from farsim.http2.fields import HEADER_BYTES, FieldReader
from farsim.http2.frames import ACK, DATA, END_STREAM, PADDED, PING, PROTOCOL_ERROR, SETTINGS, frame
from farsim.http2.messages import MessageReader, unpadded
from farsim.http2.pipe import Piece, Pipe
from farsim.http2.room import Granted, Room

#: What the peer may send; TCP's own window holds it back where nobody reads.
_WINDOW = frames.MAX_WINDOW
_FRAME_BYTES = 1 << 20
#: Of a frame of data that lacks so much, what comes is taken in at once.
_LONG_BYTES = 1 << 19
#: How often a pump reads at most, so that a peer that never stops holds nobody; the buffer grows
#: with messages.
_READS = 16
#: Control frames that may wait to be sent.
_OWED_BYTES = 1 << 16


class Link:
    """One end of a connection, over a connected socket.

    Every method but ``close`` is to be called with ``lock`` held; whoever waits holds it, so that
    others can tell by it whether the connection is looked after.

    Args:
        sock: plain or TLS, with its handshake done; the link owns it from now on.
        client: which end this is. A server's link is to be given what came so far, the preface
            included, by ``received``.
        max_message_bytes: the largest message that may come.
        stall_seconds: how long sending waits for a peer that takes nothing.
        spin_seconds: how long waiting keeps the processor awake; see ``Spin``.

    Attributes:
        events: what came and has not been taken yet, in order.
        heard_at: when something of a message came last, by ``time.monotonic``; pings say nothing of
            whoever is to send it.
    """

    def __init__(
        self,
        sock: socket.socket,
        client: bool,
        max_message_bytes: int,
        stall_seconds: float = 60.0,
        spin_seconds: float = 0.0,
    ) -> None:
        # One that the same thread may take again: a garbage collection may close what it waits for.
        self.lock = threading.RLock()
        self.events: deque[Event] = deque()
        self._client = client
        self._failure: Broken | None = None
        # One of two that write to each other has to read all meanwhile, and servers trust nobody.
        unread = max_message_bytes + _FRAME_BYTES if client else 2 * _FRAME_BYTES
        self._pipe = Pipe(sock, stall_seconds, unread, spin_seconds)
        self._messages = MessageReader(max_message_bytes, self.events)
        self._fields = FieldReader()
        self.heard_at = self._pipe.heard_at
        #: The stream that is open, or was the last one; 0 before the first.
        self._stream = 0
        #: Whether the peer may send more on it, and whether this end may.
        self._coming = self._going = False
        #: The last one that the peer began, also if it was refused.
        self._last_begun = 0
        #: Why the server takes no more streams; None if it does.
        self._leaving: Broken | None = None
        #: Bytes that came while something waited in ``events``, and how many that may be.
        self._untaken, self._most_untaken = 0, max_message_bytes + _FRAME_BYTES
        #: Of a frame of data how much is still to come, and its flags and stream.
        self._rest, self._of_rest = 0, (0, 0)
        self._granted, self._room = Granted(_WINDOW), Room()
        greeting = frames.greeting(client, _WINDOW, _FRAME_BYTES, HEADER_BYTES)
        #: Control frames to be sent with the next, or when nothing more is to be read.
        self._owed = bytearray(greeting)
        self._preface_due, self._greeting_due = not client, client

    @property
    def is_greeted(self) -> bool:
        """Whether the peer has said that it speaks HTTP/2."""
        return not (self._greeting_due or self._preface_due)

    @property
    def moved_at(self) -> float:
        """When something came or went last."""
        return max(self._pipe.heard_at, self._pipe.sent_at)

    @property
    def sending_on(self) -> int:
        """The stream on which this end may send; 0 for none."""
        return self._stream if self._going else 0

    @property
    def stall_seconds(self) -> float:
        """How long sending waits for a peer that takes nothing."""
        return self._pipe.stall_seconds

    @stall_seconds.setter
    def stall_seconds(self, seconds: float) -> None:
        self._pipe.stall_seconds = seconds

    # -- sending --------------------------------------------------------------------------

    def open(self, fields: Sequence[tuple[str, str]]) -> None:
        """Begins the next stream, as a client; what is left of the last one is dropped.

        Raises:
            Broken: as everywhere here; also if the server has said that it takes no more.
        """
        if self._leaving is not None:
            raise self._leaving
        if self._coming or self._going:
            self._owed += frames.reset(self._stream, frames.CANCEL)
        self.events.clear()
        self._begin(self._stream + 2 if self._stream else 1)
        self._send_headers(fields, 0)

    def answer(self, fields: Sequence[tuple[str, str]], end: bool = False) -> None:
        """Sends header fields on the stream, as a server; trailers with ``end``, at once."""
        if not self._going:
            return
        self._send_headers(fields, END_STREAM if end else 0)
        if end:
            if self._coming:  # The client need not say the rest.
                self._owed += frames.reset(self._stream, frames.NO_ERROR)
            self._coming = self._going = False
            self._flush()

    def send(self, message: Piece, end: bool = False) -> None:
        """Sends a message, and with ``end`` that there will be no more.

        Nothing is sent on a stream that this end or the peer has given up.
        """
        if not self._going:
            return
        size, stream = len(message), self._stream
        framed = size + 5
        room = self._room
        if framed <= room.stream and framed <= room.connection and framed <= room.frame:
            room.stream -= framed
            room.connection -= framed
            head = frames.prefixed_header.pack(
                framed >> 16, framed & 0xFFFF, DATA, int(end), stream, 0, size
            )
            self._write((head, message))
        else:
            self._send_pieces(struct.pack(">BI", 0, size) + bytes(message), end)
        if end and stream == self._stream:
            self._going = False

    def has_room(self, size: int | None) -> bool:
        """Whether a small message of ``size`` bytes, or else a ping, can be sent at once."""
        return (size is None or size + 5 <= self._room.now) and self._pipe.has_room()

    def end(self) -> None:
        """Says that there will be no more messages on the stream."""
        if self._going:
            self._going = False
            self._write((frame(DATA, END_STREAM, self._stream),))

    def reset(self, code: int = frames.CANCEL) -> None:
        """Gives up the stream."""
        if self._coming or self._going:
            self._coming = self._going = False
            self._write((frames.reset(self._stream, code),))

    def ping(self) -> None:
        """Sends a ping, for routers and peers that forget who is silent; its answer is ignored."""
        self._write((frame(PING, 0, 0, bytes(8)),))

    def give_up(self, failure: Broken) -> None:
        """Takes in what has come already, which may say why; then there is but ``failure``."""
        if self._failure is not None:
            return
        try:
            while self._untaken <= self._most_untaken and self._read():
                pass
            self._parse()
        except Broken as found:
            failure = found
        self._failure = failure

    def close(self, code: int = frames.NO_ERROR) -> None:
        """Closes the connection; may be called from any thread, also while another one waits."""
        farewell = None
        if self.lock.acquire(blocking=False):
            last = 0 if self._client else self._stream
            farewell = bytes(self._owed) + frames.goodbye(last, code)
            self.lock.release()
        self._pipe.shut(farewell)
        with self.lock:
            self._failure = self._failure or Broken("this end has closed the connection")
            self._pipe.close()

    def _send_headers(self, fields: Sequence[tuple[str, str]], flags: int) -> None:
        # They go out with what follows.
        self._owed += frames.headers(self._stream, flags, fields, self._room.frame)

    def _send_pieces(self, data: bytes, end: bool) -> None:
        """Sends what the peer has no room for at once, or what is too much for one frame."""
        view, stream = memoryview(data), self._stream
        until, late = time.monotonic() + self.stall_seconds, False
        while len(view):
            room = self._room.now
            if room <= 0:
                if late or not self.pump(max(0.0, until - time.monotonic())):
                    self.give_up(Broken(f"the peer took nothing for {self.stall_seconds:g} s"))
                if self._failure is not None:
                    raise self._failure
                # Also if it sends all the time.
                late = time.monotonic() > until
                if stream != self._stream or not self._going:
                    return
                continue
            piece, view = view[:room], view[room:]
            self._room.stream -= len(piece)
            self._room.connection -= len(piece)
            last = END_STREAM if end and not len(view) else 0
            head = frames.frame_header.pack(
                len(piece) >> 16, len(piece) & 0xFFFF, DATA, last, self._stream
            )
            self._write((head, piece))
            until, late = time.monotonic() + self.stall_seconds, False

    def _flush(self) -> None:
        if self._owed:
            self._write(())

    def _write(self, pieces: tuple[Piece, ...]) -> None:
        if self._owed:
            pieces = (bytes(self._owed), *pieces)
            self._owed.clear()
        try:
            self._pipe.write(pieces)
        except Broken as failure:
            self.give_up(failure)
            raise

    # -- receiving ------------------------------------------------------------------------

    def take(self, seconds: float | None) -> Event | None:
        """The next that comes within ``seconds``, or ever if None; None if nothing does.

        Raises:
            Broken: the connection is of no more use.
        """
        if self.events:
            return self.events.popleft()
        until = None if seconds is None else time.monotonic() + seconds
        while self.pump(seconds):
            if self.events:
                return self.events.popleft()
            # Also if something comes all the time that is no event.
            if until is not None and (seconds := until - time.monotonic()) < 0:
                break
        return None

    def watch(self, descriptor: int) -> None:
        """Lets ``pump`` return also when another file can be read, which is left to the caller."""
        self._pipe.watch(descriptor)

    def pump(self, seconds: float | None) -> bool:
        """Waits for something to come, takes it in and answers what asks for an answer.

        Returns:
            Whether anything came within ``seconds``; None waits for ever. Nothing is read while
            more waits in ``events`` than one message.
        """
        if self._failure is not None:
            raise self._failure
        if self.events and self._untaken > self._most_untaken:
            return False
        try:
            self._flush()
            if not self._pipe.wait(seconds):
                return False
            for _ in range(_READS):
                if not self._read() or self.events:
                    break
            self._flush()
        except Broken as failure:
            self._failure = self._failure or failure
            if not self.events:
                raise self._failure from None
            # What came before is still good; the failure is for when that has been taken.
        return True

    def received(self, data: bytes) -> None:
        """Takes in what has been read from the socket already."""
        self._pipe.put_back(data)

    def _read(self) -> bool:
        """Reads what has come and takes it in; whether there may be more."""
        pipe, rest, (flags, stream) = self._pipe, self._rest, self._of_rest
        here = rest and stream == self._stream and self._coming
        if not (here and pipe.is_empty and self._messages.takes_more):
            more = pipe.read()
            self._parse()
            return more
        count = self._messages.read(rest, pipe.read_into)
        self._rest -= count
        self._untaken += count
        self._data(b"", 0, 0, flags if count == rest else 0, stream)
        return count > 0

    def _parse(self) -> None:
        pipe = self._pipe
        buffer, at, to = pipe.buffer, pipe.begin, pipe.end
        if not self.events:
            self._untaken = 0
        if self._preface_due:
            if to - at < len(frames.PREFACE):
                return
            if buffer[at : at + len(frames.PREFACE)] != frames.PREFACE:
                raise Broken("the peer does not speak HTTP/2", PROTOCOL_ERROR)
            at += len(frames.PREFACE)
            self._preface_due = False
        if self._greeting_due and to - at >= 9:
            self._greeting_due = False
            self._room.greeting(bytes(buffer[at : at + 9]))
        if self._rest:
            count, (flags, stream) = min(self._rest, to - at), self._of_rest
            self._rest -= count
            self._data(buffer, at, at + count, 0 if self._rest else flags, stream)
            at += count
        while to - at >= 9:
            high, low, kind, flags, stream = frames.frame_header.unpack_from(buffer, at)
            stream &= frames.NUMBER
            end = at + 9 + (high << 16 | low)
            if end - at > _FRAME_BYTES + 9:
                raise Broken("a frame larger than allowed", frames.FRAME_SIZE_ERROR)
            plain = kind == DATA and not flags & PADDED and not self._fields.midway
            if end > to and not (plain and end - to >= _LONG_BYTES):
                break
            if kind == DATA:
                here = stream == self._stream and self._coming
                if more := self._granted.use(end - at - 9, stream if here else 0):
                    self._owe(more)
            if end > to:
                self._rest, self._of_rest = end - to, (flags, stream)
                self._data(buffer, at + 9, to, 0, stream)
                end = to
            elif plain:
                self._data(buffer, at + 9, end, flags, stream)
            else:
                self._handle(kind, flags, stream, bytes(buffer[at + 9 : end]))
            at = end
        self._untaken += at - pipe.begin
        pipe.begin = at

    # -- frames ---------------------------------------------------------------------------

    def _data(self, buffer: bytes | bytearray, at: int, end: int, flags: int, stream: int) -> None:
        """The data of a frame, without padding, between two places in ``buffer``."""
        if stream != self._stream or not self._coming:
            if not 0 < stream <= max(self._stream, self._last_begun):
                raise Broken("data on a stream that is not open", PROTOCOL_ERROR)
            return  # It was refused or given up while this was on its way.
        self.heard_at = self._pipe.heard_at
        self._messages.add(buffer, at, end)
        if flags & END_STREAM:
            if self._messages.is_within:
                raise Broken("a stream that ends within a message", PROTOCOL_ERROR)
            self._coming = False
            self.events.append(End())

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._fields.midway or kind == frames.CONTINUATION:
            self._headers(self._fields.go_on(kind, flags, stream, payload))
        elif kind == DATA:
            payload = unpadded(flags, payload)
            self._data(payload, 0, len(payload), flags, stream)
        elif kind == frames.HEADERS:
            self._headers(self._fields.begin(flags, stream, unpadded(flags, payload)))
        elif kind == SETTINGS:
            if not flags & ACK:
                self._room.settings(payload)
                self._owe(frame(SETTINGS, ACK, 0))
        elif kind == PING:
            if len(payload) != 8:
                raise Broken("a ping of a wrong size", frames.FRAME_SIZE_ERROR)
            if not flags & ACK:
                self._owe(frame(PING, ACK, 0, payload))
        elif kind == frames.WINDOW_UPDATE:
            if stream in (0, self._stream):
                more = int.from_bytes(payload, "big") & frames.NUMBER
                self._room.grow(more, connection=not stream)
        elif kind == frames.RST_STREAM:
            if stream == self._stream and (self._coming or self._going):
                self._coming = self._going = False
                self.events.append(End(int.from_bytes(payload[:4], "big")))
        elif kind == frames.GOAWAY:
            self._going_away(payload)
        elif kind == frames.PUSH_PROMISE:
            raise Broken("a push, which nobody offered to take", PROTOCOL_ERROR)
        # Frames of other kinds are to be ignored.

    def _headers(self, headers: Headers | None) -> None:
        """Takes in header fields; None if they are not complete."""
        if headers is None:
            return
        stream = headers.stream
        if not self._client and stream > self._last_begun:
            if not stream % 2:
                raise Broken("a stream with a server's number", PROTOCOL_ERROR)
            self._last_begun = stream
            if self._coming or self._going:
                self._owe(frames.reset(stream, frames.REFUSED_STREAM))
                return
            self._begin(stream)
        elif stream != self._stream or not self._coming:
            return
        self._coming = not headers.end
        if headers.end and self._client and self._going:
            # The server wants no more; until it hears of the end it may count the stream as open.
            self._going = False
            self._owe(frames.reset(stream, frames.NO_ERROR))
        self.events.append(headers)

    def _begin(self, stream: int) -> None:
        self._stream = stream
        self._coming = self._going = True
        self._messages.forget()
        self._room.begin()
        self._granted.begin()

    def _going_away(self, payload: bytes) -> None:
        last, code = struct.unpack(">II", payload[:8].ljust(8, b"\0"))
        if self._client:
            why = payload[8:].decode(errors="replace")
            self._leaving = Broken(f"the server is going away {why}".rstrip(), code)
            if last & frames.NUMBER < self._stream:
                raise self._leaving

    def _owe(self, control: bytes) -> None:
        """A frame to be sent soon, though not within another one."""
        self._owed += control
        if len(self._owed) > _OWED_BYTES:
            raise Broken("too many frames that ask for an answer", frames.ENHANCE_YOUR_CALM)
