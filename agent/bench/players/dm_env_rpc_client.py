"""dm_env_rpc with its own classes, against ``simserver.bench.dm_env_rpc_server``."""

from __future__ import annotations

import queue

import grpc
from dm_env_rpc.v1 import dm_env_rpc_pb2 as rpc
from dm_env_rpc.v1 import dm_env_rpc_pb2_grpc
from dm_env_rpc.v1.spec_manager import SpecManager

from agent.bench.players.request import Chooser, Count, Request, payload
from farsim.bench.turns import Lines, Stride, take_turns

_UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def main() -> None:
    """Plays; see ``farsim.bench.turns``."""
    lines = Lines()
    request = Request.of_command_line()
    channel = grpc.insecure_channel(request.addresses[0], _UNBOUNDED)
    requests: queue.SimpleQueue[rpc.EnvironmentRequest] = queue.SimpleQueue()
    replies = dm_env_rpc_pb2_grpc.EnvironmentStub(channel).Process(iter(requests.get, None))

    def ask(**payload: object) -> rpc.EnvironmentResponse:
        requests.put(rpc.EnvironmentRequest(**payload))
        return next(replies)

    name = ask(create_world=rpc.CreateWorldRequest()).create_world.world_name
    specs = ask(join_world=rpc.JoinWorldRequest(world_name=name)).join_world.specs
    actions, seen = SpecManager(specs.actions), SpecManager(specs.observations)
    (spec,) = specs.actions.values()
    (rows,) = spec.shape
    chooser = Chooser(int(spec.max.int64s.array[0]) + 1, rows)
    count = Count(request.envs, rows)
    wanted = list(specs.observations)
    size = 0

    def stride() -> Stride:
        nonlocal size
        step = rpc.StepRequest(
            actions=actions.pack({"action": chooser.choose()}), requested_observations=wanted
        )
        values = seen.unpack(ask(step=step).step.observations)
        if not size:
            size = payload(
                rows, *(values[name] for name in ("observation", "mask") if name in values)
            )
        return Stride(count.steps(values["terminated"], values["truncated"]), size)

    take_turns(lines, stride)


if __name__ == "__main__":
    main()
