"""CartPole as an environment of OpenEnv's, served by OpenEnv's own server.

Runs where OpenEnv is installed, which need not be where Farsim is; of Farsim it needs
``turns.py`` alone, on the path::

    python openenv_cart_pole.py '{"envs": 32}'

The physics are those of Gymnasium's CartPole-v1: Barto, Sutton and Anderson, "Neuronlike adaptive
elements that can solve difficult learning control problems", 1983.
"""

from __future__ import annotations

import json
import math
import random
import socket
import sys
import threading
from typing import Any

from turns import Lines, serve_until_left  # type: ignore[import-not-found]

lines = Lines()

import uvicorn  # noqa: E402
from openenv.core.env_server.http_server import create_fastapi_app  # type: ignore[import-not-found]  # noqa: E402
from openenv.core.env_server.interfaces import Environment  # type: ignore[import-not-found]  # noqa: E402
from openenv.core.env_server.types import Action, Observation, State  # type: ignore[import-not-found]  # noqa: E402

ENVS = json.loads(sys.argv[1])["envs"] if __name__ == "__main__" else 1
LIMIT = 500
DEGREES_12 = 12 * 2 * math.pi / 360


class Pushes(Action):
    """0 or 1 for each environment."""

    push: list[int]


class Poles(Observation):
    """Position, velocity, angle and angular velocity of each; rewards and ends of each."""

    state: list[list[float]]
    rewards: list[float]
    terminated: list[bool]
    truncated: list[bool]


class CartPole:
    """One of them."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> list[float]:
        self.state = [random.uniform(-0.05, 0.05) for _ in range(4)]
        self.steps = 0
        self.over = False
        return self.state

    def step(self, push: int) -> tuple[list[float], float, bool, bool]:
        if self.over:
            return self.start(), 0.0, False, False
        x, speed, angle, turning = self.state
        force = 10.0 if push else -10.0
        cosine, sine = math.cos(angle), math.sin(angle)
        push_on_pole = (force + 0.05 * turning**2 * sine) / 1.1
        turn = (9.8 * sine - cosine * push_on_pole) / (0.5 * (4.0 / 3.0 - 0.1 * cosine**2 / 1.1))
        acceleration = push_on_pole - 0.05 * turn * cosine / 1.1
        self.state = [
            x + 0.02 * speed,
            speed + 0.02 * acceleration,
            angle + 0.02 * turning,
            turning + 0.02 * turn,
        ]
        self.steps += 1
        terminated = abs(self.state[0]) > 2.4 or abs(self.state[2]) > DEGREES_12
        truncated = self.steps >= LIMIT
        self.over = terminated or truncated
        return self.state, 1.0, terminated, truncated


class CartPoles(Environment):
    """A batch by hand; its environments begin their next episodes by themselves."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._poles = [CartPole() for _ in range(ENVS)]

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Poles:
        random.seed(seed)
        return self._seen([(pole.start(), 0.0, False, False) for pole in self._poles])

    def step(self, action: Pushes, timeout_s: float | None = None, **_: Any) -> Poles:
        return self._seen(
            [pole.step(push) for pole, push in zip(self._poles, action.push, strict=True)]
        )

    @property
    def state(self) -> State:
        return State(step_count=0)

    def _seen(self, results: list[tuple[list[float], float, bool, bool]]) -> Poles:
        states, rewards, terminated, truncated = zip(*results, strict=True)
        return Poles(
            state=states, rewards=rewards, terminated=terminated, truncated=truncated, done=False
        )


def main() -> None:
    """Serves until standard input ends."""
    app = create_fastapi_app(CartPoles, Pushes, Poles, max_concurrent_envs=64)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    serve_until_left(lines, f"127.0.0.1:{listener.getsockname()[1]}")
    server.should_exit = True
    thread.join(5)


if __name__ == "__main__":
    main()
