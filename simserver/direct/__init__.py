"""Our own clients, answered from their sockets by the threads that step their simulators.

gRPC for Python hands every message from thread to thread, which costs more than most steps. Here
a server's port is its own: clients that say so in their HTTP/2 settings (``farsim.http2``) get a
thread each that reads a request, carries it out and writes the reply; all others, any gRPC client
among them, are relayed to gRPC's own server.
"""
