"""How fast simulators of the Bonsai API are stepped, beside a cache that is polled.

    python benchmarks/bonsai_gateway.py
    python benchmarks/bonsai_gateway.py --simulators 1 8 --seconds 5

The simulators are ``examples/bonsai_adder.py``, processes of their own with the real client. They
are stepped with random actions, all at once, by

* ``farsim gateway bonsai`` and Farsim's own client: the simulator's question waits at the gateway
  until its action is there;
* a polled cache, as Plato imitates the API: one simulator session, in the process of the learner;
  its question is put into a dictionary, where either side looks every 10 ms for what the other
  has left. There is one session, so eight simulators have eight such servers.

A simulator alone, without any network, is the model's own speed; here that is next to nothing, so
what is measured is the way there and back.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
EPISODE_STEPS = 10
WARM_UP_SECONDS = 1.0
POLL_SECONDS = 0.01


@contextmanager
def process(*command: str, **environment: str) -> Iterator[None]:
    started = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait(20)


def simulator(http: str) -> Any:
    where = {"SIM_API_HOST": f"http://{http}", "SIM_WORKSPACE": "any", "SIM_ACCESS_KEY": "any"}
    return process("examples/bonsai_adder.py", **where)


def farsim_gateway(count: int, seconds: float) -> float:
    """Steps a second of ``count`` simulators through the gateway."""
    from agent.remote_vector_env import RemoteVectorEnv
    from farsim.errors import FarsimError

    with ExitStack() as stack:
        ports = Path(stack.enter_context(tempfile.TemporaryDirectory()), "ports")
        command = ["-m", "farsim", "gateway", "bonsai", "--reward", "-abs(state.value - 50)"]
        command += ["--episode-steps", str(EPISODE_STEPS), "--port-file", str(ports)]
        command += ["--address", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        stack.enter_context(process(*command, "--exit-with-parent", str(os.getpid())))
        while not ports.exists():
            time.sleep(0.05)
        address, http = ports.read_text().split()
        for _ in range(count):
            stack.enter_context(simulator(http))
        env = None
        while env is None:
            try:  # Unknown until the first simulator has registered.
                env = RemoteVectorEnv(address, "Adder", num_envs=count)
            except FarsimError:
                time.sleep(0.2)
        env.reset(seed=1)
        begun, done = time.perf_counter() + WARM_UP_SECONDS, 0
        while (now := time.perf_counter()) < begun + seconds:
            env.step(env.action_space.sample())
            done += count if now >= begun else 0
        env.close()
        return done / (time.perf_counter() - begun)


class PolledCache:
    """One simulator session on one port: what it says and what it is to do lie in a dictionary."""

    def __init__(self) -> None:
        cache: dict[str, Any] = {"state": None, "event": None, "sequence": 1}
        self.cache = cache

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.path.endswith("/advance"):
                    now = "2000-01-01T00:00:00.000Z"
                    times = dict.fromkeys(("registrationTime", "lastSeenTime"), now)
                    self.reply(201, {"sessionId": "1", "lastIteratedTime": now, **times})
                    return
                cache["state"] = document["state"]
                while cache["event"] is None:
                    time.sleep(POLL_SECONDS)
                event, cache["event"] = cache["event"], None
                cache["sequence"] += 1
                self.reply(200, {"sessionId": "1", "sequenceId": cache["sequence"], **event})

            def do_DELETE(self) -> None:
                self.send_response(204)
                self.end_headers()
                self.wfile.flush()

            def reply(self, status: int, document: Any) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.http = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def tell(self, event: dict[str, Any]) -> None:
        self.cache["state"] = None
        self.cache["event"] = event

    def state(self) -> dict[str, Any]:
        while self.cache["state"] is None:
            time.sleep(POLL_SECONDS)
        return dict(self.cache["state"])


def polled_cache(count: int, seconds: float) -> float:
    """Steps a second of ``count`` simulators, each with such a server."""
    with ExitStack() as stack:
        servers = [PolledCache() for _ in range(count)]
        for server in servers:
            stack.callback(server.server.shutdown)
            stack.enter_context(simulator(server.http))

        def everywhere(kind: str, member: str, *contents: dict[str, Any]) -> None:
            for server, content in zip(servers, contents, strict=True):
                server.state()
                server.tell({"type": kind, member: content})

        def start() -> None:
            configs = [{"config": {"initial_value": random.randint(0, 100)}} for _ in servers]
            everywhere("EpisodeStart", "episodeStart", *configs)

        start()
        begun, done, step = time.perf_counter() + WARM_UP_SECONDS, 0, 0
        while (now := time.perf_counter()) < begun + seconds:
            actions = [{"action": {"addend": random.randint(-10, 10)}} for _ in servers]
            everywhere("EpisodeStep", "episodeStep", *actions)
            done += count if now >= begun else 0
            step += 1
            if step % EPISODE_STEPS == 0:
                everywhere("EpisodeFinish", "episodeFinish", *[{"reason": "Terminal"}] * count)
                start()
        elapsed = time.perf_counter() - begun
        everywhere("Unregister", "unregister", *[{"reason": "Finished"}] * count)
        return done / elapsed


WAYS = {"farsim gateway bonsai": farsim_gateway, "polled cache, 10 ms": polled_cache}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--simulators", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
    arguments = parser.parse_args()
    table = Table("simulators", *(f"{way}, steps/s" for way in WAYS), "ratio")
    for count in arguments.simulators:
        rates = [measure(count, arguments.seconds) for measure in WAYS.values()]
        table.add_row(str(count), *(f"{rate:,.0f}" for rate in rates), f"{rates[0] / rates[1]:.1f}")
    Console().print(table)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
