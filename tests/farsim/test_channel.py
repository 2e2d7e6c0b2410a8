"""Connection options, and channels to real servers."""

from __future__ import annotations

import itertools
import pickle
import socket
import threading
from pathlib import Path

import grpc
import pytest

from agent.session import Session, describe
from farsim.certs import make_certificates
from farsim.channel import ConnectionOptions, backoff, open_channel, translate
from farsim.errors import (
    AuthenticationFailed,
    FarsimError,
    InvalidOption,
    MessageTooLarge,
    ServerUnavailable,
    UnknownOption,
    Unsupported,
)
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import simulator_pb2_grpc
from tests.servers import Serving, serving


def test_options_pickle_and_come_from_a_dict() -> None:
    options = ConnectionOptions.of({"request_seconds": 3, "token": "secret"})
    assert options.request_seconds == 3
    assert pickle.loads(pickle.dumps(options)) == options
    assert ConnectionOptions.of(options) is options
    assert ConnectionOptions.of(None) == ConnectionOptions()
    assert "secret" not in repr(options)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"request_second": 3}, UnknownOption, "did you mean 'request_seconds'"),
        ({"request_seconds": 0}, InvalidOption, "'request_seconds' is a positive number"),
        ({"request_seconds": "3"}, InvalidOption, "'request_seconds' is a positive number"),
        ({"max_message_bytes": 1.5}, InvalidOption, "'max_message_bytes' is a positive number"),
        ({"resume_seconds": True}, InvalidOption, "'resume_seconds' is a positive number"),
        ({"token": 5}, InvalidOption, "'token' is a text"),
        ({"token": "a", "token_file": "b"}, InvalidOption, "not both"),
        ({"tls_cert": "a"}, InvalidOption, "'tls_cert' and 'tls_key' go together"),
    ],
)
def test_wrong_options(given, error, message) -> None:
    with pytest.raises(error, match=message):
        ConnectionOptions.of(given)


def test_missing_files_are_named(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.pem")
    with pytest.raises(InvalidOption, match="tls_ca: cannot read"):
        open_channel("127.0.0.1:1", ConnectionOptions(tls_ca=gone))
    with pytest.raises(InvalidOption, match="token_file: cannot read"):
        ConnectionOptions(token_file=gone).read_token()
    Path(gone).write_text("\n")
    with pytest.raises(InvalidOption, match="holds no token"):
        ConnectionOptions(token_file=gone).read_token()


def test_backoff_grows_to_its_bound_and_is_drawn_at_random() -> None:
    delays = list(itertools.islice(backoff(0.1, 1.0), 50))
    bounds = [min(0.1 * 2**i, 1.0) for i in range(50)]
    assert all(b / 2 <= d <= b for d, b in zip(delays, bounds, strict=True))
    assert len(set(delays)) > 40


def test_a_token_goes_with_every_call(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("correct-horse\n")
    with serving("adder", "--token-file", str(token)) as server:
        right = ConnectionOptions(token_file=str(token))
        assert [simulator.name for simulator in describe(server.address, right)] == ["adder"]
        with Session.open(server.address, connection=right) as session:
            assert session.reset().started.tolist() == [0]
        for wrong in (ConnectionOptions(token="battery-staple"), ConnectionOptions()):
            with pytest.raises(AuthenticationFailed, match="does not accept the token"):
                describe(server.address, wrong)
            with pytest.raises(AuthenticationFailed, match="does not accept the token"):
                Session.open(server.address, connection=wrong)


def test_tls_both_ways(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["sim.test"], days=1)
    make_certificates(tmp_path / "other", ["sim.test"], days=1)
    files = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "client", "client-key")}
    flags = [
        f"--tls-cert={tmp_path / 'server.pem'}",
        f"--tls-key={tmp_path / 'server-key.pem'}",
        f"--tls-client-ca={files['ca']}",
    ]
    mutual = {"tls_cert": files["client"], "tls_key": files["client-key"]}
    name = {"tls_server_name": "sim.test"}
    with serving("adder", *flags) as server:
        good = ConnectionOptions(tls_ca=files["ca"], **mutual, **name)
        with Session.open(server.address, connection=good) as session:
            assert session.reset().started.tolist() == [0]
        wrong = {
            "another authority": {"tls_ca": str(tmp_path / "other" / "ca.pem"), **mutual, **name},
            "another name": {"tls_ca": files["ca"], **mutual},
        }
        for what, options in wrong.items():
            with pytest.raises(AuthenticationFailed, match="no secure connection") as caught:
                describe(server.address, options)
            assert "tls_ca" in str(caught.value), what
        for transport in ("direct", "grpcio"):
            # Without a client certificate the server says what it misses ...
            options = {"tls_ca": files["ca"], **name, "transport": transport}
            with pytest.raises(AuthenticationFailed, match="if it asks for a client's"):
                describe(server.address, options)
            # ... and without TLS it just hangs up.
            with pytest.raises(ServerUnavailable, match="if it asks for a client certificate"):
                describe(server.address, {"transport": transport})


def test_nobody_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ServerUnavailable, match=f"{address} cannot be reached"):
            describe(address)


def test_somebody_else_there() -> None:
    """A server that accepts and says nothing, within ``connect_seconds``."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(FarsimError, match=address):
            describe(address, {"connect_seconds": 0.5})


def test_another_grpc_service_there() -> None:
    from concurrent import futures

    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(Unsupported, match="not one of simulators"):
            describe(f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()


def test_messages_over_the_limit(shared_server: Serving) -> None:
    with open_channel(shared_server.address, ConnectionOptions(max_message_bytes=100)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            simulator_pb2_grpc.SimulatorStub(channel).Describe(pb.DescribeRequest())
        error = translate(caught.value, shared_server.address)
    assert isinstance(error, MessageTooLarge)
    assert "max_message_bytes" in str(error)
    assert pickle.loads(pickle.dumps(error)).args == error.args


def test_channels_leave_no_threads(shared_server: Serving) -> None:
    before = threading.active_count()
    for _ in range(3):
        describe(shared_server.address)
    for thread in threading.enumerate():
        if thread.name == "farsim upkeep":  # It ends with the last connection, soon after.
            thread.join(10)
    assert threading.active_count() == before
