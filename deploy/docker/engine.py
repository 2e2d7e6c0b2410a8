"""The Docker Engine, and what is said when it or something in it is not there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import docker
import docker.errors
import requests

from farsim.errors import FarsimError

#: Building and removing images keep the engine busy for longer than the SDK's own 60 s.
_TIMEOUT_SECONDS = 600


class EngineUnavailable(FarsimError, ConnectionError):
    """No Docker Engine answers, or this user may not use it."""


class EngineRefused(FarsimError, RuntimeError):
    """The engine does not do what it was asked to."""


class ImageMissing(FarsimError, LookupError):
    """An image that the engine does not have."""


class PortTaken(FarsimError, OSError):
    """A port to publish that something else listens on."""


@contextlib.contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """A client of the engine that ``DOCKER_HOST`` names, or of this machine's.

    Raises:
        EngineUnavailable: it does not answer.
        EngineRefused: within the block, it refused something.
    """
    with contextlib.ExitStack() as stack:
        try:
            client = docker.from_env(timeout=_TIMEOUT_SECONDS)
            stack.callback(client.close)
            client.ping()
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise EngineUnavailable(
                f"no Docker Engine answers ({_innermost(error)}): start it (systemctl start "
                "docker, or Docker Desktop), see that this user may use it (group docker), or "
                "name another one in DOCKER_HOST"
            ) from error
        try:
            yield client
        except docker.errors.APIError as error:
            raise EngineRefused(f"the Docker Engine refused: {explanation(error)}") from error
        except requests.RequestException as error:
            raise EngineUnavailable(
                f"the Docker Engine stopped answering: {_innermost(error)}"
            ) from error


def require_image(client: docker.DockerClient, image: str, advice: str) -> Any:
    """The image.

    Raises:
        ImageMissing: the engine does not have it; ``advice`` says what to do.
    """
    try:
        return client.images.get(image)
    except docker.errors.ImageNotFound:
        raise ImageMissing(f"the engine has no image '{image}': {advice}", image) from None


def explanation(error: docker.errors.APIError) -> str:
    """What the engine said, without the request's address."""
    return str(error.explanation or error)


def taken_port(error: docker.errors.APIError) -> str | None:
    """``host:port`` that could not be published, if that is what an error is about."""
    text = explanation(error)
    if "already allocated" not in text and "address already in use" not in text:
        return None
    found = re.search(r"(?:Bind for|listen tcp[46]?|exposing port TCP) (\S+:\d+)", text)
    return found[1] if found else ""


def _innermost(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error) or type(error).__name__
