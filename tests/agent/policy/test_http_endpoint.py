"""Actions over HTTP, through the queue that gRPC's go through."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from agent.live.batching import Batcher
from agent.live.inference import Query
from agent.live.metrics import Metrics
from agent.live.policies import Policies
from agent.policy import loading
from agent.policy.http_endpoint import HttpEndpoint
from agent.policy.inference import CheckpointInference
from agent.policy.json_questions import JsonQuestions, deliver_here
from farsim.errors import InvalidAddress
from farsim.serving import InsecureAddress, ListenOptions

NUMBERS = [1.0, -2.0, 3.0]


class Served:
    """A checkpoint behind an endpoint."""

    def __init__(self, folder: Any, **options: Any) -> None:
        self.inference = CheckpointInference(loading.load(loading.find(folder), trust=True))
        self.batcher = Batcher(self.inference, deliver_here, 64, 0.001, Metrics())
        questions = JsonQuestions(Policies(self.inference), self.batcher, greedy=True)
        self.endpoint = HttpEndpoint("127.0.0.1:0", ListenOptions(**options), questions)
        self.endpoint.start()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.endpoint.address, timeout=30)
        try:
            data = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
            connection.request(method, path, data, headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def close(self) -> None:
        self.endpoint.stop()
        self.batcher.close()


@pytest.fixture(scope="module")
def served(trained) -> Iterator[dict[str, Served]]:
    found = {name: Served(trained / name) for name in ("normalised", "nested", "lstm", "masked")}
    yield found
    for one in found.values():
        one.close()


def expected(served: Served, observation: Any) -> Any:
    return served.inference.act("default_policy", [Query(observation, (), None, True, None)])[0]


def test_an_action_for_an_observation(served):
    one = served["normalised"]
    status, reply = one.ask("POST", "/act", {"observation": NUMBERS})
    assert status == 200
    answer = expected(one, np.array(NUMBERS, np.float32))
    np.testing.assert_allclose(reply.pop("action"), answer.action, atol=1e-6)
    assert reply == {"policy": "default_policy", "version": 1}


def test_the_action_alone_as_with_plato(served):
    status, reply = served["nested"].ask("POST", "/", {"state": {"gear": 2, "speed": [1.5, -3]}})
    assert status == 200
    seen = {"gear": np.int64(2), "speed": np.array([1.5, -3], np.float32)}
    assert reply == expected(served["nested"], seen).action


def test_the_state_of_a_recurrent_policy_comes_back(served):
    one = served["lstm"]
    question = {"observation": [0.1, 0.2, 0.3, 0.4]}
    _, first = one.ask("POST", "/act", question)
    _, second = one.ask("POST", "/act", {**question, "state": first["state"]})
    _, again = one.ask("POST", "/act", question)
    assert first["state"] == again["state"] != second["state"]
    status, reply = one.ask("POST", "/act", {**question, "state": "AAAA"})
    assert (status, reply["error"]["kind"]) == (400, "InvalidArgument")


@pytest.mark.parametrize("nested", [False, True])
def test_masks_forbid(served, nested):
    for allowed in range(5):
        mask: list[Any] = [int(number == allowed) for number in range(5)]
        question = {"observation": 2, "action_mask": [mask] if nested else mask, "greedy": False}
        assert served["masked"].ask("POST", "/act", question)[1]["action"] == allowed


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        (b"no json", 400, "no JSON"),
        ({}, 400, "observation"),
        ([1, 2], 400, "observation"),
        ({"observation": [1, 2]}, 400, "shape [3], and 2 numbers"),
        ({"observation": "hello"}, 400, "numbers are wanted"),
        ({"observation": [[1], [2, 3]]}, 400, "different lengths"),
        ({"observation": [1, 2, 1e9]}, 400, "row 0"),
        ({"observation": [1, 2, float("nan")]}, 400, "row 0"),
        ({"observation": NUMBERS, "obs": 1}, 400, "'obs' is none of"),
        ({"observation": NUMBERS, "policy": "other"}, 404, "no policy 'other'"),
        ({"observation": NUMBERS, "version": 7}, 404, "version 7"),
        ({"observation": NUMBERS, "greedy": 1}, 400, "'greedy' is a bool"),
        ({"observation": NUMBERS, "action_mask": [1, 0]}, 400, "mask"),
    ],
)
def test_what_is_wrong_is_told(served, body, status, complaint):
    found, reply = served["normalised"].ask("POST", "/act", body)
    assert found == status
    assert complaint in reply["error"]["message"]


def test_pages(served):
    one = served["normalised"]
    assert one.ask("GET", "/health") == (200, {"status": "serving"})
    _, described = one.ask("GET", "/")
    assert described["policies"][0]["name"] == "default_policy"
    assert described["policies"][0]["versions"] == ["1"]
    assert one.ask("GET", "/other")[0] == 404
    assert one.ask("POST", "/other", {})[0] == 404
    assert one.ask("POST", "/", {"observation": NUMBERS})[0] == 400


def test_a_connection_carries_many_questions(served):
    connection = http.client.HTTPConnection(served["normalised"].endpoint.address, timeout=30)
    for number in range(20):
        body = {"observation": NUMBERS if number % 3 else [1]}
        connection.request("POST", "/act", json.dumps(body))
        reply = connection.getresponse()
        assert reply.status == (200 if number % 3 else 400)
        reply.read()
    connection.close()


def test_only_those_with_the_token_get_actions(trained):
    served = Served(trained / "normalised", token="secret")
    try:
        question = {"observation": NUMBERS}
        assert served.ask("POST", "/act", question)[0] == 401
        assert served.ask("POST", "/act", question, Authorization="Bearer other")[0] == 401
        assert served.ask("GET", "/")[0] == 401
        assert served.ask("GET", "/health")[0] == 200
        assert served.ask("POST", "/act", question, Authorization="Bearer secret")[0] == 200
    finally:
        served.close()


def test_bodies_are_bounded(served):
    address = served["normalised"].endpoint.address
    with socket.create_connection(address.split(":"), timeout=30) as connection:
        connection.sendall(b"POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert b"413" in connection.recv(1000).split(b"\r\n")[0]


def test_plain_text_stays_on_this_machine(served):
    questions = served["normalised"].endpoint.questions
    with pytest.raises(InsecureAddress, match="can be reached from other machines"):
        HttpEndpoint("0.0.0.0:0", ListenOptions(), questions)
    with pytest.raises(InvalidAddress, match="choose another --http"):
        HttpEndpoint(served["normalised"].endpoint.address, ListenOptions(), questions)


def test_it_stops_with_clients_connected(trained):
    served = Served(trained / "normalised")
    with socket.create_connection(served.endpoint.address.split(":"), timeout=30) as connection:
        assert served.ask("GET", "/health")[0] == 200
        served.close()
        assert connection.recv(1) == b""
