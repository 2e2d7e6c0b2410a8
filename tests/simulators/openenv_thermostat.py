"""An environment of OpenEnv's, served by OpenEnv's own server: keep a room at 20 °C.

Runs where OpenEnv is installed, not where Farsim is:

    python openenv_thermostat.py FILE    # Listens on a free port, which it writes to FILE.
"""

import os
import random
import socket
import sys
import threading
import time
from enum import Enum
from typing import Any, Literal

import uvicorn
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field


class Window(str, Enum):
    OPEN = "open"
    CLOSED = "closed"


class Heat(Action):
    level: int = Field(ge=0, le=2, description="of the heater")
    window: Window = Window.CLOSED
    note: dict | None = None


class Room(Observation):
    temperature: float = Field(description="in °C")
    outside: list[float] = Field(description="in °C, now and next")
    season: Literal["winter", "summer"] = "winter"
    comment: str = ""


class Thermostat(Environment[Heat, Room, State]):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State(step_count=0)
        self._random = random.Random()
        self._inside = 10.0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Room:
        self._random = random.Random(seed)
        self._state = State(episode_id=episode_id, step_count=0)
        self._inside = self._random.uniform(5, 15)
        return self._room(None)

    def step(self, action: Heat, timeout_s: float | None = None, **_: Any) -> Room:
        self._state.step_count += 1
        self._inside += 3.0 * action.level - 2.0 - (4.0 if action.window == Window.OPEN else 0.0)
        return self._room(-abs(self._inside - 20.0) / 10.0)

    @property
    def state(self) -> State:
        return self._state

    def _room(self, reward: float | None) -> Room:
        frozen = self._inside < -40
        late = self._state.step_count >= 12
        return Room(
            temperature=self._inside,
            outside=[self._random.uniform(-5, 5) for _ in range(2)],
            comment="cold" if self._inside < 18 else "warm",
            reward=reward,
            done=frozen or late,
            metadata={"truncated": late and not frozen},
        )


def main() -> None:
    app = create_fastapi_app(Thermostat, Heat, Room, max_concurrent_envs=64)
    listener = socket.create_server(("127.0.0.1", 0))
    parent = os.getppid()

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    with open(sys.argv[1] + ".partial", "w") as file:
        file.write(f"127.0.0.1:{listener.getsockname()[1]}\n")
    os.replace(sys.argv[1] + ".partial", sys.argv[1])
    uvicorn.run(app, fd=listener.fileno(), log_level="warning")


if __name__ == "__main__":
    main()
