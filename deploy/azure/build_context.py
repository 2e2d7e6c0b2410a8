"""The sources that Azure builds the head's image from."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

from deploy.azure.machine_learning import DOCKERFILE, digest
from deploy.docker.context import files_of, source_folder
from farsim.errors import InvalidArgument

#: Azure ML gives no build arguments, so they become the file's defaults: the run's metrics go to
#: the workspace through MLflow.
_ARGUMENTS = {"EXTRAS": "train,video,mlflow"}


class BuildFiles:
    """A checkout of Farsim as a build context.

    Args:
        folder: the checkout; None for the current folder, or where Farsim runs from.

    Raises:
        NoBuildContext: there is no ``Dockerfile.train``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = source_folder(folder, DOCKERFILE)

    @cached_property
    def names(self) -> list[str]:
        """Of its files, in order."""
        names = files_of(self.folder, DOCKERFILE)
        return [name for name in names if (self.folder / name).is_file()]

    @cached_property
    def digest(self) -> str:
        """A short name for just these files."""
        parts = [f"{name} {digest(content)}" for name, content in self.contents().items()]
        return digest("\n".join(parts))

    def contents(self) -> dict[str, bytes]:
        """All files by name."""
        files = {name: (self.folder / name).read_bytes() for name in self.names}
        files[DOCKERFILE] = with_arguments(files[DOCKERFILE].decode(), _ARGUMENTS).encode()
        return files


def with_arguments(dockerfile: str, arguments: dict[str, str]) -> str:
    """A Dockerfile whose build arguments have other defaults.

    Raises:
        InvalidArgument: it has no such argument.
    """
    for name, value in arguments.items():
        dockerfile, changed = re.subn(
            rf"^ARG {name}=.*$", f"ARG {name}={value}", dockerfile, flags=re.MULTILINE
        )
        if not changed:
            raise InvalidArgument(f"{DOCKERFILE} has no 'ARG {name}=...'", DOCKERFILE)
    return dockerfile
