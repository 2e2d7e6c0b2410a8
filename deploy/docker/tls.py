"""The files of ``farsim certs`` in a container.

They travel in a volume of the deployment's own rather than as a mounted folder: private keys are
readable by their owner alone, and the servers run as another user. An engine elsewhere can also
not mount a folder of this machine.
"""

from __future__ import annotations

import io
import ipaddress
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from farsim import certs
from farsim.errors import FarsimError

#: Where they are in a container.
FOLDER = "/tls"
#: The user of the simulators' image.
USER = 10001

_NEEDED = (certs.CA, certs.SERVER, certs.SERVER_KEY, certs.CLIENT, certs.CLIENT_KEY)


class UnfitCertificates(FarsimError, ValueError):
    """Certificates that are missing, or that name other hosts than clients call."""


@dataclass(frozen=True)
class TlsFiles:
    """A folder with what ``farsim certs`` makes; clients must show a certificate, too.

    Attributes:
        folder: on this machine.
        has_token: whether clients must send a token as well.
        probed_host: by which a server is called in its own container.
    """

    folder: Path
    has_token: bool
    probed_host: str

    @classmethod
    def of(cls, folder: Path, host: str) -> TlsFiles:
        """Looks whether a folder has all that is needed.

        Args:
            folder: of ``farsim certs``.
            host: by which clients call the servers.

        Raises:
            UnfitCertificates: a file is missing, or the server's certificate does not name ``host``
                and this machine.
        """
        missing = [name for name in _NEEDED if not (folder / name).is_file()]
        if missing:
            raise UnfitCertificates(
                f"{folder} lacks {', '.join(missing)}: 'farsim certs --out {folder}' makes all",
                str(folder),
            )
        named = _hosts((folder / certs.SERVER).read_bytes(), folder)
        probed = next((name for name in ("127.0.0.1", "localhost") if name in named), "")
        if not probed or host.strip("[]") not in named:
            raise UnfitCertificates(
                f"{folder / certs.SERVER} is for {', '.join(sorted(named)) or 'no host'}, but must "
                f"name {host}, which clients call, and localhost, for health checks: farsim certs "
                f"--out {folder} --reuse-ca --host {host.strip('[]')} --host localhost",
                str(folder),
            )
        return cls(folder.resolve(), (folder / certs.TOKEN).is_file(), probed)

    def serve_arguments(self) -> list[str]:
        """For ``farsim serve`` in a container."""
        files = {
            "--tls-cert": certs.SERVER,
            "--tls-key": certs.SERVER_KEY,
            "--tls-client-ca": certs.CA,
        }
        return _flags(files | ({"--token-file": certs.TOKEN} if self.has_token else {}))

    def probe_arguments(self) -> list[str]:
        """For ``farsim check --health`` in a container; health checks need no token."""
        files = {
            "--tls-ca": certs.CA,
            "--tls-cert": certs.CLIENT,
            "--tls-key": certs.CLIENT_KEY,
        }
        return _flags(files)

    def connection(self) -> dict[str, str]:
        """Fields of ``ConnectionOptions`` for clients on this machine."""
        files = {"tls_ca": certs.CA, "tls_cert": certs.CLIENT, "tls_key": certs.CLIENT_KEY}
        if self.has_token:
            files["token_file"] = certs.TOKEN
        return {field: str(self.folder / name) for field, name in files.items()}

    def fill(self, client: Any, image: str, volume: str, labels: dict[str, str]) -> None:
        """Puts the files into a volume, where only the servers' user can read them.

        A container that is never started is what the engine takes files for a volume through.
        """
        container = client.containers.create(
            image, labels=labels, volumes={volume: {"bind": FOLDER, "mode": "rw"}}
        )
        try:
            container.put_archive(FOLDER, self._archive())
        finally:
            container.remove(force=True)

    def _archive(self) -> bytes:
        buffer = io.BytesIO()
        names = [*_NEEDED, certs.TOKEN] if self.has_token else _NEEDED
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in names:
                content = (self.folder / name).read_bytes()
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                entry.mode = 0o400
                entry.uid = entry.gid = USER
                tar.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()


def _flags(files: dict[str, str]) -> list[str]:
    return [text for flag, name in files.items() for text in (flag, f"{FOLDER}/{name}")]


def _hosts(pem: bytes, folder: Path) -> set[str]:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    except ValueError as error:
        raise UnfitCertificates(
            f"{folder / certs.SERVER} is no certificate ({error}): 'farsim certs' makes one",
            str(folder),
        ) from error
    addresses = names.get_values_for_type(x509.IPAddress)
    return {*names.get_values_for_type(x509.DNSName), *map(_text, addresses)}


def _text(address: ipaddress.IPv4Address | ipaddress.IPv6Address | Any) -> str:
    return str(address)
