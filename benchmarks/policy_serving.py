"""How fast policies are served: ``farsim policy`` beside what one would write first, and its limit.

    python benchmarks/policy_serving.py
    python benchmarks/policy_serving.py --clients 1 128 --seconds 2

Clients are concurrent and closed-loop: each sends its next observation when it has the action for
the last one. They all run in one process, on asyncio; each server runs in another. Beside

* ``farsim policy``: each client has a live session of its own, and an episode in it,

there are

* unary, one at a time: a synchronous gRPC server that infers for each call by itself,
* RLlib's example: ``ray.rllib.examples.ray_serve`` as it is, Ray Serve over HTTP,
* Ray Serve, HTTP: ``farsim policy --ray-serve``, one replica,
* echo: an asyncio gRPC server that sends the same bytes back on the stream, and infers nothing.

The policy is a multilayer perceptron of 64x64 on 8 numbers with 4 choices.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from gymnasium.spaces import Box, Discrete
from rich.console import Console
from rich.table import Table

from farsim import spaces
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import policy_pb2_grpc, tensor_pb2

OBSERVED = Box(-10.0, 10.0, (8,), np.float32)
CHOSEN = Discrete(4)
#: Streams share connections, as they would behind a proxy.
STREAMS_PER_CHANNEL = 32
WARM_UP_SECONDS = 1.0

#: Asks once; what a client does again and again.
Ask = Callable[[], Awaitable[None]]


def make_checkpoint(folder: Path) -> Path:
    """An untrained policy as Farsim's checkpoints hold it."""
    from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
    from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule

    from agent.policy import portable
    from agent.policy.recipe import ModuleRecipe, PolicyRecipe, Recipe
    from agent.training.ray_runtime import quiet

    quiet()
    config = {"fcnet_hiddens": [64, 64], "vf_share_layers": False}
    module = DefaultPPOTorchRLModule(
        observation_space=OBSERVED,
        action_space=CHOSEN,
        inference_only=True,
        model_config=config,
        catalog_class=PPOCatalog,
    )
    weights = module.get_state(inference_only=True)
    recipe = Recipe(
        {"policy": ModuleRecipe(type(module), PPOCatalog, OBSERVED, CHOSEN, config, weights)},
        [PolicyRecipe("policy", "policy", (), OBSERVED, CHOSEN, False, (), True, False)],
        iteration=1,
        steps=0,
        origin="benchmark",
    )
    portable.write(recipe, folder / "policy")
    # Nothing that would stop RLlib from making the module by its class and these again.
    module.save_to_path(str(folder / "module"))
    return folder / "policy"


# -- servers ----------------------------------------------------------------------------------


def serve_one_at_a_time(checkpoint: str, ports: str) -> None:
    """What one would write first: a call, a forward pass, a reply."""
    import torch

    from agent.policy import portable
    from agent.policy.network import Network, build_module
    from agent.training.ray_runtime import quiet

    quiet()
    torch.set_num_threads(1)
    recipe = portable.read(Path(checkpoint))
    network = Network(recipe.policies[0], build_module(recipe.modules["policy"]))

    class Plain(policy_pb2_grpc.PolicyServicer):
        def Act(self, request: pb.ActRequest, context: Any) -> pb.ActReply:
            seen = spaces.decode(OBSERVED, request.observation.tensors, 1)
            actions = network.act(seen, greedy=True).actions
            encoded = spaces.encode(CHOSEN, actions, 1)
            return pb.ActReply(action=tensor_pb2.Value(tensors=encoded), policy_version=1)

    server = grpc.server(futures.ThreadPoolExecutor(16))
    policy_pb2_grpc.add_PolicyServicer_to_server(Plain(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    announce(ports, f"127.0.0.1:{port}")
    server.wait_for_termination()


def serve_echo(ports: str) -> None:
    """The limit: streams that carry bytes there and back."""

    async def run() -> None:
        async def echo(requests: Any, context: Any) -> Any:
            async for request in requests:
                yield request

        server = grpc.aio.server()
        handlers = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        announce(ports, f"127.0.0.1:{port}")
        await server.wait_for_termination()

    asyncio.run(run())


def serve_rllibs_example(module: str, ports: str) -> None:
    """What RLlib ships for this: a deployment that infers for each request by itself."""
    from ray import serve
    from ray.rllib.examples.ray_serve.classes.cartpole_deployment import rl_module

    from agent.training.ray_runtime import ray_runtime

    port = free_port()
    with ray_runtime(cpus=4):
        stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        serve.run(rl_module({"rl_module_checkpoint": module, "port": port}), route_prefix="/")
        announce(ports, f"127.0.0.1:{port}")
        while not stopped.wait(1.0):
            pass
        serve.shutdown()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def announce(path: str, address: str) -> None:
    partial = Path(path + ".partial")
    partial.write_text(address)
    partial.replace(path)


@contextmanager
def running(command: list[str], ports: Path) -> Iterator[str]:
    """A server in a process of its own; its first address."""
    ports.unlink(missing_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not ports.exists():
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
            time.sleep(0.05)
        yield ports.read_text().split()[0]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- clients ----------------------------------------------------------------------------------


def observation() -> tensor_pb2.Value:
    row = OBSERVED.sample()
    return tensor_pb2.Value(tensors=spaces.encode(OBSERVED, row[None], 1))


async def live_client(channel: grpc.aio.Channel) -> Ask:
    stream = channel.stream_stream(
        "/farsim.v1.Policy/Live",
        request_serializer=pb.LiveEvent.SerializeToString,
        response_deserializer=pb.LiveReply.FromString,
    )()
    sequence = 0

    async def send(**event: Any) -> pb.LiveReply:
        nonlocal sequence
        sequence += 1
        await stream.write(pb.LiveEvent(sequence=sequence, **event))
        reply: pb.LiveReply = await stream.read()
        return reply

    await send(hello=pb.Hello(protocol_version="1.0"))
    await send(start=pb.EpisodeStart(episode=1))
    observe = pb.Observe(episode=1, agents=[pb.AgentObservation(observation=observation())])

    async def ask() -> None:
        reply = await send(observe=observe)
        if not reply.actions.agents:
            raise RuntimeError(str(reply))

    return ask


async def unary_client(channel: grpc.aio.Channel) -> Ask:
    act = channel.unary_unary(
        "/farsim.v1.Policy/Act",
        request_serializer=pb.ActRequest.SerializeToString,
        response_deserializer=pb.ActReply.FromString,
    )
    request = pb.ActRequest(observation=observation())

    async def ask() -> None:
        await act(request)

    return ask


async def echo_client(channel: grpc.aio.Channel) -> Ask:
    stream = channel.stream_stream("/echo/Echo")()
    observe = pb.Observe(episode=1, agents=[pb.AgentObservation(observation=observation())])
    message = pb.LiveEvent(sequence=1, observe=observe).SerializeToString()

    async def ask() -> None:
        await stream.write(message)
        await stream.read()

    return ask


async def http_client(address: str) -> Ask:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"observation": OBSERVED.sample().tolist()}).encode()
    head = f"POST /act HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body

    async def ask() -> None:
        writer.write(request)
        header = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in header.split(b"\r\n")[0]:
            raise RuntimeError(header.decode())
        lengths = [line for line in header.lower().split(b"\r\n") if b"content-length" in line]
        if lengths:
            await reader.readexactly(int(lengths[0].split(b":")[1]))
            return
        # In chunks, each after its length in hexadecimal; the last one is empty.
        length = 1
        while length:
            length = int(await reader.readline(), 16)
            await reader.readexactly(length + 2)

    return ask


async def measure(
    make: Callable[[Any], Awaitable[Ask]], address: str, clients: int, seconds: float, http: bool
) -> dict[str, float]:
    """Actions a second, and the median and 99th percentile of their latencies in ms."""
    channels = [
        grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(0 if http else -(-clients // STREAMS_PER_CHANNEL))
    ]
    try:
        asks = [
            await make(address if http else channels[i // STREAMS_PER_CHANNEL])
            for i in range(clients)
        ]
        begin = time.perf_counter() + WARM_UP_SECONDS
        end = begin + seconds
        latencies: list[float] = []

        async def client(ask: Ask) -> None:
            while (before := time.perf_counter()) < end:
                await ask()
                if before >= begin:
                    latencies.append(time.perf_counter() - before)

        await asyncio.gather(*map(client, asks))
        took = time.perf_counter() - begin
    finally:
        for channel in channels:
            await channel.close()
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return {"rate": len(latencies) / took, "p50": p50, "p99": p99}


# -- the comparison ---------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 128, 512])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--only", default="", help="those whose name has this in it")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        kind, checkpoint, ports = arguments.serve
        if kind == "echo":
            serve_echo(ports)
        elif kind == "example":
            serve_rllibs_example(checkpoint, ports)
        else:
            serve_one_at_a_time(checkpoint, ports)
        return
    console = Console()
    table = Table("server", "clients", "actions/s", "p50 ms", "p99 ms", title="Serving a policy")
    for column in table.columns[1:]:
        column.justify = "right"
    with tempfile.TemporaryDirectory(prefix="farsim-bench-") as temporary:
        folder = Path(temporary)
        checkpoint, ports = make_checkpoint(folder), folder / "ports"
        own = [sys.executable, __file__, "--serve"]
        farsim = [sys.executable, "-m", "farsim", "policy", str(checkpoint), "--device", "cpu"]
        address = ["--address", f"127.0.0.1:{free_port()}"]
        servers: list[tuple[str, list[str], Any, bool]] = [
            (
                "farsim policy",
                [*farsim, "--address", "127.0.0.1:0", "--port-file", str(ports)],
                live_client,
                False,
            ),
            (
                "unary, one at a time",
                [*own, "unary", str(checkpoint), str(ports)],
                unary_client,
                False,
            ),
            (
                "RLlib's example",
                [*own, "example", str(folder / "module"), str(ports)],
                http_client,
                True,
            ),
            (
                "Ray Serve, HTTP",
                [*farsim, "--ray-serve", *address, "--port-file", str(ports)],
                http_client,
                True,
            ),
            ("echo", [*own, "echo", "-", str(ports)], echo_client, False),
        ]
        chosen = [server for server in servers if arguments.only.lower() in server[0].lower()]
        for name, command, make, http in chosen:
            with console.status(f"{name} …"), running(command, ports) as address:
                for clients in arguments.clients:
                    found = asyncio.run(measure(make, address, clients, arguments.seconds, http))
                    table.add_row(
                        name,
                        str(clients),
                        f"{found['rate']:,.0f}",
                        f"{found['p50']:.2f}",
                        f"{found['p99']:.2f}",
                    )
            table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
