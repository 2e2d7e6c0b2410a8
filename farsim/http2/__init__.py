"""HTTP/2 for a stream of gRPC messages that is read and written by the thread that needs it.

gRPC for Python hands every message from thread to thread, which costs some 0.3 ms of a core for
each round trip; a socket that is read and written by whoever waits for it costs a fifth. On the
wire it is gRPC all the same (RFC 9113, and
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md), so the peer may be any gRPC client
or server.
"""
