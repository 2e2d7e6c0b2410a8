"""Finding the policies that a path means, and loading them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.policy.recipe import NotPortable, Recipe
from agent.training import checkpoint as checkpoints
from agent.training.checkpoint import POINTER, InvalidCheckpoint, Manifest

#: The same names as in ``portable`` and ``rllib_checkpoint``, which need RLlib.
_FOLDER, _DOCUMENT = "policy", "policy.json"
_RLLIB_MARK = "rllib_checkpoint.json"


class UntrustedCheckpoint(InvalidCheckpoint):
    """Loading it would run code that it contains, and nobody has said that it may."""


@dataclass(frozen=True)
class Source:
    """A checkpoint on disk, as it is at this moment.

    Attributes:
        folder: the checkpoint's.
        manifest: what Farsim wrote there; None for RLlib's own.
        portable: the folder with its policies free of pickle; None if it has none.
        stamp: changes when the checkpoint does, in nanoseconds.
    """

    folder: Path
    manifest: Manifest | None
    portable: Path | None
    stamp: int


def find(path: Path) -> Source:
    """The newest checkpoint at ``path``.

    Args:
        path: a run's folder, a checkpoint's, a folder of policies as ``--export`` writes it, one
            that RLlib wrote, or one with several of those, of which the last name counts.

    Raises:
        InvalidCheckpoint: there is none; says what is there instead.
    """
    if not path.exists():
        raise InvalidCheckpoint(f"there is nothing at {path}", str(path))
    if (path / _DOCUMENT).is_file():
        return Source(path, None, path, _stamp(path / _DOCUMENT))
    if path.is_file() or (path / POINTER).is_file() or (path / checkpoints.MANIFEST).is_file():
        found = checkpoints.find(path)
        inner = found.path / _FOLDER
        portable = inner if (inner / _DOCUMENT).is_file() else None
        stamp = _stamp(found.path / checkpoints.MANIFEST)
        return Source(found.path, found.manifest, portable, stamp)
    marks = [path / _RLLIB_MARK, *sorted(path.glob(f"*/{_RLLIB_MARK}"), reverse=True)]
    for mark in marks:
        if mark.is_file():
            return Source(mark.parent, None, None, _stamp(mark))
    raise InvalidCheckpoint(
        f"{path} is no checkpoint: name a run of farsim train, a folder in its 'checkpoints', or a "
        "checkpoint of RLlib",
        str(path),
    )


def load(source: Source, trust: bool = False) -> Recipe:
    """The policies of a checkpoint.

    Args:
        source: where it is.
        trust: whether it may be unpickled, which runs code that it contains.

    Raises:
        UntrustedCheckpoint: it would have to be unpickled.
        InvalidCheckpoint: it is damaged, or does not fit what is installed.
        NotPortable: it has connectors that cannot be served.
    """
    from agent.policy import portable, rllib_checkpoint

    reason = "it was written by RLlib"
    if source.manifest is not None:
        reason = "it was written before Farsim's checkpoints carried their policies without pickle"
    if source.portable is not None:
        try:
            return portable.read(source.portable, str(source.folder))
        except NotPortable as error:
            reason = error.message
            if source.portable == source.folder:
                raise
    if not trust:
        raise UntrustedCheckpoint(
            f"{source.folder} can only be loaded by unpickling it, which runs code that it "
            f"contains: {reason}. If you trust whoever made it, say --trust",
            str(source.folder),
        )
    return rllib_checkpoint.read(source.folder, source.manifest)


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns
