"""Building the images of simulators and heads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import docker

from deploy.docker.context import build_context, source_folder
from farsim.errors import FarsimError

#: The images by what they are for.
IMAGES = {"sim": "farsim-sim", "train": "farsim-train"}

_LAST_LINES = 25


class BuildFailed(FarsimError, RuntimeError):
    """An image could not be built."""


@dataclass(frozen=True)
class Build:
    """An image to be.

    Attributes:
        target: a key of ``IMAGES``.
        tag: the image's name; empty for ``IMAGES``'s.
        context: the checkout to build from; None for the one at hand.
        wheelhouse: a folder of wheels to install from before the package index.
        arguments: build arguments, as the Dockerfile declares them.
        network: of the build's containers; empty for the engine's default.
    """

    target: str
    tag: str = ""
    context: Path | None = None
    wheelhouse: Path | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    network: str = ""

    def carry_out(self, client: docker.DockerClient, tell: Callable[[str], None]) -> Any:
        """Builds; the image.

        Args:
            client: of the engine.
            tell: called with each line that the build prints.

        Raises:
            BuildFailed: says what it printed last.
            NoBuildContext: there is nothing to build from.
        """
        dockerfile = f"Dockerfile.{self.target}"
        tag = self.tag or IMAGES[self.target]
        folder = source_folder(self.context, dockerfile)
        with build_context(folder, dockerfile, self.wheelhouse) as context:
            self._build(client, tag, dockerfile, context, tell)
        return client.images.get(tag)

    def _build(
        self,
        client: docker.DockerClient,
        tag: str,
        dockerfile: str,
        context: IO[bytes],
        tell: Callable[[str], None],
    ) -> None:
        printed: deque[str] = deque(maxlen=_LAST_LINES)
        events = client.api.build(
            fileobj=context,
            custom_context=True,
            dockerfile=dockerfile,
            tag=tag,
            buildargs=dict(self.arguments),
            network_mode=self.network or None,
            rm=True,
            forcerm=True,
            decode=True,
        )
        for event in events:
            for line in str(event.get("stream", "")).splitlines():
                if line.strip():
                    printed.append(line)
                    tell(line)
            if "error" in event:
                said = "\n".join(printed)
                raise BuildFailed(
                    f"{dockerfile} could not be built: {event['error']}{_advice(event['error'])}"
                    f"\n{said}",
                    tag,
                )


def _advice(error: str) -> str:
    if any(sign in error for sign in ("pull access", "no such host", "registry", "manifest")):
        return (
            ". If no image registry can be reached from here, name an image that the engine has "
            "with --base-image"
        )
    return ""
