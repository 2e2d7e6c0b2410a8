"""Environments of an OpenEnv server: github.com/meta-pytorch/OpenEnv, its WebSocket protocol."""

from __future__ import annotations

import json
import urllib.request
from contextlib import ExitStack
from typing import Any

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from farsim.errors import SimulatorFault
from simserver.adapters import json_fields, settings
from simserver.adapters.remote_worlds import Sight, World

#: Seconds to wait for a connection, a schema and a first answer.
_READY_SECONDS = 30.0

PARAMETERS = (
    settings.parameter(
        "ranges", "", "bounds of values that say none, both included: name=low:high; ..."
    ),
    settings.parameter("reset", "", "what to send with every reset: name=value; name=value"),
)


class OpenEnvWorld(World):
    """One WebSocket, and the environment that the server makes for it.

    Spaces come from the server's ``/schema``: whole numbers with bounds and enumerations are
    ``Discrete``, other numbers and arrays of them ``Box``, objects ``Dict``; a single value stands
    for itself. Arrays without a fixed length have that of the first observation for good. Texts
    that are observed are infos.

    Every reset sends a seed, drawn from the one that was given last, so that episodes can be
    repeated though OpenEnv's seeds are for one episode. ``done`` is terminated, or truncated if
    the metadata says ``truncated``.

    Args:
        url: http:// or https://, with the path that the server is at.
        ranges: see ``PARAMETERS``.
        reset: the same.

    Raises:
        SimulatorFault: the server can not be reached, or refuses.
        Unsupported: an action or the observations have no space.
    """

    def __init__(self, url: str, *, ranges: str, reset: str) -> None:
        self._url = url.rstrip("/")
        self._extra = settings.parse("reset", reset)
        schemas = self._schemas()
        bounds = settings.ranges("ranges", ranges)
        json_fields.known(bounds, schemas["action"], schemas["observation"])
        self._random = np.random.default_rng()
        self._open = ExitStack()
        try:
            self._socket = self._open.enter_context(
                connect(
                    f"ws{self._url.removeprefix('http')}/ws",
                    open_timeout=_READY_SECONDS,
                    max_size=None,
                    compression=None,
                )
            )
        except (OSError, WebSocketException) as error:
            raise SimulatorFault(f"no OpenEnv server answers at {url}: {error}", url) from error
        try:
            self._action = json_fields.action(schemas["action"], bounds)
            first = self._ask("reset", self._extra, _READY_SECONDS)
            self._observation = json_fields.observation(
                schemas["observation"], bounds, first["observation"]
            )
        except BaseException:
            self.close()
            raise
        self.action_space = self._action.space
        self.observation_space = self._observation.space

    def reset(self, seed: int | None) -> Sight:
        if seed is not None:
            self._random = np.random.default_rng(seed)
        chosen = int(self._random.integers(2**31))
        return self._sight(self._ask("reset", {"seed": chosen, **self._extra}))

    def step(self, action: Any) -> Sight:
        return self._sight(self._ask("step", self._action.write(action)))

    def close(self) -> None:
        self._open.close()

    def _schemas(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self._url}/schema", timeout=_READY_SECONDS) as reply:
                found = json.load(reply)
            return {name: found[name] for name in ("action", "observation")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SimulatorFault(
                f"{self._url}/schema does not say what the environment looks like: {error}",
                self._url,
            ) from error

    def _ask(self, kind: str, data: dict[str, Any], seconds: float | None = None) -> dict[str, Any]:
        try:
            self._socket.send(json.dumps({"type": kind, "data": data}))
            reply = json.loads(self._socket.recv(seconds))
        except (OSError, WebSocketException) as error:
            raise SimulatorFault(f"{self._url}: the connection broke: {error}") from error
        if reply.get("type") != "observation":
            said = reply.get("data", reply)
            raise SimulatorFault(f"{self._url} to '{kind}': {said}", kind)
        answer: dict[str, Any] = reply["data"]
        return answer

    def _sight(self, answer: dict[str, Any]) -> Sight:
        seen, metadata = answer["observation"], answer.get("metadata") or {}
        is_truncated = bool(metadata.get("truncated"))
        return Sight(
            self._observation.read(seen),
            float(answer.get("reward") or 0.0),
            terminated=bool(answer.get("done")) and not is_truncated,
            truncated=bool(answer.get("done")) and is_truncated,
            info={name: value for name, value in seen.items() if isinstance(value, str)},
        )
