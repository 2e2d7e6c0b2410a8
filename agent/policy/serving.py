"""Running ``farsim policy``: gRPC, HTTP and metrics in one process."""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path

import torch

from agent.live.metrics import Metrics, PrometheusMetrics
from agent.live.policies import Policies
from agent.live.server import PolicyServer, PolicyServerOptions
from agent.policy.http_endpoint import HttpEndpoint
from agent.policy.json_questions import JsonQuestions
from agent.policy.runtime import PolicyRuntime, Settings
from agent.training.ray_runtime import quiet
from farsim.serving import metrics_at, run

#: Beyond as many weights a forward pass gains from several threads.
_MANY_WEIGHTS = 1_000_000


def serve(
    settings: Settings,
    address: str,
    options: PolicyServerOptions,
    http_port: int | None = None,
    metrics_port: int = 0,
    port_file: Path | None = None,
    parent: int = 0,
) -> None:
    """Serves a checkpoint until SIGTERM or SIGINT, then drains. Call it from the main thread.

    Args:
        settings: what to serve.
        address: of gRPC, ``host:port``.
        options: how to listen, for gRPC and HTTP.
        http_port: of the HTTP endpoint; None for none, 0 for a free one.
        metrics_port: for Prometheus; 0 for none.
        port_file: where to write the addresses, one a line, once clients can connect.
        parent: also stop when this process is no longer the parent; 0 for not.

    Raises:
        FarsimError: the checkpoint cannot be served, or an address not listened on.
    """
    quiet()
    runtime = PolicyRuntime(settings)
    _share_processors(runtime)
    metrics = PrometheusMetrics() if metrics_port else Metrics()
    sinks = () if runtime.sink is None else (runtime.sink,)
    server = PolicyServer(runtime.inference, address, options, sinks, metrics)
    host, _, _ = address.rpartition(":")
    endpoint: HttpEndpoint | None = None
    try:
        if http_port is not None:
            questions = JsonQuestions(
                Policies(runtime.inference), server.batcher, options.greedy, sinks, metrics
            )
            endpoint = HttpEndpoint(f"{host}:{http_port}", options, questions)

        def ready(bound: str) -> None:
            runtime.start()
            addresses = [bound]
            if endpoint is not None:
                endpoint.start()
                addresses.append(endpoint.address)
            _announce(runtime, addresses)
            if port_file is not None:
                write_ports(port_file, addresses)

        def expose_metrics() -> None:
            if isinstance(metrics, PrometheusMetrics):
                from prometheus_client import start_http_server

                runtime.add_metrics(metrics.registry)
                start = functools.partial(start_http_server, registry=metrics.registry)
                metrics_at(f"{host}:{metrics_port}", start)

        run(_WithEndpoint(server, endpoint), expose_metrics, ready, parent)
    finally:
        if endpoint is not None:
            endpoint.stop()
        server.close()
        runtime.close()


class _WithEndpoint:
    """A gRPC server that takes no more HTTP once it drains."""

    def __init__(self, server: PolicyServer, endpoint: HttpEndpoint | None) -> None:
        self._server = server
        self._endpoint = endpoint
        self._stopped = threading.Event()
        self.address = server.address

    def start(self) -> None:
        self._server.start()

    def run_until_stopped(self) -> None:
        # Event.wait without a time-out would not let signal handlers run on every platform.
        while not self._stopped.wait(1.0):
            pass
        if self._endpoint is not None:
            self._endpoint.stop()
        self._server.close()

    def stop(self, *_: object) -> None:
        self._stopped.set()


def _share_processors(runtime: PolicyRuntime) -> None:
    """Small networks are faster on one thread, and leave the others to the wire."""
    networks = runtime.inference.current.networks.values()
    weights = sum(part.numel() for network in networks for part in network.parameters())
    if weights < _MANY_WEIGHTS:
        torch.set_num_threads(1)


def _announce(runtime: PolicyRuntime, addresses: list[str]) -> None:
    current = runtime.inference.current
    names = [
        f"{name} ({', '.join(network.recipe.agents)})" if network.recipe.agents else name
        for name, network in current.networks.items()
    ]
    what = f"{', '.join(names)} of {current.origin}, version {current.number}"
    print(f"farsim: serving {what} on {addresses[0]}", flush=True)
    for name, network in current.networks.items():
        if network.recipe.pipeline is not None:
            print(f"farsim: {name} goes {network.recipe.pipeline.note}", flush=True)
    for address in addresses[1:]:
        print(f"farsim: and over HTTP on {address}", flush=True)


def write_ports(path: Path, addresses: list[str]) -> None:
    """Writes addresses to a file, one a line."""
    # Renamed into place, so that whoever waits for the file never sees half of it.
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(f"{line}\n" for line in addresses))
    os.replace(partial, path)
