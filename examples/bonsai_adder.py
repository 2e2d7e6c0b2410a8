"""Adder for the Bonsai simulator API: an integer starts somewhere, and is to be moved to 50.

An ordinary simulator of microsoft-bonsai-api, which knows nothing of Farsim::

    pip install microsoft-bonsai-api six
    farsim gateway bonsai --reward '-abs(state.value - 50)' --episode-steps 10
    SIM_API_HOST=http://127.0.0.1:50080 SIM_WORKSPACE=any SIM_ACCESS_KEY=any \\
        python examples/bonsai_adder.py
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from typing import Any

from azure.core.exceptions import HttpResponseError
from microsoft_bonsai_api.simulator.client import BonsaiClient, BonsaiClientConfig
from microsoft_bonsai_api.simulator.generated.models import (
    SimulatorInterface,
    SimulatorSessionResponse,
    SimulatorState,
)


def number(name: str, start: int, stop: int) -> dict[str, Any]:
    return {"name": name, "type": {"category": "Number", "start": start, "stop": stop, "step": 1}}


def struct(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"category": "Struct", "fields": list(fields)}


DESCRIPTION = {
    "config": struct(number("initial_value", 0, 100)),
    "state": struct(number("value", -100, 200)),
    "action": struct(number("addend", -10, 10)),
}


class Adder:
    """The model."""

    def __init__(self) -> None:
        self.value = 0

    def start(self, config: dict[str, Any] | None) -> None:
        initial = (config or {}).get("initial_value")
        self.value = random.randint(0, 100) if initial is None else int(initial)

    def step(self, action: dict[str, Any]) -> None:
        self.value += int(action["addend"])


def stop_on_sigterm(*_: Any) -> None:
    sys.exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--name", default="Adder")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds between two advances")
    arguments, _ = parser.parse_known_args()
    signal.signal(signal.SIGTERM, stop_on_sigterm)

    config = BonsaiClientConfig()  # Reads SIM_API_HOST, SIM_WORKSPACE and SIM_ACCESS_KEY.
    client = BonsaiClient(config)
    interface = SimulatorInterface(
        name=arguments.name,
        timeout=arguments.timeout,
        simulator_context=config.simulator_context,
        description=DESCRIPTION,
    )

    def register() -> SimulatorSessionResponse:
        session = client.session.create(workspace_name=config.workspace, body=interface)
        print(f"registered as {session.session_id}", flush=True)
        return session

    adder = Adder()
    session, sequence = register(), 1
    try:
        while True:
            state = SimulatorState(sequence_id=sequence, state={"value": adder.value}, halted=False)
            try:
                event = client.session.advance(
                    workspace_name=config.workspace, session_id=session.session_id, body=state
                )
            except HttpResponseError as error:
                print(f"advance failed, registering again: {error}", flush=True)
                session, sequence = register(), 1
                continue
            sequence = event.sequence_id
            if event.type == "Idle":
                time.sleep(event.idle.callback_time)
            elif event.type == "EpisodeStart":
                adder.start(event.episode_start.config)
            elif event.type == "EpisodeStep":
                adder.step(event.episode_step.action)
            elif event.type == "EpisodeFinish":
                print(f"episode finished: {event.episode_finish.reason}", flush=True)
            elif event.type == "Unregister":
                print(f"unregistered: {event.unregister.reason}", flush=True)
                if event.unregister.reason == "Finished":
                    session = None
                    return
                session, sequence = register(), 1
    finally:
        if session is not None:
            client.session.delete(workspace_name=config.workspace, session_id=session.session_id)
            print("unregistered", flush=True)


if __name__ == "__main__":
    main()
