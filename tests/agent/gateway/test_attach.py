"""Simulator servers that dial in, and clients that find them at the gateway."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from agent.remote_vector_env import RemoteVectorEnv
from agent.session import Session, describe
from farsim.errors import LimitExceeded, SessionLost, UnknownSimulator
from tests.agent.test_env_runner import INTEGRITY
from tests.gateways import dialling, gateway
from tests.proxy import Proxy
from tests.servers import ROOT

CONNECTION = {"request_seconds": 20.0, "resume_seconds": 20.0, "heartbeat_seconds": 0.2}


def step(session: Session) -> np.ndarray:
    """The observations after a step; the simulator says which step it is in column 3."""
    batch = session.step([np.ones(session.num_envs, np.int64)])
    return batch.groups[0].observation


def test_an_attached_server_passes_the_check() -> None:
    with gateway() as head, dialling(head.listens_at, "adder", "--seats", "5"):
        head.wait_for_seats(5)
        command = [sys.executable, "-m", "farsim", "check", head.address]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stdout + result.stderr


def test_what_is_on_offer_is_that_of_all_together() -> None:
    with (
        gateway() as head,
        dialling(head.listens_at, "adder", "--seats", "2", "--max-environments", "10") as adder,
        dialling(head.listens_at, "adder", INTEGRITY, "--workers", "2", "--seats", "1"),
    ):
        head.wait_for_seats(4)
        reply = head.describe()
        assert {one.name for one in reply.simulators} == {"adder", INTEGRITY}
        assert reply.limits.max_environments == 10 + 2 * 4096
        with pytest.raises(UnknownSimulator, match="did you mean 'adder'"):
            Session.open(head.address, "addr")
        with pytest.raises(UnknownSimulator, match="name the simulator"):
            Session.open(head.address)
        sessions = [Session.open(head.address, "adder") for _ in range(4)]
        for session in sessions:
            session.close()
        # Ctrl-C.
        adder.process.send_signal(signal.SIGINT)
        assert adder.process.wait(20) == 0
        head.wait_for_seats(2)


def test_seats_are_respected() -> None:
    with (
        gateway("--seat-seconds", "0.5") as head,
        dialling(head.listens_at, INTEGRITY, "--seats", "1") as server,
    ):
        head.wait_for_seats(1)
        with Session.open(head.address, num_envs=3) as session:
            session.reset()
            with pytest.raises(LimitExceeded) as refused:
                Session.open(head.address)
            assert "1 on 1 servers" in str(refused.value)
            assert f"(3 x {INTEGRITY})" in str(refused.value)
            step(session)
        # The seat is free again for the next.
        with Session.open(head.address) as session:
            session.reset()
        assert server.log.read_text().count("a seat was taken: 1 of 1") == 2


def test_a_session_waits_for_a_seat_that_becomes_free() -> None:
    with gateway() as head, dialling(head.listens_at, INTEGRITY, "--seats", "1"):
        first = Session.open(head.address)
        opened: list[Session] = []
        waiting = threading.Thread(target=lambda: opened.append(Session.open(head.address)))
        waiting.start()
        first.reset()
        assert not opened
        first.close()
        waiting.join(20)
        opened[0].close()


def test_nobody_has_dialled_in() -> None:
    with gateway("--seat-seconds", "0.2") as head:
        assert not head.describe().simulators
        with pytest.raises(LimitExceeded, match="no simulator server has dialled in"):
            Session.open(head.address, "adder")


def test_a_session_goes_on_when_streams_break_on_either_side() -> None:
    with (
        gateway() as head,
        Proxy(head.listens_at) as there,
        Proxy(head.address) as here,
        dialling(there.address, INTEGRITY) as server,
        Session.open(here.address, num_envs=2, connection=CONNECTION) as session,
    ):
        first = session.reset().groups[0].observation
        for number, proxy in enumerate([there, here, there, here], 1):
            assert proxy.cut()
            observation = step(session)
            np.testing.assert_array_equal(observation[:, :3], first[:, :3])
            np.testing.assert_array_equal(observation[:, 3], number)
        server.wait_for("dialling again")


def test_a_gateway_that_is_started_anew_has_its_sessions_again() -> None:
    with (
        gateway() as head,
        dialling(head.listens_at, INTEGRITY, "--seats", "1"),
        Session.open(head.address, connection=CONNECTION) as session,
    ):
        first = session.reset().groups[0].observation
        step(session)
        head.kill()
        with gateway(listen=head.listens_at, address=head.address):
            observation = step(session)
            np.testing.assert_array_equal(observation[:, :3], first[:, :3])
            assert observation[0, 3] == 2
            session.close()


def test_a_session_of_a_server_that_has_gone_is_lost() -> None:
    with gateway("--away-seconds", "0.5") as head:
        with dialling(head.listens_at, INTEGRITY) as server:
            session = Session.open(head.address, connection=CONNECTION)
            session.reset()
            server.kill()
            with pytest.raises(SessionLost, match="the simulator server of this session has gone"):
                step(session)
        with pytest.raises(SessionLost):
            step(session)


def test_a_server_that_drains_tells_its_clients() -> None:
    with gateway() as head, dialling(head.listens_at, INTEGRITY) as server:
        session = Session.open(head.address, connection=CONNECTION)
        session.reset()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        with pytest.raises(SessionLost, match="has stopped"):
            step(session)


def test_tls_and_a_token_at_the_dialling_side(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "farsim", "certs", "--out", str(tmp_path), "--token"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    token, wrong = tmp_path / "token", tmp_path / "wrong"
    wrong.write_text("sesame")
    own = ["--tls-cert", tmp_path / "server.pem", "--tls-key", tmp_path / "server-key.pem"]
    guarded = [*own, "--tls-client-ca", tmp_path / "ca.pem", "--token-file", token]
    shown = ["--tls-cert", tmp_path / "client.pem", "--tls-key", tmp_path / "client-key.pem"]
    trusting = ["adder", "--tls-ca", str(tmp_path / "ca.pem"), *map(str, shown)]
    with gateway(*map(str, guarded)) as head:
        port = head.listens_at.rpartition(":")[2]
        with dialling(f"localhost:{port}", *trusting, "--token-file", str(wrong)) as server:
            server.wait_for("does not accept the token")
        with dialling(f"localhost:{port}", "adder") as server:
            server.wait_for("If that server uses TLS, set 'tls_ca'")
        with dialling(f"localhost:{port}", *trusting, "--token-file", str(token)):
            assert [one.name for one in describe(head.address)] == ["adder"]
            with Session.open(head.address) as session:
                session.reset()


def test_beyond_this_machine_it_wants_tls() -> None:
    command = [sys.executable, "-m", "farsim", "gateway", "attach", "--listen", "0.0.0.0:0"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "without TLS" in result.stderr


def test_environments_move_to_a_server_that_comes_later() -> None:
    """Each environment's rows say on which server, in which episode and at which step it is."""
    actions = np.ones(4, np.int64)
    with gateway("--away-seconds", "0.5") as head, dialling(head.listens_at, INTEGRITY) as first:
        head.wait_for_seats(64)
        env = RemoteVectorEnv(head.address, num_envs=4, envs_per_session=1)
        with contextlib.closing(env), dialling(head.listens_at, INTEGRITY) as second:
            before, infos = env.reset(seed=1)
            assert "absent" not in infos
            begins = np.zeros(4, np.bool_)
            lost: list[int] = []
            moved = back = False
            while not back:
                after, reward, _, truncated, infos = env.step(actions)
                absent = infos.get("absent", np.zeros(4, np.bool_))
                quiet = absent | truncated
                # What is gone or absent has the row from before, and no reward.
                np.testing.assert_array_equal(after[quiet], before[quiet])
                assert not reward[quiet].any()
                # The next row that such an environment has begins an episode, elsewhere; all others
                # go on where they were.
                np.testing.assert_array_equal(after[begins & ~quiet, 3], 0)
                assert (after[begins & ~quiet, 0] != before[begins & ~quiet, 0]).all()
                goes_on = ~begins & ~quiet & (after[:, 3] > 0)
                np.testing.assert_array_equal(after[goes_on, :3], before[goes_on, :3])
                np.testing.assert_array_equal(after[goes_on, 3], before[goes_on, 3] + 1)
                lost += np.flatnonzero(truncated).tolist()
                begins = (begins & absent) | truncated
                before = after
                if not moved and len(lost) == 2 and not begins.any():
                    moved = True
                    second.wait_for("a seat was taken: 2 of 64")
                    second.kill()
                back = moved and len(lost) == 4 and not begins.any()
            assert sorted(lost[:2]) == sorted(lost[2:])
        assert "a seat was taken: 4 of 64" in first.log.read_text()
