"""What servers in other languages are asked to do beyond ``farsim check``'s own requests."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc

from agent.training.records import read_progress
from farsim.certs import make_certificates
from farsim.v1 import simulator_pb2 as pb
from tests.agent.live_training.test_greeting import FIRST
from tests.agent.live_training.test_train_live import address_in
from tests.agent.training.command import Workplace
from tests.raw_client import RawStream, opening
from tests.servers import ROOT


def shares(address: str) -> dict[str, float]:
    """Median seconds of a step by part, by ``farsim doctor``; the server has to say its own."""
    command = [sys.executable, "-m", "farsim", "doctor", address, "--json", "--seconds", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(done.stdout)["servers"]
    assert not [note for note in found["notes"] if "SimReply.timing" in note]
    return {share["part"]: share["median"] for share in found["shares"]}


def assert_a_lease_runs_out(address: str) -> None:
    """The server has room for one session, whose stream breaks and which nobody resumes."""
    with grpc.insecure_channel(address) as channel:
        stream = RawStream(channel)
        opened = stream.ask(opening(lease_seconds=0.5)).opened
        assert opened.lease_seconds == 0.5
        stream.cut()
        after = RawStream(channel)
        reply = after.ask(opening())
        while reply.HasField("error"):  # It is free again once the lease has run out.
            assert reply.error.code == pb.ERROR_CODE_LIMIT
            reply = after.ask(opening())
        late = RawStream(channel)
        resume = pb.Resume(session_token=opened.session_token, protocol_version="1.0")
        assert late.ask(pb.SimRequest(resume=resume)).error.code == pb.ERROR_CODE_SESSION_LOST
        late.end()
        assert after.ask(pb.SimRequest(sequence=2, close=pb.Close())).HasField("closed")


@dataclass
class Secrets:
    """Certificates and a token, as ``farsim certs --token`` writes them."""

    folder: Path

    @property
    def serving(self) -> tuple[str, ...]:
        """For a server that wants TLS from both sides, and the token."""
        return (
            *("--tls-cert", f"{self.folder}/server.pem"),
            *("--tls-key", f"{self.folder}/server-key.pem"),
            *("--tls-client-ca", f"{self.folder}/ca.pem"),
            *("--token-file", f"{self.folder}/token"),
        )

    def check(self, address: str, *without: str) -> subprocess.CompletedProcess[str]:
        """``farsim check`` of how it is reached, but with the flags ``without`` left out."""
        flags = {
            "--tls-ca": "ca.pem",
            "--tls-cert": "client.pem",
            "--tls-key": "client-key.pem",
            "--token-file": "token",
        }
        command = [sys.executable, "-m", "farsim", "check", address]
        command += ["--only", "serving/*", "--only", "open/is granted"]
        for flag in flags.keys() - set(without):
            command += [flag, f"{self.folder}/{flags[flag]}"]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)

    def assert_guarded(self, address: str) -> None:
        """Whoever has all of them is let in, and nobody else."""
        done = self.check(address)
        assert done.returncode == 0, done.stdout + done.stderr
        for without in (
            ("--token-file",),
            ("--tls-cert", "--tls-key"),
            ("--tls-ca", "--tls-cert", "--tls-key"),
        ):
            done = self.check(address, *without)
            assert done.returncode != 0, (without, done.stdout)


def secrets(folder: Path) -> Secrets:
    make_certificates(folder)
    (folder / "token").write_text("sesame\n")
    return Secrets(folder)


def feed(place: Workplace, *command: object) -> None:
    """A run of ``farsim train --live`` is fed by ``command``, which takes ``--policy ADDRESS``."""
    out = place.folder / "fed"
    process = place.start(
        *("train", "--live", "--live-address", "127.0.0.1:0", "--env-runners", 0),
        *("--config", place.quick, "--stop-steps", 800, "--out", out),
    )
    printed: list[str] = []
    simulators = None
    try:
        address = address_in(process, printed, FIRST).rstrip(",")
        words = [*map(str, command), "--policy", address, "--mode", "collect", "--episodes", "0"]
        words += ["--deadline", "150"]  # The first action has to wait for the networks.
        simulators = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        rest, _ = process.communicate(timeout=200)
    finally:
        process.kill()
        if simulators is not None:
            simulators.kill()
            simulators.wait(20)
    assert process.returncode == 0, "".join(printed) + rest
    place.check_clean()
    last = read_progress(out / "progress.csv")[-1]
    assert int(float(last["steps"])) >= 800
    # Two where the session that told the spaces is not resumed but followed by another.
    assert float(last["info/live/simulators"]) >= 1
