"""A complete simulator server from the contract alone: gRPC, the generated stubs and NumPy.

Everything that `farsim check` asks of a simulator with one agent, one autoreset mode and no
options, to be read before the same is written in another language. In Python use `farsim serve`.

    python examples/smallest_server.py 50051
    farsim check localhost:50051
    farsim train walk --sims localhost:50051
"""

import enum
import queue
import secrets
import sys
import threading
from collections import OrderedDict
from concurrent import futures

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from farsim.v1 import simulator_pb2 as sim
from farsim.v1 import space_pb2 as space
from farsim.v1 import tensor_pb2 as tensor

SERVICE = "farsim.v1.Simulator"
MAX_SESSIONS, MAX_ENVIRONMENTS, MAX_IN_FLIGHT, MAX_BYTES = 64, 4096, 4, 4 << 20
LEASE_SECONDS, LENGTH = 60.0, 50
DTYPES = {
    np.dtype("<f4"): tensor.DTYPE_FLOAT32,
    np.dtype("<f8"): tensor.DTYPE_FLOAT64,
    np.dtype("?"): tensor.DTYPE_BOOL,
}


class Refused(Exception):
    """A request that cannot be carried out: an error reply, and the session goes on."""

    def __init__(self, code, message, subject=""):
        self.error = sim.Error(code=code, message=message, subject=subject)


def refuse_if(wrong, code, message, subject=""):
    if wrong:
        raise Refused(code, message, subject)


def pack(array):
    return tensor.Tensor(dtype=DTYPES[array.dtype], shape=array.shape, data=array.tobytes())


def scalar(number):
    return pack(np.array(number, "<f4"))


GROUP = sim.Group(
    name="agents",
    agents=["agent"],
    observation_space=space.Space(
        box=space.Box(
            dtype=tensor.DTYPE_FLOAT32, shape=[2], low=scalar(-np.inf), high=scalar(np.inf)
        )
    ),
    action_space=space.Space(discrete=space.Discrete(n=2)),
)
LIMITS = sim.Limits(
    max_sessions=MAX_SESSIONS,
    max_environments=MAX_ENVIRONMENTS,
    max_message_bytes=MAX_BYTES,
    max_in_flight=MAX_IN_FLIGHT,
)
DESCRIPTION = sim.DescribeReply(
    protocol_version="1.0",
    server="smallest_server 1.0",
    limits=LIMITS,
    simulators=[
        sim.SimulatorDescription(
            name="walk",
            description="A slippery walk: stay near the middle.",
            groups=[GROUP],
            max_episode_steps=LENGTH,
            autoreset_modes=[sim.AUTORESET_MODE_NEXT_STEP],
        )
    ],
)


class Walks:
    """The simulator: all environments of a session in arrays."""

    def __init__(self, count):
        self.place = np.zeros(count, "<f4")
        self.speed = np.zeros(count, "<f4")
        self.steps = np.full(count, -1)  # -1: not reset yet
        self.over = np.zeros(count, bool)
        self.random = [np.random.default_rng() for _ in range(count)]

    def observation(self, envs):
        both = np.stack([self.place[envs], self.speed[envs]], axis=1)
        return tensor.Value(tensors=[pack(both)])

    def start(self, envs):
        self.place[envs] = [self.random[env].normal() for env in envs]
        self.speed[envs], self.steps[envs], self.over[envs] = 0, 0, False

    def step(self, envs, actions):
        started = envs[self.over[envs]]  # NEXT_STEP: their actions are ignored.
        moved = envs[~self.over[envs]]
        push = 2.0 * actions[~self.over[envs]] - 1 + [self.random[env].normal() for env in moved]
        self.speed[moved] = 0.9 * self.speed[moved] + 0.1 * push
        self.place[moved] += self.speed[moved]
        self.steps[moved] += 1
        if len(started):
            self.start(started)
        fell = np.abs(self.place[envs]) > 5
        late = ~fell & (self.steps[envs] >= LENGTH)
        reward = np.where(np.isin(envs, started), 0.0, 1 - np.abs(self.place[envs]) / 5.0)
        self.over[envs] = fell | late
        return started, reward.astype("<f8"), fell, late


class Session:
    def __init__(self, request):
        major = request.protocol_version.split(".")[0]
        refuse_if(
            major != "1",
            sim.ERROR_CODE_PROTOCOL_VERSION,
            f"this server speaks version 1.0, not {request.protocol_version!r}",
        )
        refuse_if(
            request.simulator not in ("", "walk"),
            sim.ERROR_CODE_UNKNOWN_SIMULATOR,
            f"there is only walk here, not {request.simulator!r}",
            request.simulator,
        )
        no_options(request.options)
        modes = (sim.AUTORESET_MODE_UNSPECIFIED, sim.AUTORESET_MODE_NEXT_STEP)
        refuse_if(
            request.autoreset_mode not in modes,
            sim.ERROR_CODE_UNSUPPORTED,
            "autoreset is NEXT_STEP",
            "autoreset_mode",
        )
        refuse_if(request.render_mode, sim.ERROR_CODE_UNSUPPORTED, "nothing renders", "render_mode")
        refuse_if(
            request.num_environments < 1,
            sim.ERROR_CODE_INVALID_ARGUMENT,
            "at least 1 environment",
            "num_environments",
        )
        taken = sum(len(session.walks.place) for session in SESSIONS.values())
        refuse_if(
            taken + request.num_environments > MAX_ENVIRONMENTS or len(SESSIONS) >= MAX_SESSIONS,
            sim.ERROR_CODE_LIMIT,
            f"this server holds {MAX_SESSIONS} sessions and {MAX_ENVIRONMENTS} environments",
        )
        self.walks = Walks(request.num_environments)
        self.token = secrets.token_urlsafe(16)
        self.lease = min(request.lease_seconds or LEASE_SECONDS, LEASE_SECONDS)
        self.heartbeat = request.heartbeat_seconds or 5.0
        self.last = 0
        self.answered = OrderedDict()  # sequence -> (request, reply), the last MAX_IN_FLIGHT
        self.lock = threading.Lock()  # Whoever carries a request out.
        self.stream = None  # The queue of the stream that carries the session.
        self.timer = None  # Runs while no stream does.

    def answer(self, request):
        """Carries a request out, once whatever happens to streams."""
        if request.sequence in self.answered:
            asked, reply = self.answered[request.sequence]
            if asked == request:
                return reply
        if request.sequence != self.last + 1:
            message = f"{self.last + 1} is next, not {request.sequence}"
            return error_reply(request, Refused(sim.ERROR_CODE_SEQUENCE, message).error)
        try:
            reply = self.carry_out(request)
        except Refused as refused:
            reply = error_reply(request, refused.error)
        reply.sequence = self.last = request.sequence
        self.answered[request.sequence] = (request, reply)
        while len(self.answered) > MAX_IN_FLIGHT:
            self.answered.popitem(last=False)
        return reply

    def carry_out(self, request):
        kind = request.WhichOneof("request")
        if kind == "open":
            refuse_if(self.last, sim.ERROR_CODE_PROTOCOL, "this session is open already")
            return sim.SimReply(
                opened=sim.Opened(
                    session_token=self.token,
                    groups=[GROUP],
                    options={},
                    autoreset_mode=sim.AUTORESET_MODE_NEXT_STEP,
                    lease_seconds=self.lease,
                    heartbeat_seconds=self.heartbeat,
                    max_in_flight=MAX_IN_FLIGHT,
                    max_episode_steps=LENGTH,
                )
            )
        if kind == "reset":
            return self.reset(request.reset)
        if kind == "step":
            return self.step(request.step)
        if kind == "close":
            return sim.SimReply(closed=sim.Closed())
        raise Refused(sim.ERROR_CODE_UNSUPPORTED, f"{kind or 'an unknown request'} is not offered")

    def reset(self, request):
        envs = self.named(request)
        no_options(request.options)
        refuse_if(
            len(request.seeds) not in (0, len(envs)),
            sim.ERROR_CODE_INVALID_ARGUMENT,
            f"{len(request.seeds)} seeds for {len(envs)} environments",
            "seeds",
        )
        for env, seed in zip(envs, request.seeds, strict=False):  # Or none.
            self.walks.random[env] = np.random.default_rng(seed % 2**64)
        self.walks.start(envs)
        return self.batch(request, envs, started=envs)

    def step(self, request):
        envs = self.named(request)
        refuse_if(
            (self.walks.steps[envs] < 0).any(), sim.ERROR_CODE_PROTOCOL, "reset comes before step"
        )
        actions = self.actions(request, envs)
        started, reward, terminated, truncated = self.walks.step(envs, actions)
        return self.batch(
            request,
            envs,
            started,
            reward=pack(reward),
            terminated=pack(terminated),
            truncated=pack(truncated),
        )

    def batch(self, request, envs, started, **ends):
        group = sim.GroupBatch(observation=self.walks.observation(envs), **ends)
        batch = sim.Batch()
        if request.HasField("environments"):  # With one agent, row and environment are the same.
            batch.environments.CopyFrom(request.environments)
            group.rows.CopyFrom(request.environments)
        batch.groups.append(group)
        if len(started):
            batch.started.index.extend(started)
        return sim.SimReply(batch=batch)

    def named(self, request):
        count = len(self.walks.place)
        if not request.HasField("environments"):
            return np.arange(count)
        return rows(request.environments, count, "environments")

    def actions(self, request, envs):
        where = "groups[0].actions"
        refuse_if(
            len(request.groups) != 1,
            sim.ERROR_CODE_INVALID_ARGUMENT,
            "actions of 1 group are wanted",
            "groups",
        )
        group = request.groups[0]
        acting = envs
        if group.HasField("rows"):
            acting = rows(group.rows, len(self.walks.place), "groups[0].rows")
            refuse_if(
                not np.isin(acting, envs).all(),
                sim.ERROR_CODE_INVALID_ARGUMENT,
                "rows of environments that are not stepped",
                "groups[0].rows",
            )
        refuse_if(
            len(group.actions.tensors) != 1,
            sim.ERROR_CODE_INVALID_ACTION,
            "a Discrete space has 1 tensor",
            where,
        )
        sent = group.actions.tensors[0]
        refuse_if(
            sent.dtype != tensor.DTYPE_INT64 or list(sent.shape) != [len(acting)],
            sim.ERROR_CODE_INVALID_ACTION,
            f"int64 [{len(acting)}] is wanted",
            where,
        )
        refuse_if(
            len(sent.data) != 8 * len(acting),
            sim.ERROR_CODE_INVALID_TENSOR,
            f"{8 * len(acting)} bytes are wanted, not {len(sent.data)}",
            where,
        )
        actions = np.zeros(len(self.walks.place), np.int64)
        given = np.zeros(len(self.walks.place), bool)
        actions[acting], given[acting] = np.frombuffer(sent.data, "<i8"), True
        acts = envs[~self.walks.over[envs]]
        refuse_if(
            not given[acts].all() or not np.isin(actions[acts], (0, 1)).all(),
            sim.ERROR_CODE_INVALID_ACTION,
            "every environment whose episode goes on needs 0 or 1",
            where,
        )
        return actions[envs]


def rows(message, count, subject):
    index = np.array(message.index, np.int64)
    refuse_if(
        (np.diff(index) <= 0).any() or (index >= count).any(),
        sim.ERROR_CODE_INVALID_ARGUMENT,
        f"increasing numbers below {count} are wanted",
        subject,
    )
    return index


def no_options(options):
    for name in options.values:
        raise Refused(sim.ERROR_CODE_UNKNOWN_OPTION, f"walk has no option {name!r}", name)


def error_reply(request, error):
    return sim.SimReply(sequence=request.sequence, error=error)


class End(enum.Enum):
    """Why a stream has no further request."""

    BROKEN = enum.auto()
    GARBLED = enum.auto()
    TAKEN = enum.auto()


SESSIONS = {}
LOCK = threading.Lock()


def close(session):
    with LOCK:
        SESSIONS.pop(session.token, None)


def run(requests, context):
    """One stream of `Simulator.Run`."""
    arrived = queue.Queue()
    threading.Thread(target=read, args=(requests, arrived), daemon=True).start()
    session = None
    try:
        while not isinstance(request := arrived.get(), End):
            if session is None:
                session, reply = begin(request, arrived)
            else:
                with session.lock:
                    reply = session.answer(request)
            if reply.HasField("closed"):
                close(session)  # First: who has the reply may try to resume the session.
            yield reply
            if reply.HasField("closed"):
                return
        if request is End.TAKEN:
            context.abort(grpc.StatusCode.ABORTED, "another stream has resumed this session")
        if request is End.GARBLED:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "these bytes are no SimRequest")
    finally:
        if session and session.stream is arrived and session.token in SESSIONS:
            session.timer = threading.Timer(session.lease, close, [session])
            session.timer.daemon = True
            session.timer.start()


def begin(request, arrived):
    """What a stream without a session gets: a session or None, and the reply."""
    kind = request.WhichOneof("request")
    try:
        if kind == "resume":
            return resume(request.resume, arrived)
        refuse_if(kind != "open", sim.ERROR_CODE_PROTOCOL, "open or resume comes first")
        refuse_if(request.sequence != 1, sim.ERROR_CODE_SEQUENCE, "open has the number 1")
        with LOCK:
            session = Session(request.open)
            session.stream = arrived
            SESSIONS[session.token] = session
        return session, session.answer(request)
    except Refused as refused:
        return None, error_reply(request, refused.error)


def resume(request, arrived):
    with LOCK:
        session = SESSIONS.get(request.session_token)
        refuse_if(session is None, sim.ERROR_CODE_SESSION_LOST, "no such session; open one")
        session.stream.put(End.TAKEN)
        session.stream = arrived
        if session.timer:
            session.timer.cancel()
    with session.lock:  # The other stream may still be at a request.
        return session, sim.SimReply(resumed=sim.Resumed(last_sequence=session.last))


def read(requests, arrived):
    end = End.BROKEN
    try:
        for data in requests:
            arrived.put(sim.SimRequest.FromString(data))
    except DecodeError:
        end = End.GARBLED
    except grpc.RpcError:
        pass  # The client has gone; it may come back.
    arrived.put(end)


def main(port):
    server = grpc.server(
        futures.ThreadPoolExecutor(2 * MAX_SESSIONS + 4),  # A stream keeps a thread.
        options=[
            ("grpc.max_receive_message_length", MAX_BYTES),
            ("grpc.max_send_message_length", MAX_BYTES),
            ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ],
    )
    handlers = {
        "Describe": grpc.unary_unary_rpc_method_handler(
            lambda request, context: DESCRIPTION,
            response_serializer=sim.DescribeReply.SerializeToString,
        ),
        "Run": grpc.stream_stream_rpc_method_handler(
            run,  # Takes bytes: what is no request would end the stream with INTERNAL.
            response_serializer=sim.SimReply.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"serving walk on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else 0)
