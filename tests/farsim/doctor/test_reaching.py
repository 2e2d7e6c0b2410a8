"""Every cause that ``farsim doctor`` names on the way to a server, produced on purpose."""

from __future__ import annotations

import datetime
import http.server
import json
import os
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from farsim import tensors
from farsim.certs import make_certificates
from farsim.channel import ConnectionOptions
from farsim.doctor.examination import Wishes, examine
from farsim.doctor.findings import Cause, Diagnosis
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import simulator_pb2_grpc, tensor_pb2
from tests.raw_client import RawStream, opening, reset, step
from tests.servers import ROOT, Serving, serving

AILING = "tests.simulators.ailing:Ailing"


def diagnose(address: str, seconds: float = 0.5, **options: Any) -> Diagnosis:
    """What is found at ``address``; options of the connection start with "tls" or "token"."""
    connection = {k: str(options.pop(k)) for k in list(options) if k.startswith(("tls", "token"))}
    wishes = Wishes(ConnectionOptions(**connection), seconds=seconds, **options)
    (diagnosis,), _ = examine([address], wishes)
    return diagnosis


def first(address: str, **options: Any) -> Cause:
    diagnosis = diagnose(address, **options)
    assert not diagnosis.is_reached
    return diagnosis.findings[0].cause


@pytest.fixture(scope="module")
def plain() -> Iterator[Serving]:
    with serving("deeprm", AILING, "--grace-seconds", "0") as server:
        yield server


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    make_certificates(folder, ["localhost"])
    return folder


@pytest.fixture(scope="module")
def secure(certs: Path) -> Iterator[Serving]:
    files = ["--tls-cert", certs / "server.pem", "--tls-key", certs / "server-key.pem"]
    with serving("adder", *map(str, files)) as server:
        yield server


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that is none of ours."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            answer(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextmanager
def speaking_grpc(add: Callable[[grpc.Server], None]) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


# -- name and port ------------------------------------------------------------------------


def test_a_name_that_does_not_resolve():
    assert first("no-such-host.invalid:50051") is Cause.NAME


def test_a_port_where_nobody_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert first(f"127.0.0.1:{unused.getsockname()[1]}") is Cause.PORT_CLOSED


def test_a_port_that_does_not_answer():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # Nobody accepts: once the queue is full, Linux drops what else comes, as firewalls do.
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        try:
            assert first(f"127.0.0.1:{full.getsockname()[1]}") is Cause.PORT_SILENT
        finally:
            for each in waiting:
                each.close()


def test_a_host_that_there_is_no_way_to():
    assert first("255.255.255.255:50051") is Cause.NO_ROUTE


# -- TLS ----------------------------------------------------------------------------------


def at_localhost(server: Serving) -> str:
    return server.address.replace("127.0.0.1", "localhost")


def test_a_good_certificate_is_no_obstacle(secure, certs):
    diagnosis = diagnose(at_localhost(secure), tls_ca=certs / "ca.pem")
    assert diagnosis.is_reached
    assert "TLS" in [step.name for step in diagnosis.steps]


def test_plain_text_to_a_server_with_tls(secure):
    assert first(at_localhost(secure)) is Cause.WANTS_TLS


def test_tls_to_a_server_without(plain, certs):
    assert first(plain.address, tls_ca=certs / "ca.pem") is Cause.SPEAKS_PLAIN


def test_another_name_in_the_certificate(secure, certs):
    name = {"tls_server_name": "elsewhere.example"}
    assert first(at_localhost(secure), tls_ca=certs / "ca.pem", **name) is Cause.CERTIFICATE_NAME


def test_another_authority(secure, tmp_path):
    make_certificates(tmp_path, ["localhost"])
    found = first(at_localhost(secure), tls_ca=tmp_path / "ca.pem")
    assert found is Cause.CERTIFICATE_AUTHORITY


def test_an_expired_certificate(certs, tmp_path):
    old = x509.load_pem_x509_certificate((certs / "server.pem").read_bytes())
    load = serialization.load_pem_private_key
    ca_key: Any = load((certs / "ca-key.pem").read_bytes(), None)
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
    builder = x509.CertificateBuilder(old.issuer, old.subject, old.public_key())
    builder = builder.serial_number(1).not_valid_before(past)
    builder = builder.not_valid_after(past + datetime.timedelta(days=1))
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    expired = builder.sign(ca_key, hashes.SHA256())
    file = tmp_path / "expired.pem"
    file.write_bytes(expired.public_bytes(serialization.Encoding.PEM))
    with serving(
        "adder", "--tls-cert", str(file), "--tls-key", str(certs / "server-key.pem")
    ) as server:
        found = first(at_localhost(server), tls_ca=certs / "ca.pem")
    assert found is Cause.CERTIFICATE_EXPIRED


def test_a_client_certificate_is_wanted(certs, tmp_path):
    make_certificates(tmp_path, ["localhost"])
    files = {"cert": "server.pem", "key": "server-key.pem", "client-ca": "ca.pem"}
    flags = [f"--tls-{name}={certs / file}" for name, file in files.items()]
    with serving("adder", *flags) as server:
        address, ca = at_localhost(server), {"tls_ca": certs / "ca.pem"}
        assert first(address, **ca) is Cause.CLIENT_CERTIFICATE
        strange = {"tls_cert": tmp_path / "client.pem", "tls_key": tmp_path / "client-key.pem"}
        assert first(address, **ca, **strange) is Cause.CLIENT_CERTIFICATE
        own = {"tls_cert": certs / "client.pem", "tls_key": certs / "client-key.pem"}
        assert diagnose(address, **ca, **own).is_reached


def test_a_handshake_without_common_ground(certs):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "server.pem", certs / "server-key.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA")

    def answer(connection: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)

    with listening(answer) as address:
        found = first(address.replace("127.0.0.1", "localhost"), tls_ca=certs / "ca.pem")
    assert found is Cause.TLS_FAILED


# -- what listens there -------------------------------------------------------------------


def test_a_web_server():
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler
    ) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            assert first(f"127.0.0.1:{server.server_port}") is Cause.HTTP1
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9.2\r\n", b""], ids=["banner", "hangs up"])
def test_something_else(banner):
    def answer(connection: socket.socket) -> None:
        connection.sendall(banner)
        connection.recv(1024)

    with listening(answer) as address:
        assert first(address) is Cause.NOT_GRPC


def test_another_grpc_service():
    def add(server: grpc.Server) -> None:
        servicer = health.HealthServicer()
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)

    with speaking_grpc(add) as address:
        assert first(address) is Cause.NOT_FARSIM


class Described(simulator_pb2_grpc.SimulatorServicer):
    def __init__(self, reply: pb.DescribeReply) -> None:
        self._reply = reply

    def Describe(self, request: Any, context: Any) -> pb.DescribeReply:
        return self._reply


def describing(reply: pb.DescribeReply) -> Any:
    return speaking_grpc(
        lambda server: simulator_pb2_grpc.add_SimulatorServicer_to_server(Described(reply), server)
    )


def test_another_version_and_no_health():
    with describing(pb.DescribeReply(protocol_version="2.0")) as address:
        found = [finding.cause for finding in diagnose(address).findings]
    assert found == [Cause.VERSION, Cause.HEALTH]


def test_spaces_that_cannot_be_read():
    broken = pb.SimulatorDescription(name="broken", groups=[pb.Group(name="a", agents=["a"])])
    with describing(pb.DescribeReply(protocol_version="1.0", simulators=[broken])) as address:
        assert first(address) is Cause.SPACES


def test_tokens(tmp_path):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("a" * 32)
    wrong.write_text("b" * 32)
    with serving("adder", "--token-file", str(right)) as server:
        assert first(server.address) is Cause.TOKEN_MISSING
        assert first(server.address, token_file=wrong) is Cause.TOKEN_WRONG
        assert diagnose(server.address, token_file=right).is_reached


# -- the simulator ------------------------------------------------------------------------


def test_an_unknown_simulator(plain):
    assert first(plain.address, simulator="deeprn") is Cause.NO_SIMULATOR


def test_options_that_it_does_not_take(plain):
    options = {"num_nw": "many"}
    assert first(plain.address, simulator="deeprm", options=options) is Cause.OPTIONS


@pytest.mark.parametrize("fails", [1, 2], ids=["reset", "step"])
def test_a_simulator_that_fails(plain, fails):
    diagnosis = diagnose(plain.address, simulator=AILING, options={"fails": fails})
    assert diagnosis.findings[0].cause is Cause.SIMULATOR_FAILS


def test_a_step_that_does_not_end(plain):
    found = first(plain.address, simulator=AILING, options={"sleep": 20}, seconds=0.3)
    assert found is Cause.HANGS


def test_a_server_that_dies_in_a_step():
    with serving(AILING) as server:
        assert first(server.address, options={"dies": 1}) is Cause.LOST
        server.process.wait(20)


def test_a_full_server():
    with (
        serving("adder", "--max-sessions", "1") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stream = RawStream(channel)
        assert stream.ask(opening("adder", 1)).opened.session_token
        assert first(server.address) is Cause.FULL


def test_a_server_that_drains():
    with (
        serving(AILING, "--grace-seconds", "60") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stream = RawStream(channel)
        sleep = tensor_pb2.Value(tensors=[tensors.pack(np.array([60], np.float32))])
        options = pb.Options(values={"sleep": sleep})
        request = opening(AILING, 1, options=options, heartbeat_seconds=0.1)
        assert stream.ask(request).opened.session_token
        stream.ask(reset(2))
        stream.send(step(3, np.zeros(1, np.int64)))
        assert next(stream.replies).HasField("heartbeat")
        os.kill(server.process.pid, signal.SIGTERM)
        assert stream.receive().HasField("draining")
        assert first(server.address) is Cause.DRAINING
        server.kill()


def test_the_command_says_it_first_and_to_programs():
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "farsim", "doctor", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        told, plain = run(address, "--json"), run(address)
    assert told.returncode == plain.returncode == 1
    found = json.loads(told.stdout)["servers"][0]["findings"][0]
    assert found["cause"] == "PORT_CLOSED"
    assert plain.stdout.startswith(Cause.PORT_CLOSED.value)
    assert found["remedy"]
