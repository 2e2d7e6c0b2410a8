"""``farsim policy`` as a Ray Serve application, for those who need replicas and autoscaling.

Ray Serve carries single questions over HTTP; live sessions need the server of their own.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agent.live.batching import Batcher
from agent.live.metrics import Metrics
from agent.live.policies import Policies
from agent.policy.json_questions import JsonQuestions, deliver_here, unwrapped
from agent.policy.runtime import PolicyRuntime, Settings
from farsim.addresses import is_loopback
from farsim.errors import FarsimError, InvalidArgument
from farsim.serving import InsecureAddress

log = logging.getLogger(__name__)


class RayServeMissing(FarsimError, RuntimeError):
    """Ray is here, and what Ray Serve needs besides is not."""


class PolicyReplica:
    """One process that answers questions: the class that Ray Serve deploys.

    Args:
        settings: what to serve; each replica watches for itself.
        greedy: what a question that does not say gets.
        max_batch: observations in one forward pass.
        max_wait_seconds: how long one waits at most for others to join it.
    """

    def __init__(
        self, settings: Settings, greedy: bool, max_batch: int, max_wait_seconds: float
    ) -> None:
        self._runtime = PolicyRuntime(settings)
        self._runtime.start()
        self._batcher = Batcher(
            self._runtime.inference,
            deliver_here,
            max_batch,
            max_wait_seconds,
            Metrics(),
        )
        self._questions = JsonQuestions(Policies(self._runtime.inference), self._batcher, greedy)

    async def __call__(self, request: Any) -> Any:
        """What ``http_endpoint`` says, to the same requests."""
        from starlette.responses import JSONResponse

        from agent.policy.http_endpoint import failure

        try:
            if request.method == "GET":
                return JSONResponse(self._questions.describe())
            return JSONResponse(await self._act(request))
        except FarsimError as error:
            status, document = failure(error)
            return JSONResponse(document, status_code=int(status))

    async def _act(self, request: Any) -> Any:
        try:
            document = await request.json()
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"the body is no JSON: {error}") from error
        alone = not request.url.path.endswith("/act")
        question = self._questions.read(unwrapped(document) if alone else document)
        answer = await asyncio.wrap_future(self._questions.ask(question))
        reply = self._questions.write(question, answer)
        return reply["action"] if alone else reply


def application(
    settings: Settings,
    greedy: bool = True,
    replicas: str = "1",
    max_batch: int = 256,
    max_wait_seconds: float = 0.002,
) -> Any:
    """The application, for ``serve.run`` or a Serve config file.

    Args:
        settings: what to serve. Nothing in it may be a path on one machine alone.
        greedy: what a question that does not say gets.
        replicas: a number, or "min-max" for autoscaling between those.
        max_batch: observations in one forward pass.
        max_wait_seconds: how long one waits at most for others to join it.

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
        options["autoscaling_config"] = {"min_replicas": int(low), "max_replicas": int(high)}
    else:
        options["num_replicas"] = int(low)
    deployment = serve.deployment(name="farsim-policy", max_ongoing_requests=1024, **options)
    return deployment(PolicyReplica).bind(settings, greedy, max_batch, max_wait_seconds)


def run(
    app: Any, address: str, insecure: bool, ray_address: str, ready: Callable[[str], None]
) -> None:
    """Runs an application until SIGTERM or Ctrl-C. Call it from the main thread.

    Args:
        app: what ``application`` returned.
        address: where the HTTP proxy listens, ``host:port``.
        insecure: whether that may be beyond this machine.
        ray_address: of a cluster, where the application is removed at the end; empty for a local
            Ray, which is stopped.
        ready: called with the address once questions are answered.

    Raises:
        InsecureAddress: it is beyond this machine, and may not be.
    """
    if not insecure and not is_loopback(address):
        raise InsecureAddress(
            f"{address} can be reached from other machines, and Ray Serve speaks plain text: put "
            "a proxy with TLS before it, or say --insecure if the network itself is protected",
            address,
        )
    host, _, port = address.rpartition(":")
    from agent.training.ray_runtime import ray_runtime

    serve = _ray_serve()
    stopped = threading.Event()
    with ray_runtime(ray_address, cpus=4):
        # After Ray's own, which would end the process on the spot.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        serve.start(http_options={"host": host.strip("[]"), "port": int(port)})
        try:
            serve.run(app, name="farsim-policy", route_prefix="/")
            ready(address)
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
            f"pip install 'ray[serve]=={ray.__version__}'"
        ) from error
