"""Prepared comparisons, each of which answers one question."""

from __future__ import annotations

from dataclasses import dataclass

from agent.bench.case import Baseline, Case
from agent.bench.link import Link


@dataclass(frozen=True)
class Sweep:
    """Cases that belong together.

    Attributes:
        name: on the command line, and of the files.
        question: that they answer; the title.
        cases: in the order of the table.
        baseline: what rows are compared with.
        metric: by which: "steps" or "payload" a second.
        over: an attribute of ``Case`` for the plot's x axis; empty for bars.
    """

    name: str
    question: str
    cases: tuple[Case, ...]
    baseline: Baseline
    metric: str = "steps"
    over: str = ""


def _cases(peers: str, simulator: str, envs: int, **more: object) -> list[Case]:
    return [Case(peer, simulator, envs, **more) for peer in peers.split()]  # type: ignore[arg-type]


_BY_HAND = "grpc-stream grpc-stream-pipelined grpc-unary dm-env-rpc"

SWEEPS = {
    sweep.name: sweep
    for sweep in (
        Sweep(
            "overview",
            "what a step costs, with and without a wire and a policy",
            (
                *_cases("in-process remote remote-pipelined", "cartpole", 32),
                *_cases("grpc-stream dm-env-rpc openenv", "cartpole", 32),
                *_cases("runner rllib", "cartpole", 32),
            ),
            Baseline("peer", "grpc-stream"),
        ),
        Sweep(
            "runner",
            "sampling for PPO: Farsim's env runner over gRPC beside RLlib's in process",
            (
                *_cases("rllib runner runner-numpy runner-awake", "cartpole", 32),
                *_cases("rllib runner runner-numpy runner-awake", "cartpole-numpy", 128),
                *_cases("rllink", "cartpole", 1),
            ),
            Baseline("peer", "rllib"),
        ),
        Sweep(
            "vector-env",
            "stepping without a policy: Farsim beside other ways to step from another process",
            (
                *_cases(f"remote remote-awake remote-pipelined {_BY_HAND}", "cartpole", 32),
                *_cases("openenv openenv-batch grpc-cpp in-process", "cartpole", 32),
                *_cases(f"remote remote-awake remote-pipelined {_BY_HAND}", "cartpole-numpy", 128),
                *_cases("grpc-cpp in-process", "cartpole-numpy", 128),
            ),
            Baseline("peer", "grpc-stream"),
        ),
        Sweep(
            "link",
            "what distance costs: 1 ms for each environment's step, over longer links",
            tuple(
                Case(peer, "synthetic-1ms", envs, link=Link(round_trip))
                for envs, peers in (
                    (32, ("remote", "remote-pipelined", "grpc-stream")),
                    # A request of one environment each, which takes 1 ms.
                    (8, ("remote-pipelined-8",)),
                )
                for peer in peers
                for round_trip in (0.0, 1.0, 5.0, 20.0)
            ),
            Baseline("link", "none"),
            over="link",
        ),
        Sweep(
            "images",
            "observations of 84×84×4 bytes: MB/s beside what the transport moves one way",
            (
                *_cases("grpc-push remote remote-awake remote-pipelined grpc-stream", "image", 8),
                *_cases("grpc-push remote remote-awake remote-pipelined grpc-stream", "image", 32),
                *_cases("dm-env-rpc", "image", 32),
                *_cases("grpc-push remote-pipelined", "image", 32, link=Link(1.0, 1000.0)),
            ),
            Baseline("peer", "grpc-push"),
            metric="payload",
        ),
        Sweep(
            "scale",
            "a head and 1 to 64 servers, each with 8 environments of 1 ms a step",
            tuple(
                # The steps are spent asleep, so that two processes stand for any number.
                Case(peer, "synthetic-1ms", 8 * servers, servers, processes=min(servers, 2))
                for peer in ("remote", "remote-pipelined")
                for servers in (1, 2, 4, 8, 16, 32, 64)
            ),
            Baseline("servers", "1"),
            over="servers",
        ),
        Sweep(
            "multi-agent",
            "sampling with three agents and one policy: Farsim's runner beside RLlib's on mpe2",
            (*_cases("rllib runner remote in-process", "spread", 64),),
            Baseline("peer", "rllib"),
        ),
    )
}
