"""``farsim policy`` as a Ray Serve application, for those who need replicas and autoscaling.

Ray Serve carries single questions over HTTP and gRPC; live sessions need the server of their own.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agent.policy.replica import PolicyReplica, add_unary
from agent.policy.runtime import Settings
from farsim.addresses import is_loopback
from farsim.errors import FarsimError, InvalidArgument
from farsim.serving import InsecureAddress

log = logging.getLogger(__name__)

#: Questions in hand at a time from which on a replica is helped by another. Ray Serve's own 2 is
#: for replicas that answer one after the other; these answer in batches.
ONGOING_REQUESTS = 64


class RayServeMissing(FarsimError, RuntimeError):
    """Ray is here, and what Ray Serve needs besides is not."""


def application(
    settings: Settings,
    greedy: bool = True,
    replicas: str = "1",
    max_batch: int = 256,
    max_wait_seconds: float = 0.002,
    ongoing_requests: int = ONGOING_REQUESTS,
) -> Any:
    """The application, for ``serve.run`` or a Serve config file.

    Args:
        settings: what to serve. Nothing in it may be a path on one machine alone.
        greedy: what a question that does not say gets.
        replicas: a number, or "min-max" for autoscaling between those.
        max_batch: observations in one forward pass.
        max_wait_seconds: how long one waits at most for others to join it.
        ongoing_requests: that a replica should have in hand at a time, for autoscaling.

    Raises:
        RayServeMissing: what Ray Serve needs is not installed.
        InvalidArgument: ``replicas`` is neither, or something that replicas cannot share is asked.
    """
    serve = _ray_serve()
    if settings.audit is not None:
        raise InvalidArgument("replicas cannot share an audit log: leave --audit out", "--audit")
    settings = replace(
        settings,
        checkpoint=settings.checkpoint.absolute(),
        shadow=settings.shadow.absolute() if settings.shadow is not None else None,
    )
    options: dict[str, Any] = {"ray_actor_options": {"num_gpus": int(settings.device == "cuda")}}
    low, dash, high = replicas.partition("-")
    if (
        not low.isdigit()
        or int(low) < 1
        or (dash and not (high.isdigit() and int(high) >= int(low)))
    ):
        raise InvalidArgument(f"'{replicas}' is neither a number nor min-max", "--replicas")
    if dash:
        options["autoscaling_config"] = {
            "min_replicas": int(low),
            "max_replicas": int(high),
            "target_ongoing_requests": ongoing_requests,
        }
    else:
        options["num_replicas"] = int(low)
    deployment = serve.deployment(name="farsim-policy", max_ongoing_requests=1024, **options)
    return deployment(PolicyReplica).bind(settings, greedy, max_batch, max_wait_seconds)


def run(
    app: Any,
    address: str,
    insecure: bool,
    ray_address: str,
    ready: Callable[[list[str]], None],
    grpc_port: int | None = None,
) -> None:
    """Runs an application until SIGTERM or Ctrl-C. Call it from the main thread.

    Args:
        app: what ``application`` returned.
        address: where the HTTP proxy listens, ``host:port``.
        insecure: whether that may be beyond this machine.
        ray_address: of a cluster, where the application is removed at the end; empty for a local
            Ray, which is stopped.
        ready: called with the addresses, HTTP's and gRPC's, once questions are answered.
        grpc_port: of the gRPC proxy, on every interface of the machine; None for no gRPC.

    Raises:
        InsecureAddress: it is beyond this machine, and may not be.
    """
    if not insecure and not is_loopback(address):
        raise InsecureAddress(
            f"{address} can be reached from other machines, and Ray Serve speaks plain text: put "
            "a proxy with TLS before it, or say --insecure if the network itself is protected",
            address,
        )
    if not insecure and grpc_port is not None:
        raise InsecureAddress(
            "Ray Serve's gRPC proxy listens on every interface of this machine, in plain text, "
            "and has no setting for that: close the port to others and say --insecure, or leave "
            "--grpc-port out",
            str(grpc_port),
        )
    host, _, port = address.rpartition(":")
    from agent.training.ray_runtime import ray_runtime

    serve = _ray_serve()
    stopped = threading.Event()
    addresses = [address]
    options: dict[str, Any] = {"http_options": {"host": host.strip("[]"), "port": int(port)}}
    if grpc_port is not None:
        addresses.append(f"{host}:{grpc_port}")
        functions = [f"{add_unary.__module__}:{add_unary.__name__}"]
        options["grpc_options"] = {"port": grpc_port, "grpc_servicer_functions": functions}
    with ray_runtime(ray_address, cpus=4):
        # After Ray's own, which would end the process on the spot.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        serve.start(**options)
        try:
            serve.run(app, name="farsim-policy", route_prefix="/")
            ready(addresses)
            # Event.wait without a time-out would not let signal handlers run on every platform.
            while not stopped.wait(1.0):
                pass
        finally:
            serve.delete("farsim-policy")
            if not ray_address:
                serve.shutdown()


def _ray_serve() -> Any:
    import ray

    try:
        from ray import serve

        return serve
    except ModuleNotFoundError as error:
        raise RayServeMissing(
            f"--ray-serve needs more of Ray than is installed ({error.name or error}): "
            f"pip install 'farsim[serve]', or 'ray[serve]=={ray.__version__}'"
        ) from error
