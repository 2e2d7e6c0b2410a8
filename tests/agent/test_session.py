"""A session with a real server, over good and bad connections."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode

from agent.batch import Batch
from agent.description import Group
from agent.session import Each, Session, describe
from farsim.channel import ConnectionOptions
from farsim.errors import (
    DeadlineExceeded,
    EpisodeOver,
    FarsimError,
    InvalidAction,
    InvalidArgument,
    InvalidOption,
    MessageTooLarge,
    ProtocolError,
    SessionLost,
    UnknownOption,
    UnknownSimulator,
    Unsupported,
)
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2
from tests.agent.threads import lasting_threads
from tests.proxy import Proxy
from tests.servers import ROOT, Serving, serving

SLOW = "tests.simulators.envs:Slow"
MASKED = "tests.simulators.envs:Masked"
TEAMS = "tests.simulators.teams:Teams"


def seconds(*values: float) -> list[np.ndarray]:
    return [np.array(values, np.float64)]


def counts(batch: Batch) -> list[int]:
    return batch.groups[0].observation[:, 0].tolist()


@pytest.fixture(scope="module")
def proxy(shared_server: Serving) -> Iterator[Proxy]:
    with Proxy(shared_server.address) as proxy:
        yield proxy


def test_describe(shared_server: Serving) -> None:
    offered = {simulator.name: simulator for simulator in describe(shared_server.address)}
    assert set(offered) == {"adder", "gymnasium/CartPole-v1", SLOW, MASKED}
    adder = offered["adder"]
    assert adder.can_save_state
    assert adder.max_episode_steps == 10
    assert set(adder.autoreset_modes) == set(AutoresetMode)
    assert adder.parameters["initial_value"].per_episode
    assert adder.parameters["initial_value"].default.tolist() == [0, 100]
    assert offered["gymnasium/CartPole-v1"].render_modes == ("rgb_array",)


def test_an_episode(shared_server: Serving) -> None:
    with Session.open(
        shared_server.address, "adder", 2, {"initial_value": [50, 60]}, AutoresetMode.DISABLED
    ) as session:
        assert session.options["initial_value"].tolist() == [50, 60]
        assert session.description.name == "adder"
        begun = session.reset(seeds=[1, 2], options={"initial_value": Each([[7, 7], [8, 8]])})
        assert begun.started.tolist() == [0, 1]
        assert begun.groups[0].observation["value"].tolist() == [7, 8]
        assert begun.episode_options["initial_value"].tolist() == [[7, 7], [8, 8]]
        for step in range(1, 11):
            batch = session.step([{"addend": np.array([1, -1])}])
            (group,) = batch.groups
            assert group.observation["value"].tolist() == [7 + step, 8 - step]
            assert group.reward.tolist() == [-43.0 + step, -42.0 - step]
            assert group.truncated.all() == (step == 10)
        with pytest.raises(EpisodeOver):
            session.step([{"addend": np.array([1, -1])}])
        batch = session.reset([1], options={"initial_value": [9, 9]})
        assert batch.environments.tolist() == [1]
        assert batch.groups[0].rows.tolist() == [1]
        state = session.save_state([1])
        later = session.step([{"addend": np.array([5])}], [1])
        session.load_state(state, [1])
        again = session.step([{"addend": np.array([5])}], [1])
        assert later.groups[0].observation == again.groups[0].observation == {"value": [14]}


def test_masks_infos_and_render(shared_server: Serving) -> None:
    with Session.open(shared_server.address, MASKED, 2) as session:
        batch = session.reset(options={"target": Each([1, 3])})
        (mask,) = batch.groups[0].action_masks
        assert mask.tolist() == [[i == 1 for i in range(5)], [i == 3 for i in range(5)]]
        assert batch.groups[0].infos["nested/target"].values.tolist() == [1, 3]
        assert batch.groups[0].infos["name"].values == ["t1", "t3"]
    with Session.open(shared_server.address, SLOW, 2, render_mode="rgb_array") as session:
        session.reset()
        session.step(seconds(0), [1])
        frames = session.render()
        assert [frame.shape for frame in frames] == [(4, 6, 3)] * 2
        assert [frame.max() for frame in frames] == [0, 1]


def test_rows_of_agents_that_take_turns() -> None:
    """Two environments; in the first step three reds act, and one blue in the second."""
    none = np.zeros(0, np.int64)
    with serving(TEAMS) as server, Session.open(server.address, "", 2, {"turns": 1}) as session:
        reds, blues = session.reset(seeds=[5, 6]).groups
        assert reds.rows.tolist() == reds.acting.tolist() == [0, 1, 3, 4]
        assert (blues.rows.tolist(), blues.acting.tolist()) == ([0, 2], [])
        said = np.array([1, 2, 3, 4])
        wrong = [
            ([said, none], [np.array([0, 1, 3, 6]), none]),
            ([said, none], [np.array([0, 1, 4, 3]), none]),
            ([said[:1], none], [np.array([0.5]), none]),
        ]
        for actions, rows in wrong:
            with pytest.raises(InvalidArgument, match="rows of group 'reds' are increasing"):
                session.send_step(actions, rows=rows)
        with pytest.raises(InvalidArgument, match="rows of group 'reds' are increasing"):
            session.send_step([said, none], [1], rows=[reds.rows, none])
        with pytest.raises(InvalidAction, match="'reds'"):
            session.send_step([said[:3], none], rows=[reds.rows, none])
        with pytest.raises(InvalidAction, match=r"rows for 1 of 2"):
            session.send_step([said, none], rows=[reds.rows])
        with pytest.raises(InvalidAction, match="no action for 'red_1' of environment 1"):
            session.step([said[:3], none], rows=[reds.rows[:3], none])
        reds, blues = session.step([said, none], rows=[reds.rows, none]).groups
        assert reds.rows.tolist() == [0, 1, 2, 3, 4, 5]
        assert reds.reward.tolist() == [1, 2, 0, 3, 4, 0]
        assert reds.acting.tolist() == []
        assert blues.acting.tolist() == [0, 2]
        # Rows of those that are not to act may be there, and do nothing.
        batch = session.step([np.array([7]), said[:2]], rows=[np.array([2]), np.array([0, 2])])
        assert batch.groups[0].reward.tolist() == [0] * 6
        assert batch.groups[1].reward.tolist() == [1, 0, 2, 0]
        assert batch.groups[0].terminated.tolist() == [False, True, False] * 2
        assert batch.groups[0].acting.tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize("field", ["rows", "acting", "final_rows"])
@pytest.mark.parametrize("rows", [[1, 0], [0, 2]])
def test_rows_that_nobody_asked_for_are_refused(field: str, rows: list[int]) -> None:
    space = Discrete(5)
    group = Group("pair", ("a", "b"), space, space, False)
    message = pb.GroupBatch(rows=tensor_pb2.Rows(index=[0, 1]))
    getattr(message, field).CopyFrom(tensor_pb2.Rows(index=rows))
    with pytest.raises(ProtocolError, match=f"{re.escape(str(rows))} are not increasing"):
        Batch.from_proto(pb.Batch(groups=[message]), np.array([0]), [group], {})


def test_several_requests_in_flight(shared_server: Serving) -> None:
    with Session.open(shared_server.address, SLOW, 2) as session:
        first = session.send_reset()
        later = [session.send_step(seconds(0, 0)) for _ in range(5)]
        assert counts(session.receive(later[4])) == [5, 5]
        assert [counts(session.receive(p)) for p in later] == [[n, n] for n in range(1, 6)]
        assert counts(session.receive(first)) == [0, 0]
        # More than the server allows at one time: sending then waits for the first reply.
        many = 2 * session.max_in_flight + 3
        pending = [session.send_step(seconds(0, 0)) for _ in range(many)]
        assert [counts(session.receive(p)) for p in pending] == [
            [5 + n] * 2 for n in range(1, many + 1)
        ]


def test_bad_requests_leave_the_session_alone(shared_server: Serving) -> None:
    address = shared_server.address
    small = ConnectionOptions(max_message_bytes=20_000)
    with Session.open(address, SLOW, 2, connection=small) as session:
        with pytest.raises(ProtocolError):
            session.step(seconds(0, 0))
        session.reset()
        wrong = [
            (InvalidAction, lambda: session.step(seconds(0, 0, 0))),
            (InvalidAction, lambda: session.step([])),
            (InvalidAction, lambda: session.step(seconds(0, 61))),
            (InvalidAction, lambda: session.step([np.array(["a", "b"])])),
            (InvalidArgument, lambda: session.step(seconds(0), [2])),
            (InvalidArgument, lambda: session.step(seconds(0, 0), [1, 0])),
            (InvalidArgument, lambda: session.reset([0], seeds=[1, 2])),
            (InvalidArgument, lambda: session.reset([])),
            (UnknownOption, lambda: session.reset(options={"limits": 3})),
            (InvalidOption, lambda: session.reset(options={"limit": 3})),
            (Unsupported, session.render),
            (Unsupported, session.save_state),
            (MessageTooLarge, lambda: session.load_state([bytes(30_000), b""])),
        ]
        for number, (error, request) in enumerate(wrong):
            with pytest.raises(error) as caught:
                request()
            assert type(caught.value) is error, number
        assert counts(session.step(seconds(0, 0))) == [1, 1]
    with pytest.raises(UnknownSimulator, match="did you mean 'adder'"):
        Session.open(address, "addr")
    with pytest.raises(UnknownOption, match="did you mean 'initial_value'"):
        Session.open(address, "adder", options={"initial_valu": [1, 2]})
    with pytest.raises(InvalidOption, match="takes a member of"):
        Session.open(address, "adder", options={"initial_value": [1, 200]})
    with pytest.raises(InvalidArgument, match="at least one environment"):
        Session.open(address, "adder", 0)
    with pytest.raises(Unsupported, match="no render mode"):
        Session.open(address, "adder", render_mode="human")


def test_broken_streams_are_resumed_and_nothing_is_done_twice(proxy: Proxy) -> None:
    with Session.open(proxy.address, SLOW, 1) as session:
        session.reset()
        count = 0
        before = proxy.cuts
        for number in range(12):
            pending = [session.send_step(seconds(0.0)) for _ in range(4)]
            if number % 3 == 0:
                proxy.cut()  # With requests and replies anywhere on their way.
            if number % 3 == 1:
                session.receive(pending[1])
                proxy.cut()
            for one in pending:
                count += 1
                assert counts(session.receive(one)) == [count]
            if number % 3 == 2:
                proxy.cut()  # With nothing on its way.
        assert proxy.cuts - before >= 9  # A stream that is down already can not be cut.


def test_a_stream_that_breaks_in_a_long_step(proxy: Proxy) -> None:
    with Session.open(proxy.address, SLOW, 1) as session:
        session.reset()
        pending = session.send_step(seconds(0.5))
        for _ in range(4):
            time.sleep(0.05)
            proxy.cut()
        assert counts(session.receive(pending)) == [1]
        assert counts(session.step(seconds(0.0))) == [2]


def test_silence_counts_as_a_break(proxy: Proxy) -> None:
    options = ConnectionOptions(heartbeat_seconds=0.1, connect_seconds=0.2)
    with Session.open(proxy.address, SLOW, 1, connection=options) as session:
        session.reset()
        connections = proxy.connections
        proxy.stall()
        released = threading.Timer(1.0, proxy.flow)
        released.start()
        assert counts(session.step(seconds(0.0))) == [1]
        released.join()
        assert proxy.connections > connections
        assert counts(session.step(seconds(0.0))) == [2]


def test_a_slow_connection_is_no_broken_one(proxy: Proxy) -> None:
    proxy.delay(0.05)
    try:
        with Session.open(proxy.address, SLOW, 1) as session:
            session.reset()
            connections = proxy.connections
            assert [counts(session.step(seconds(0.0))) for _ in range(5)] == [
                [n] for n in range(1, 6)
            ]
            assert proxy.connections == connections
    finally:
        proxy.delay(0.0)


def test_a_session_that_cannot_be_resumed_is_lost() -> None:
    with serving(SLOW) as server:
        address = server.address
        session = Session.open(address, SLOW, 1, connection={"resume_seconds": 0.5})
        session.reset()
        server.kill()
        with pytest.raises(SessionLost, match=r"not be resumed within 0.5 s.*cannot be reached"):
            session.step(seconds(0.0))
        with pytest.raises(SessionLost):
            session.step(seconds(0.0))
        assert isinstance(session.failure, SessionLost)
        session.close()


def test_a_server_that_was_started_anew_knows_no_old_sessions() -> None:
    with serving(SLOW) as server:
        session = Session.open(server.address, SLOW, 1)
        session.reset()
        server.kill()
        with serving(SLOW, address=server.address):
            begun = time.monotonic()
            with pytest.raises(SessionLost, match="no session has this token"):
                session.step(seconds(0.0))
            # It did not have to wait for resume_seconds to find out.
            assert time.monotonic() - begun < session._stream.options.resume_seconds
        session.close()


def test_a_draining_server_answers_what_it_has() -> None:
    with serving(SLOW) as server:
        session = Session.open(server.address, SLOW, 1)
        session.reset()
        pending = session.send_step(seconds(0.5))
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert counts(session.receive(pending)) == [1]
        with pytest.raises(FarsimError) as caught:
            session.step(seconds(0.0))
        assert isinstance(caught.value, ConnectionError)
        assert session.failure is not None
        session.close()
        assert server.process.wait(20) == 0


def test_a_deadline_says_that_the_simulator_is_at_work(shared_server: Serving) -> None:
    options = ConnectionOptions(heartbeat_seconds=0.1)
    with Session.open(shared_server.address, SLOW, 1, connection=options) as session:
        session.reset()
        with pytest.raises(DeadlineExceeded) as caught:
            session.step(seconds(3.0), seconds=0.5)
        message = str(caught.value)
        assert "step (request 3)" in message
        assert "within 0.5 s" in message
        assert "still working on it" in message
        assert "raise request_seconds" in message
        with pytest.raises(DeadlineExceeded):
            session.reset()


def test_a_deadline_says_that_nothing_was_heard(proxy: Proxy) -> None:
    options = ConnectionOptions(heartbeat_seconds=5)
    with Session.open(proxy.address, SLOW, 1, connection=options) as session:
        session.reset()
        proxy.stall()
        try:
            with pytest.raises(DeadlineExceeded, match=r"nothing was heard from the server for"):
                session.step(seconds(0.0), seconds=0.5)
        finally:
            proxy.flow()


def test_a_reply_that_waits_is_not_too_late(shared_server: Serving) -> None:
    with Session.open(shared_server.address, SLOW, 1) as session:
        session.reset()
        pending = session.send_step(seconds(0.0), seconds=0.3)
        time.sleep(0.5)
        assert counts(session.receive(pending)) == [1]


def test_closing_frees_the_environments_and_every_thread(shared_server: Serving) -> None:
    before = set(threading.enumerate())
    with serving(SLOW, "--max-environments", "3") as server:
        for how in ("close", "forget", "exception"):
            session = Session.open(server.address, SLOW, 3)
            session.reset()
            if how == "close":
                session.close()
                session.close()
                with pytest.raises(ProtocolError, match="closed"):
                    session.reset()
            elif how == "forget":
                del session
                gc.collect()
            else:
                with pytest.raises(ZeroDivisionError), session:
                    1 / 0  # noqa: B018
            # The server is full as long as the last one holds its environments.
            assert not lasting_threads(before), how
        Session.open(server.address, SLOW, 3).close()


def test_closing_while_a_step_hangs_does_not_wait_for_it(shared_server: Serving) -> None:
    before = set(threading.enumerate())
    session = Session.open(shared_server.address, SLOW, 1)
    session.reset()
    session.send_step(seconds(4.0))
    session.close()
    assert not lasting_threads(before)


def test_an_open_session_does_not_keep_the_interpreter(shared_server: Serving) -> None:
    program = (
        "import sys, agent.session\n"
        "session = agent.session.Session.open(sys.argv[1], 'adder')\n"
        "session.reset()\n"
        "pending = session.send_step([{'addend': [1]}])\n"
        "assert not {'ray', 'torch', 'simserver'} & set(sys.modules)\n"
        "print('done')\n"
    )
    command = [sys.executable, "-c", program, shared_server.address]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_a_session_does_not_pickle(shared_server: Serving) -> None:
    with Session.open(shared_server.address, "adder") as session:
        for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="can not be pickled or copied"):
                duplicate(session)


def test_a_child_process_opens_its_own(shared_server: Serving) -> None:
    """After a fork, as Ray and multiprocessing may do, before any session was open."""
    program = (
        "import os, sys, agent.session\n"
        "options = agent.session.ConnectionOptions()\n"
        "child = os.fork()\n"
        "session = agent.session.Session.open(sys.argv[1], 'adder', connection=options)\n"
        "session.reset()\n"
        "session.close()\n"
        "if child:\n"
        "    print('child', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    command = [sys.executable, "-c", program, shared_server.address]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "child 0\n", "")


def test_errors_of_a_session_pickle(shared_server: Serving) -> None:
    with pytest.raises(FarsimError) as caught:
        Session.open(shared_server.address, "nobody")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.subject) == (
        type(caught.value),
        str(caught.value),
        caught.value.subject,
    )
