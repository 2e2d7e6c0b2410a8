"""A development certificate authority, its server and client certificates, and a token.

The profile of the certificates follows RFC 5280. The keys are on the curve P-256, which every TLS
library behind a gRPC implementation accepts, and are not encrypted.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import secrets
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from farsim.errors import FarsimError

DEFAULT_HOSTS = ("localhost", "127.0.0.1", "::1")

CA = "ca.pem"
CA_KEY = "ca-key.pem"
SERVER = "server.pem"
SERVER_KEY = "server-key.pem"
CLIENT = "client.pem"
CLIENT_KEY = "client-key.pem"
TOKEN = "token"

#: Clocks of two machines may differ by so much.
_CLOCK_SKEW = datetime.timedelta(hours=1)
# Host names after RFC 1123, and underscores, which container networks allow. The last label is
# never a number: that would be a mistyped IPv4 address.
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(\*\.)?({_LABEL}\.)*(?!\d+\.?$){_LABEL}\.?")


class CertificateError(FarsimError, ValueError):
    """A host that no certificate can name, or a certificate authority that cannot sign."""


class CertificatesExist(FarsimError, FileExistsError):
    """Files that would be overwritten."""


def make_certificates(
    directory: Path, hosts: Sequence[str] = DEFAULT_HOSTS, days: int = 90, *, reuse_ca: bool = False
) -> None:
    """Writes an authority, a server's and a client's certificate, each with its key, as PEM.

    Files of earlier certificates in ``directory`` are replaced. Nothing is written if it raises.

    Args:
        directory: made if missing.
        hosts: names and IP addresses by which clients call the server.
        days: how long the certificates are valid, though none outlives the authority.
        reuse_ca: sign with the authority that is in ``directory`` rather than with a new one.

    Raises:
        CertificateError: see there.
        OSError: ``directory`` cannot be written.
    """
    names = [_general_name(host) for host in hosts]
    if not names:
        raise CertificateError("a server certificate needs at least one host", "hosts")
    now = datetime.datetime.now(datetime.timezone.utc)
    until = now + datetime.timedelta(days=days)
    if reuse_ca:
        ca, ca_key = _read_ca(directory, now)
        until = min(until, ca.not_valid_after_utc)
        contents = {}
    else:
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca = _make_ca(ca_key, now, until)
        contents = {CA: _certificate_pem(ca), CA_KEY: _key_pem(ca_key)}

    server_key = ec.generate_private_key(ec.SECP256R1())
    server = _make_leaf("farsim server", server_key, ca, ca_key, now, until, names)
    client_key = ec.generate_private_key(ec.SECP256R1())
    client = _make_leaf("farsim client", client_key, ca, ca_key, now, until)
    contents |= {
        SERVER: _certificate_pem(server),
        SERVER_KEY: _key_pem(server_key),
        CLIENT: _certificate_pem(client),
        CLIENT_KEY: _key_pem(client_key),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        _write(directory / name, content, secret=name.endswith("-key.pem"))


def make_token(path: Path) -> None:
    """Writes a bearer token of 256 random bits in URL-safe base64, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, f"{secrets.token_urlsafe(32)}\n".encode(), secret=True)


def certs(
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("certs"),
    host: Annotated[
        list[str],
        typer.Option(help="A name or IP address by which clients call the server; repeatable."),
    ] = list(DEFAULT_HOSTS),  # noqa: B006 - Typer wants a list, and copies it.
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long they are valid.")] = 90,
    token: Annotated[bool, typer.Option("--token", help="Write a bearer token as well.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what is there, the authority included.")
    ] = False,
    reuse_ca: Annotated[
        bool,
        typer.Option(
            "--reuse-ca",
            help="Sign with the authority in the folder; replace only the server's and the "
            "client's certificates.",
        ),
    ] = False,
) -> None:
    """Make a development CA, a server and a client certificate, and a token.

    \b
    farsim certs                                   for this machine, in certs/
    farsim certs --host sim1 --host 10.0.0.4 --token
    farsim certs --host sim2 --reuse-ca            a further server, the same CA

    For development and private networks: the keys are not encrypted, and there is no revocation.
    """
    if force and reuse_ca:
        raise typer.BadParameter("--force makes a new authority, --reuse-ca keeps it: choose one")
    _refuse_to_overwrite(out, token=token, force=force, reuse_ca=reuse_ca)
    try:
        make_certificates(out, host, days, reuse_ca=reuse_ca)
        if token:
            make_token(out / TOKEN)
    except OSError as error:
        raise CertificateError(f"cannot write to {out}: {error}", "--out") from error
    typer.echo(_instructions(out, host))


def _refuse_to_overwrite(out: Path, *, token: bool, force: bool, reuse_ca: bool) -> None:
    if force:
        return
    if not reuse_ca:
        present = [
            name
            for name in (CA, CA_KEY, SERVER, SERVER_KEY, CLIENT, CLIENT_KEY)
            if (out / name).exists()
        ]
        if present:
            raise CertificatesExist(
                f"{', '.join(present)} in {out}: add --force to replace all, --reuse-ca to keep "
                "the authority, or choose another folder with --out",
                "--out",
            )
    if token and (out / TOKEN).exists():
        raise CertificatesExist(
            f"{out / TOKEN} is there: leave --token out to keep it, or add --force to replace all",
            "--token",
        )


def _instructions(out: Path, hosts: Sequence[str]) -> str:
    def flags(**files: str) -> str:
        return " ".join(
            f"--{flag.replace('_', '-')} {shlex.quote(str(out / file))}"
            for flag, file in files.items()
        )

    bearer = {"token_file": TOKEN} if (out / TOKEN).exists() else {}
    serve = flags(tls_cert=SERVER, tls_key=SERVER_KEY, tls_client_ca=CA, **bearer)
    train = flags(tls_ca=CA, tls_cert=CLIENT, tls_key=CLIENT_KEY, **bearer)
    address = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]
    return (
        f"Certificates for {', '.join(hosts)} are in {out}.\n"
        "\n"
        f"  farsim serve deeprm --address 0.0.0.0:50051 {serve}\n"
        f"  farsim train deeprm --sims {address}:50051 {train}\n"
        "\n"
        f"Copy to another machine only the files it names; {CA_KEY} stays here."
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        if not _HOST_NAME.fullmatch(host) or len(host) > 253:
            raise CertificateError(
                f"{host!r} is neither a host name nor an IP address; give it without a port, "
                "and international names in their ASCII form (xn--...)",
                "--host",
            ) from None
        return x509.DNSName(host.rstrip("."))


def _builder(
    name: str, key: ec.EllipticCurvePrivateKey, now: datetime.datetime, until: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _make_ca(
    key: ec.EllipticCurvePrivateKey, now: datetime.datetime, until: datetime.datetime
) -> x509.Certificate:
    # A name of its own for each, so that a client which trusts two of them takes the right one.
    name = f"farsim development CA {secrets.token_hex(4)}"
    builder = _builder(name, key, now, until)
    return (
        builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _make_leaf(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    until: datetime.datetime,
    hosts: Sequence[x509.GeneralName] = (),
) -> x509.Certificate:
    """A server's certificate if it has hosts, else a client's."""
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    ca_identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(name, key, now, until)
        .issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_identifier),
            critical=False,
        )
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _read_ca(
    directory: Path, now: datetime.datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        ca = x509.load_pem_x509_certificate((directory / CA).read_bytes())
        key = serialization.load_pem_private_key((directory / CA_KEY).read_bytes(), password=None)
        ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except FileNotFoundError as error:
        raise CertificateError(
            f"no authority to sign with: {error.filename} is missing; without --reuse-ca a new "
            "one is made",
            "--reuse-ca",
        ) from error
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise CertificateError(
            f"the authority in {directory} was not made by this command ({error}); without "
            "--reuse-ca a new one is made",
            "--reuse-ca",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
        raise CertificateError(
            f"{CA_KEY} in {directory} is not the key of {CA}; --force makes both anew",
            "--reuse-ca",
        )
    if ca.not_valid_after_utc <= now:
        raise CertificateError(
            f"the authority in {directory} expired on {ca.not_valid_after_utc:%Y-%m-%d}; --force "
            "makes a new one",
            "--reuse-ca",
        )
    return ca, key


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, *, secret: bool) -> None:
    """Puts a whole file in place at once; a secret one is never readable by others."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o600 if secret else 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
