"""A policy server that keeps to the contract and no more, and writes down what it was told.

Run as a process: ``python -m tests.farsim.live.reference --port-file FILE --record FILE``. While
the file of ``--hold`` exists, no ``observe`` is answered.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from farsim import spaces
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import policy_pb2_grpc, simulator_pb2

CARTPOLE = (Box(-np.inf, np.inf, (4,), np.float32), Discrete(2))
#: Two agents with different spaces.
SEEKER = (Box(-10, 10, (3,), np.float32), Box(-1, 1, (2,), np.float32))
HIDER = (Dict({"place": Discrete(9), "hidden": Box(0, 1, (), np.float32)}), Discrete(4, start=1))
SETS = {
    "cartpole": {"default": (CARTPOLE, ())},
    # Whatever the first simulator says that it has.
    "any": {},
    "pair": {"seek": (SEEKER, ("seeker",)), "hide": (HIDER, ("hider",))},
}


def numbers(value: Any) -> Any:
    """A value as JSON can say it."""
    if isinstance(value, dict):
        return {name: numbers(member) for name, member in value.items()}
    return np.asarray(value).tolist()


def choose(action_space: Any, observation: Any, masks: list[np.ndarray]) -> Any:
    """What the policy does: a rule that a test can compute as well."""
    total = float(np.sum([np.sum(leaf) for leaf in leaves(observation)]))
    if np.isnan(total):
        raise ValueError("not a number")
    if isinstance(action_space, Discrete):
        allowed = np.flatnonzero(masks[0]) if masks else np.arange(action_space.n)
        return int(action_space.start + allowed[int(abs(total) * 1000) % len(allowed)])
    return np.full(action_space.shape, np.tanh(total), action_space.dtype)


def leaves(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else [value]


class Live:
    """One session."""

    def __init__(self, mode: int) -> None:
        self.token = secrets.token_hex(8)
        self.mode = mode
        self.last = 1
        self.replies: dict[int, tuple[bytes, bytes]] = {}
        self.outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.episodes: set[int] = set()
        self.lock = threading.Lock()


class Reference(policy_pb2_grpc.PolicyServicer):
    """The service; every field of a reply that a client may use is set."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sessions: dict[str, Live] = {}
        self.policies = SETS[options.spaces]
        self.record = options.record.open("a")
        self.draining = False

    def Describe(self, request: Any, context: Any) -> pb.DescribePoliciesReply:
        return pb.DescribePoliciesReply(
            protocol_version="1.0",
            server="reference",
            is_multi_agent=len(self.policies) > 1,
            policies=[
                pb.PolicyDescription(
                    name=name,
                    observation_space=spaces.to_proto(see),
                    action_space=spaces.to_proto(act),
                    agents=agents,
                    versions=[3],
                )
                for name, ((see, act), agents) in self.policies.items()
            ],
        )

    def live(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        first = pb.LiveEvent.FromString(next(requests))
        if self.draining:
            yield error(first.sequence, simulator_pb2.ERROR_CODE_DRAINING, "draining")
            return
        if first.HasField("hello"):
            session = Live(first.hello.mode)
            if not self.policies:
                self.policies = {group.name: own_spaces(group) for group in first.hello.groups}
            wrong = self.mismatch(first.hello)
            if wrong:
                yield error(1, simulator_pb2.ERROR_CODE_SPACE_MISMATCH, wrong)
                return
            self.sessions[session.token] = session
            self.note({"session": session.token, "event": "hello"})
            welcome = pb.Welcome(
                session_token=session.token,
                mode=first.hello.mode,
                lease_seconds=60,
                idle_seconds=self.options.idle_seconds,
                max_in_flight=self.options.max_in_flight,
                max_episodes=self.options.max_episodes,
                policy_version=3,
            )
            yield pb.LiveReply(sequence=1, welcome=welcome).SerializeToString()
        else:
            found = self.sessions.get(first.resume.session_token)
            if found is None:
                yield error(0, simulator_pb2.ERROR_CODE_SESSION_LOST, "no such session")
                return
            session = found
            session.outbox.put(None)
            session.outbox = queue.SimpleQueue()
            resumed = simulator_pb2.Resumed(last_sequence=session.last)
            yield pb.LiveReply(resumed=resumed).SerializeToString()
        outbox = session.outbox
        threading.Thread(target=self.listen, args=(session, requests, outbox), daemon=True).start()
        context.add_callback(lambda: outbox.put(None))
        while (message := outbox.get()) is not None:
            yield message

    def listen(self, session: Live, requests: Iterator[bytes], outbox: Any) -> None:
        try:
            for raw in requests:
                event = pb.LiveEvent.FromString(raw)
                with session.lock:
                    if event.sequence in session.replies:
                        assert session.replies[event.sequence][0] == raw, "not the same bytes"
                    else:
                        assert event.sequence == session.last + 1, "a gap"
                        session.last = event.sequence
                        reply = self.carry_out(session, event)
                        reply.sequence = event.sequence
                        session.replies[event.sequence] = (raw, reply.SerializeToString())
                    outbox.put(session.replies[event.sequence][1])
                if event.HasField("goodbye"):
                    outbox.put(None)
        except grpc.RpcError:
            pass

    def carry_out(self, session: Live, event: pb.LiveEvent) -> pb.LiveReply:
        kind = event.WhichOneof("event")
        content = getattr(event, kind)
        if kind == "start":
            bound = self.options.max_episodes
            if bound and len(session.episodes) >= bound:
                return refuse(simulator_pb2.ERROR_CODE_LIMIT, f"at most {bound} episodes")
            session.episodes.add(content.episode)
        elif kind in ("observe", "end") and content.episode not in session.episodes:
            return refuse(simulator_pb2.ERROR_CODE_PROTOCOL, f"no episode {content.episode}")
        if kind == "observe":
            while self.options.hold is not None and self.options.hold.exists():
                time.sleep(0.005)
        told: dict[str, Any] = {"session": session.token, "event": kind}
        if kind in ("start", "observe", "end"):
            told["episode"] = content.episode
        reply = pb.LiveReply()
        if kind == "observe":
            told["agents"] = []
            reply.actions.episode = content.episode
            for one in content.agents:
                try:
                    told["agents"].append(self.tell(one, reply))
                except ValueError as wrong:
                    code = simulator_pb2.ERROR_CODE_INVALID_OBSERVATION
                    return refuse(code, str(wrong))
        elif kind == "end":
            session.episodes.discard(content.episode)
            told["agents"] = [self.tell(one, reply) for one in content.agents]
            told["aborted"] = content.aborted
            reply.done.SetInParent()
        elif kind == "goodbye":
            reply.farewell.SetInParent()
        else:
            reply.done.SetInParent()
        self.note(told)
        return reply

    def note(self, told: dict[str, Any]) -> None:
        self.record.write(json.dumps(told) + "\n")
        self.record.flush()

    def tell(self, one: pb.AgentObservation, reply: pb.LiveReply) -> dict[str, Any]:
        name = next(
            n for n, (_, agents) in self.policies.items() if one.agent in (agents or "agent")
        )
        (see, act), _ = self.policies[name]
        told: dict[str, Any] = {"agent": one.agent, "observation": [], "action": None}
        told |= {"reward": one.reward, "terminated": one.terminated, "truncated": one.truncated}
        for field in ("logged_action", "action_taken"):
            told[field] = numbers(single(act, getattr(one, field))) if one.HasField(field) else None
        if one.HasField("observation"):
            observation = single(see, one.observation)
            choose(act, observation, [])
            told["observation"] = [numbers(observation)]
            if not (one.terminated or one.truncated or one.HasField("logged_action")):
                masks = [np.frombuffer(mask.data, np.bool_) for mask in one.action_masks]
                action = choose(act, observation, masks)
                told["action"] = numbers(action)
                answer = reply.actions.agents.add(agent=one.agent, policy=name, policy_version=3)
                batch = spaces.batch(act, [action])
                answer.action.tensors.extend(spaces.encode(act, batch, 1))
        return told

    def mismatch(self, hello: pb.Hello) -> str:
        for group in hello.groups:
            for agent in group.agents:
                for (see, _), agents in self.policies.values():
                    if agent in (agents or ("agent",)):
                        there = spaces.from_proto(group.observation_space)
                        found = spaces.differences(see, there)
                        if found:
                            return "; ".join(found)
        return ""

    def drain(self) -> None:
        self.draining = True
        notice = simulator_pb2.Draining(grace_seconds=5)
        for session in self.sessions.values():
            session.outbox.put(pb.LiveReply(draining=notice).SerializeToString())
            session.outbox.put(None)


def own_spaces(group: Any) -> Any:
    see, act = group.observation_space, group.action_space
    return (spaces.from_proto(see), spaces.from_proto(act)), tuple(group.agents)


def single(space: Any, value: Any) -> Any:
    (one,) = spaces.unbatch(space, spaces.decode(space, value.tensors, 1), 1)
    return one


def refuse(code: int, message: str) -> pb.LiveReply:
    return pb.LiveReply(error=simulator_pb2.Error(code=code, message=message))


def error(sequence: int, code: int, message: str) -> bytes:
    reply = refuse(code, message)
    reply.sequence = sequence
    return reply.SerializeToString()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--spaces", default="cartpole", choices=SETS)
    parser.add_argument("--hold", type=Path)
    parser.add_argument("--max-in-flight", type=int, default=16)
    parser.add_argument("--max-episodes", type=int, default=0)
    parser.add_argument("--idle-seconds", type=float, default=60)
    options = parser.parse_args()
    reference = Reference(options)
    server = grpc.server(futures.ThreadPoolExecutor(32))
    handlers = {
        "Describe": grpc.unary_unary_rpc_method_handler(
            reference.Describe,
            pb.DescribePoliciesRequest.FromString,
            pb.DescribePoliciesReply.SerializeToString,
        ),
        "Live": grpc.stream_stream_rpc_method_handler(reference.live),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("farsim.v1.Policy", handlers),)
    )
    port = server.add_insecure_port(f"127.0.0.1:{options.port}")
    server.start()
    partial = options.port_file.with_suffix(".partial")
    partial.write_text(str(port))
    os.replace(partial, options.port_file)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    reference.drain()
    server.stop(1).wait()


if __name__ == "__main__":
    main()
