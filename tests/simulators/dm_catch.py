"""A server of dm_env_rpc, with its own classes: a ball falls, and a paddle is to be below it.

python -m tests.simulators.dm_catch FILE    # Listens on a free port, which it writes to FILE.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from dm_env_rpc.v1 import dm_env_rpc_pb2 as rpc
from dm_env_rpc.v1 import dm_env_rpc_pb2_grpc, tensor_utils
from dm_env_rpc.v1.spec_manager import SpecManager
from google.rpc import status_pb2

from farsim.serving import stop_with_parent

ROWS, COLUMNS = 5, 3


def _whole(name: str, low: int, high: int) -> rpc.TensorSpec:
    return rpc.TensorSpec(
        name=name,
        dtype=rpc.INT8,
        min=rpc.TensorSpec.Value(int8s=rpc.Tensor.Int8Array(array=np.int8(low).tobytes())),
        max=rpc.TensorSpec.Value(int8s=rpc.Tensor.Int8Array(array=np.int8(high).tobytes())),
    )


ACTIONS = {
    1: _whole("paddle", -1, 1),
}
OBSERVATIONS = {
    1: rpc.TensorSpec(name="board", shape=[ROWS, COLUMNS], dtype=rpc.FLOAT),
    2: rpc.TensorSpec(name="reward", dtype=rpc.DOUBLE),
    3: rpc.TensorSpec(name="discount", dtype=rpc.FLOAT),
    4: _whole("column", 0, COLUMNS - 1),
    5: rpc.TensorSpec(name="wind", dtype=rpc.BOOL),
    6: rpc.TensorSpec(name="comment", dtype=rpc.STRING),
    7: rpc.TensorSpec(name="track", shape=[-1], dtype=rpc.INT32),
}


class Catch:
    """One world. ``limit`` steps at most; with a limit of 0 until the ball is down."""

    def __init__(self, seed: int, limit: int) -> None:
        self.random = np.random.default_rng(seed)
        self.limit = limit
        self.state = rpc.INTERRUPTED

    def start(self) -> None:
        self.ball, self.row, self.paddle = int(self.random.integers(COLUMNS)), 0, COLUMNS // 2
        self.state = rpc.RUNNING

    def move(self, paddle: int) -> None:
        if paddle not in (-1, 0, 1):
            raise ValueError(f"the paddle does not move by {paddle}")
        self.paddle = min(max(self.paddle + paddle, 0), COLUMNS - 1)
        self.row += 1
        if self.row == ROWS - 1 or self.row == self.limit:
            self.state = rpc.TERMINATED

    def look(self) -> dict[str, Any]:
        board = np.zeros((ROWS, COLUMNS), np.float32)
        board[self.row, self.ball] = board[ROWS - 1, self.paddle] = 1
        down = self.row == ROWS - 1
        return {
            "board": board,
            "reward": (1.0 if self.paddle == self.ball else -1.0) if down else 0.0,
            "discount": 0.0 if down else 1.0,
            "column": self.paddle,
            "wind": False,
            "comment": "down" if down else "falling",
            "track": np.arange(self.row),
        }


class CatchServicer(dm_env_rpc_pb2_grpc.EnvironmentServicer):
    def __init__(self) -> None:
        self._worlds: dict[str, Catch] = {}
        self._numbers = itertools.count()

    def Process(self, requests: Any, context: Any) -> Iterator[rpc.EnvironmentResponse]:
        joined = ""
        actions, observations = SpecManager(ACTIONS), SpecManager(OBSERVATIONS)
        specs = rpc.ActionObservationSpecs(actions=ACTIONS, observations=OBSERVATIONS)
        for envelope in requests:
            field = envelope.WhichOneof("payload")
            request = getattr(envelope, field)
            response: Any
            try:
                if field == "create_world":
                    given = {k: tensor_utils.unpack_tensor(v) for k, v in request.settings.items()}
                    name = f"catch-{next(self._numbers)}"
                    self._worlds[name] = Catch(given.pop("seed", 0), given.pop("limit", 0))
                    if given:
                        raise ValueError(f"no setting {', '.join(given)}")
                    response = rpc.CreateWorldResponse(world_name=name)
                elif field == "join_world":
                    joined = self._worlds[request.world_name] and request.world_name
                    response = rpc.JoinWorldResponse(specs=specs)
                elif field == "reset_world":
                    world = self._worlds[request.world_name]
                    seed = tensor_utils.unpack_tensor(request.settings["seed"])
                    world.random = np.random.default_rng(seed)
                    world.state = rpc.INTERRUPTED
                    response = rpc.ResetWorldResponse()
                elif field == "leave_world":
                    joined = ""
                    response = rpc.LeaveWorldResponse()
                elif field == "destroy_world":
                    del self._worlds[request.world_name]
                    response = rpc.DestroyWorldResponse()
                elif field == "reset":
                    self._worlds[joined].state = rpc.INTERRUPTED
                    response = rpc.ResetResponse(specs=specs)
                else:
                    world = self._worlds[joined]
                    if world.state == rpc.RUNNING:
                        world.move(int(actions.unpack(request.actions)["paddle"]))
                    else:
                        world.start()
                    seen = observations.pack(world.look())
                    wanted = {uid: seen[uid] for uid in request.requested_observations}
                    response = rpc.StepResponse(state=world.state, observations=wanted)
                yield rpc.EnvironmentResponse(**{field: response})
            except Exception as error:
                yield rpc.EnvironmentResponse(error=status_pb2.Status(code=3, message=repr(error)))


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(64))
    dm_env_rpc_pb2_grpc.add_EnvironmentServicer_to_server(CatchServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stop_with_parent(os.getppid(), lambda: server.stop(0))
    with open(sys.argv[1] + ".partial", "w") as file:
        file.write(f"127.0.0.1:{port}\n")
    os.replace(sys.argv[1] + ".partial", sys.argv[1])
    server.wait_for_termination()


if __name__ == "__main__":
    main()
