"""``farsim certs``: what it makes is what TLS libraries accept, and it loses nobody's files."""

import ipaddress
import re
import ssl
import stat
import subprocess
import sys
from concurrent import futures
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from farsim.certs import CertificateError, make_certificates

PAIRS = ("ca", "server", "client")


def certs(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "farsim", "certs", "--out", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def load(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shake_hands(folder: Path, host: str, *, client_folder: Path | None = None) -> None:
    """A whole mutual TLS handshake in memory, each side with its files."""
    server_context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem")
    )
    server_context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    server_context.verify_mode = ssl.CERT_REQUIRED
    client_folder = client_folder or folder
    client_context = ssl.create_default_context(cafile=str(client_folder / "ca.pem"))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    client_context.load_cert_chain(client_folder / "client.pem", client_folder / "client-key.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):  # Three flights, and one round to see that all is said.
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.getpeercert()["subject"] == ((("commonName", "farsim server"),),)
    assert server.getpeercert()["subject"] == ((("commonName", "farsim client"),),)


def test_files_and_their_permissions(tmp_path: Path):
    folder = tmp_path / "new" / "certs"
    assert certs(folder).returncode == 0
    expected = {f"{name}{kind}.pem" for name in PAIRS for kind in ("", "-key")}
    assert set(contents(folder)) == expected
    for path in folder.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o600 if path.name.endswith("-key.pem") else 0o644)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_by_default_this_machine_is_named(tmp_path: Path, host: str):
    make_certificates(tmp_path)
    shake_hands(tmp_path, host)
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        shake_hands(tmp_path, "sim1")


def test_the_hosts_given_are_the_ones_named(tmp_path: Path):
    hosts = ["sim1", "sim_2.internal", "*.sims.example", "10.0.0.4", "[fd00::7]"]
    result = certs(tmp_path, *(word for host in hosts for word in ("--host", host)))
    assert result.returncode == 0
    names = load(tmp_path, "server").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == hosts[:3]
    assert names.value.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("10.0.0.4"),
        ipaddress.ip_address("fd00::7"),
    ]
    for host in ("sim1", "a.sims.example", "10.0.0.4", "fd00::7"):
        shake_hands(tmp_path, host)


@pytest.mark.parametrize(
    "host", ["", "sim1:50051", "10.0.0.256", "a..b", "-a", "a b", "https://sim1", "sïm", "a" * 64]
)
def test_what_is_no_host_is_refused_before_anything_is_written(tmp_path: Path, host: str):
    with pytest.raises(CertificateError, match=re.escape(repr(host))):
        make_certificates(tmp_path / "out", ["sim1", host])
    assert not (tmp_path / "out").exists()


def test_certificates_satisfy_the_profile_of_the_web(tmp_path: Path):
    make_certificates(tmp_path, ["sim1.example"])
    policy = PolicyBuilder().store(Store([load(tmp_path, "ca")]))
    chain = policy.build_server_verifier(x509.DNSName("sim1.example")).verify(
        load(tmp_path, "server"), []
    )
    assert [certificate.subject for certificate in chain] == [
        load(tmp_path, "server").subject,
        load(tmp_path, "ca").subject,
    ]
    with pytest.raises(x509.verification.VerificationError):
        policy.build_server_verifier(x509.DNSName("sim1.example")).verify(
            load(tmp_path, "client"), []
        )


def test_validity(tmp_path: Path):
    assert certs(tmp_path, "--days", "30").returncode == 0
    now = datetime.now(timezone.utc)
    for name in PAIRS:
        certificate = load(tmp_path, name)
        assert certificate.not_valid_before_utc <= now - timedelta(minutes=59)
        assert timedelta(0) <= now + timedelta(days=30) - certificate.not_valid_after_utc
        assert now + timedelta(days=29) < certificate.not_valid_after_utc


def test_grpc_accepts_them_and_demands_the_clients(tmp_path: Path):
    make_certificates(tmp_path)
    other = tmp_path / "other"
    make_certificates(other)

    def read(folder: Path, name: str) -> bytes:
        return (folder / name).read_bytes()

    server = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(read(tmp_path, "server-key.pem"), read(tmp_path, "server.pem"))],
            read(tmp_path, "ca.pem"),
            require_client_auth=True,
        ),
    )
    server.start()

    def check(credentials: grpc.ChannelCredentials) -> int:
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            return stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status

    def credentials(folder: Path, ca: bytes) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            ca, read(folder, "client-key.pem"), read(folder, "client.pem")
        )

    ca = read(tmp_path, "ca.pem")
    try:
        assert check(credentials(tmp_path, ca)) == health_pb2.HealthCheckResponse.SERVING
        for wrong in (
            grpc.ssl_channel_credentials(ca),  # No client certificate.
            credentials(other, ca),  # One from another authority.
            credentials(tmp_path, read(other, "ca.pem")),  # A client that trusts another one.
        ):
            with pytest.raises(grpc.RpcError) as raised:
                check(wrong)
            assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    finally:
        server.stop(None).wait()


def test_nothing_is_overwritten_unless_told(tmp_path: Path):
    assert certs(tmp_path).returncode == 0
    before = contents(tmp_path)
    result = certs(tmp_path)
    assert result.returncode == 1
    assert "--force" in result.stderr
    assert "--reuse-ca" in result.stderr
    assert contents(tmp_path) == before
    assert certs(tmp_path, "--force").returncode == 0
    after = contents(tmp_path)
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in before)


def test_one_file_is_enough_to_refuse(tmp_path: Path):
    (tmp_path / "client-key.pem").write_text("precious")
    result = certs(tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: client-key.pem in {tmp_path}: ")
    assert contents(tmp_path) == {"client-key.pem": b"precious"}


def test_reusing_the_authority(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert certs(first, "--host", "sim1").returncode == 0
    second.mkdir()
    for path in first.iterdir():
        (second / path.name).write_bytes(path.read_bytes())
    assert certs(second, "--host", "sim2", "--reuse-ca", "--days", "3650").returncode == 0
    old, new = contents(first), contents(second)
    assert {name for name in new if new[name] == old[name]} == {"ca.pem", "ca-key.pem"}
    # Each is accepted by whoever trusts the authority, and outlives it no more than before.
    shake_hands(first, "sim1", client_folder=second)
    shake_hands(second, "sim2", client_folder=first)
    ca_ends = load(second, "ca").not_valid_after_utc
    assert load(second, "server").not_valid_after_utc == ca_ends


def test_an_authority_that_cannot_sign_is_refused(tmp_path: Path):
    def refused(because: str) -> None:
        before = contents(tmp_path)
        with pytest.raises(CertificateError, match=because):
            make_certificates(tmp_path, reuse_ca=True)
        assert contents(tmp_path) == before

    refused("ca.pem is missing")
    make_certificates(tmp_path, days=0)
    refused("expired on")
    make_certificates(tmp_path)
    key = (tmp_path / "ca-key.pem").read_bytes()
    make_certificates(tmp_path)
    (tmp_path / "ca-key.pem").write_bytes(key)
    refused("ca-key.pem in .* is not the key of ca.pem")
    (tmp_path / "ca-key.pem").write_bytes(b"nonsense")
    refused("was not made by this command")


def test_force_and_reuse_together_make_no_sense(tmp_path: Path):
    result = certs(tmp_path, "--force", "--reuse-ca")
    assert result.returncode == 2
    assert "choose one" in result.stderr
    assert contents(tmp_path) == {}


def test_token(tmp_path: Path):
    assert certs(tmp_path, "--token").returncode == 0
    path = tmp_path / "token"
    token = path.read_text()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    result = certs(tmp_path, "--token", "--reuse-ca")
    assert result.returncode == 1
    assert "leave --token out to keep it" in result.stderr
    assert path.read_text() == token
    assert certs(tmp_path, "--token", "--force").returncode == 0
    assert path.read_text() != token


def test_it_ends_with_the_flags_to_use(tmp_path: Path):
    folder = tmp_path / "my certs"
    result = certs(folder, "--host", "fd00::7")
    serve, train = (line.strip() for line in result.stdout.splitlines() if "farsim " in line)

    def path(name: str) -> str:
        return f"'{folder / name}'"

    assert serve == (
        f"farsim serve deeprm --address 0.0.0.0:50051 --tls-cert {path('server.pem')} "
        f"--tls-key {path('server-key.pem')} --tls-client-ca {path('ca.pem')}"
    )
    assert train == (
        f"farsim train deeprm --sims [fd00::7]:50051 --tls-ca {path('ca.pem')} "
        f"--tls-cert {path('client.pem')} --tls-key {path('client-key.pem')}"
    )
    assert "token" not in result.stdout
    again = certs(folder, "--force", "--token").stdout
    assert again.count(f"--token-file {path('token')}\n") == 2


def test_a_folder_that_cannot_be_written_is_an_error_not_a_traceback(tmp_path: Path):
    (tmp_path / "file").write_text("")
    result = certs(tmp_path / "file" / "certs")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: cannot write to {tmp_path / 'file' / 'certs'}: ")
