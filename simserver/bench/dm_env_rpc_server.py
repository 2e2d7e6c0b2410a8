"""A batch of environments as one world of dm_env_rpc, with that project's own classes.

The protocol has no batches: one world takes an array of actions, and shows arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from farsim.bench.turns import Lines, serve_until_left
from simserver.bench.request import Request

_UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class BatchWorld:
    """One world that runs for ever; its environments begin their next episodes by themselves."""

    def __init__(self, request: Request) -> None:
        # Here, as the package comes with an extra of its own.
        from dm_env_rpc.v1 import dm_env_rpc_pb2 as rpc
        from dm_env_rpc.v1 import tensor_utils
        from dm_env_rpc.v1.spec_manager import SpecManager

        self._rpc: Any = rpc
        (self._batch,) = request.batches()
        self._batch.reset(0)
        arrays = self._batch.step(np.zeros(self._batch.rows, np.int64))
        names = ("reward", "terminated", "truncated", "observation", "mask")
        shown = dict(zip(names, arrays, strict=False))
        action = {
            1: rpc.TensorSpec(
                name="action",
                dtype=rpc.INT64,
                shape=[self._batch.rows],
                min=rpc.TensorSpec.Value(int64s=rpc.Tensor.Int64Array(array=[0])),
                max=rpc.TensorSpec.Value(
                    int64s=rpc.Tensor.Int64Array(array=[self._batch.actions - 1])
                ),
            )
        }
        seen = {
            uid: rpc.TensorSpec(
                name=name,
                shape=array.shape,
                dtype=tensor_utils.np_type_to_data_type(array.dtype.type),
            )
            for uid, (name, array) in enumerate(shown.items(), start=1)
        }
        self._names = tuple(shown)
        self._specs = rpc.ActionObservationSpecs(actions=action, observations=seen)
        self._actions, self._observations = SpecManager(action), SpecManager(seen)

    def Process(self, requests: Any, context: Any) -> Iterator[Any]:
        """The only method of the protocol."""
        rpc = self._rpc
        for envelope in requests:
            field = envelope.WhichOneof("payload")
            if field == "step":
                yield rpc.EnvironmentResponse(step=self._step(envelope.step))
            elif field == "create_world":
                created = rpc.CreateWorldResponse(world_name="batch")
                yield rpc.EnvironmentResponse(create_world=created)
            elif field == "join_world":
                joined = rpc.JoinWorldResponse(specs=self._specs)
                yield rpc.EnvironmentResponse(join_world=joined)
            elif field == "leave_world":
                yield rpc.EnvironmentResponse(leave_world=rpc.LeaveWorldResponse())
            else:
                yield rpc.EnvironmentResponse(destroy_world=rpc.DestroyWorldResponse())

    def _step(self, request: Any) -> Any:
        arrays = self._batch.step(self._actions.unpack(request.actions)["action"])
        packed = self._observations.pack(dict(zip(self._names, arrays, strict=True)))
        wanted = {uid: packed[uid] for uid in request.requested_observations}
        return self._rpc.StepResponse(state=self._rpc.RUNNING, observations=wanted)


def main() -> None:
    """Serves until standard input ends."""
    lines = Lines()
    from dm_env_rpc.v1 import dm_env_rpc_pb2_grpc

    server = grpc.server(ThreadPoolExecutor(4), options=_UNBOUNDED)
    world = BatchWorld(Request.of_command_line())
    dm_env_rpc_pb2_grpc.add_EnvironmentServicer_to_server(world, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    serve_until_left(lines, f"127.0.0.1:{port}")
    server.stop(None)


if __name__ == "__main__":
    main()
