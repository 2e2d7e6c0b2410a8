"""The build context: the sources that images are made of, and wheels if there are some."""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from docker.utils.build import exclude_paths

import farsim
from farsim.errors import FarsimError

#: Where a Dockerfile looks for wheels.
WHEELHOUSE = "wheelhouse"


class NoBuildContext(FarsimError, FileNotFoundError):
    """A folder without what an image is made of."""


def source_folder(given: Path | None, dockerfile: str) -> Path:
    """The checkout to build from: the one given, the current folder, or where Farsim runs from.

    Raises:
        NoBuildContext: there is no such Dockerfile.
    """
    folders = [given] if given else [Path(), Path(farsim.__file__).parents[1]]
    for folder in folders:
        if (folder / dockerfile).is_file():
            return folder.resolve()
    places = " or ".join(str(folder.resolve()) for folder in folders)
    raise NoBuildContext(
        f"there is no {dockerfile} in {places}: images are built from a checkout of Farsim; name "
        "its folder with --context",
        dockerfile,
    )


@contextlib.contextmanager
def build_context(folder: Path, dockerfile: str, wheelhouse: Path | None) -> Iterator[IO[bytes]]:
    """The context as a tar file, as the engine takes it.

    Args:
        folder: the checkout; its ``.dockerignore`` says what of it matters.
        dockerfile: the file's name in there.
        wheelhouse: a folder of wheels that takes the place of ``wheelhouse`` in ``folder``.

    Raises:
        NoBuildContext: ``wheelhouse`` has no wheels.
    """
    wheels: list[Path] = []
    if wheelhouse is not None:
        wheels = sorted(wheelhouse.glob("*.whl"))
        if not wheels:
            raise NoBuildContext(
                f"there are no wheels in {wheelhouse}: 'make wheelhouse' gathers them",
                str(wheelhouse),
            )
    with tempfile.TemporaryFile(prefix="farsim-context-") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name in files_of(folder, dockerfile):
                if not (wheels and name.split("/")[0] == WHEELHOUSE):
                    tar.add(folder / name, name, recursive=False, filter=_anonymous)
            for wheel in wheels:
                tar.add(wheel.resolve(), f"{WHEELHOUSE}/{wheel.name}", filter=_anonymous)
        file.seek(0)
        yield file


def files_of(folder: Path, dockerfile: str) -> list[str]:
    """What of a checkout the context has, folders too: all that ``.dockerignore`` leaves."""
    return sorted(exclude_paths(str(folder), _ignored(folder), dockerfile))


def _ignored(folder: Path) -> list[str]:
    path = folder / ".dockerignore"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whose a file is here must not make layers differ."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
