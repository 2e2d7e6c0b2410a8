"""Files in a workspace's datastores, which are containers of Azure Blob Storage.

``azure.ai.ml`` has its own way to them, for jobs that are over and for whole folders only; the
running job's log and its latest checkpoint are wanted too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deploy.azure.account import Account
from deploy.azure.errors import AzureError, explained

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.storage.blob import ContainerClient


@dataclass(frozen=True)
class File:
    """A file in a datastore.

    Attributes:
        path: below the datastore's root.
        size: in bytes.
    """

    path: str
    size: int


class Store:
    """A datastore of a workspace.

    Args:
        account: where.
        client: for the workspace.
        name: of the datastore.

    Raises:
        AzureError: there is no such datastore, or it is none of blobs.
    """

    def __init__(self, account: Account, client: MLClient, name: str) -> None:
        self._name = name
        with explained(f"looking for the datastore '{name}'", name):
            store: Any = client.datastores.get(name, include_secrets=True)
        if getattr(store, "container_name", None) is None:
            raise AzureError(f"the datastore '{name}' is none of Azure Blob Storage", name)
        secrets = store.credentials
        credential = getattr(secrets, "sas_token", None) or getattr(secrets, "account_key", None)
        self.url = (
            f"{store.protocol}://{store.account_name}.blob.{store.endpoint}/{store.container_name}"
        )
        self._container: ContainerClient = account.blobs(self.url, credential)

    def url_of(self, path: str) -> str:
        """Where a file is for programs outside the workspace, without a credential."""
        return f"{self.url}/{path}"

    def list(self, prefix: str) -> Iterator[File]:
        """The files whose path begins so, in alphabetical order."""
        with explained(f"listing {prefix}", prefix):
            for found in self._container.list_blobs(name_starts_with=prefix):
                yield File(found.name, int(found.size))

    def upload(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Puts files into a folder; those that are there with this size are left alone."""
        there = {file.path: file.size for file in self.list(folder)}
        for name, content in files.items():
            path = f"{folder}{name}"
            if there.get(path) == len(content):
                continue
            with explained(f"uploading {name}", name):
                self._container.upload_blob(path, content, overwrite=True)

    def read(self, path: str, start: int = 0) -> bytes:
        """A file's content from a byte on."""
        with explained(f"reading {path}", path):
            return bytes(self._container.download_blob(path, offset=start).readall())

    def remove(self, prefix: str) -> int:
        """Removes the files whose path begins so; how many."""
        files = list(self.list(prefix))
        for file in files:
            with explained(f"removing {file.path}", file.path):
                self._container.delete_blob(file.path)
        return len(files)

    def download(self, prefix: str, file: File, folder: Path, tell: Callable[[str], None]) -> Path:
        """Brings a file into ``folder``, unless it is there in full; where it is now.

        Raises:
            AzureError: it cannot be read, or its name leads out of ``folder``.
        """
        inside = PurePosixPath(file.path.removeprefix(prefix))
        if inside.is_absolute() or ".." in inside.parts:
            raise AzureError(f"{file.path} would leave {folder}", file.path)
        target = folder / inside
        if target.is_file() and target.stat().st_size == file.size:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with explained(f"downloading {inside}", file.path), partial.open("wb") as stream:
                if file.size:
                    self._container.download_blob(file.path).readinto(stream)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        tell(str(inside))
        return target
