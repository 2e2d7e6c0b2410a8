"""The TypeScript simulator in ``examples/node``: built, checked, trained on, and played live."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from agent.remote_vector_env import RemoteVectorEnv
from agent.training.records import read_progress
from farsim.channel import ConnectionOptions
from farsim.check import runner
from farsim.check.verdicts import Status
from tests.agent.policy.test_serve import serving as policy_serving
from tests.agent.training.command import Workplace, workplace
from tests.examples import foreign
from tests.gateways import gateway as attaching
from tests.proxy import Proxy
from tests.servers import ROOT

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "examples" / "node"
GOLDEN = ROOT / "tests" / "data" / "golden"
NOT_COPIED = shutil.ignore_patterns("node_modules", "dist", "generated")

#: What chance and the planner's rule come to; `npm run live -- --compare` plays them again.
RANDOM_RETURN, RULE_RETURN = -23.7, -12.0

#: Steps that take 60 ms for each environment, and now and then fail.
FRAGILE = """\
const { SimulatorServer } = require(process.argv[2] + "/dist/src/farsim/server.js");
const { bottling } = require(process.argv[2] + "/dist/src/bottling.js");
const fragile = {
  ...bottling,
  open(options) {
    const model = bottling.open(options);
    return {
      ...model,
      make() {
        const line = model.make();
        const step = line.step.bind(line);
        let steps = 0;
        line.step = (action) => {
          for (const until = performance.now() + 60; performance.now() < until; );
          if (++steps === 3) throw new Error("the conveyor is stuck");
          return step(action);
        };
        return line;
      },
    };
  },
};
const limits = {
  maxSessions: 64, maxEnvironments: 4096, maxMessageBytes: 2 ** 26, maxInFlight: 16,
  leaseSeconds: 60, heartbeatSeconds: 5,
};
const options = { address: "127.0.0.1:0", graceSeconds: 10 };
const server = new SimulatorServer([fragile], limits, options);
server.listen().then((address) => require("node:fs").writeFileSync(process.argv[3], address));
process.once("SIGTERM", () => server.drain().then(() => process.exit(0)));
"""


def npm(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["npm", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"npm {' '.join(arguments)}:\n{done.stdout}"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with its dependencies, built as its README says."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.fail(
                f"{program} is not here: install Node.js 18 or later with npm", pytrace=False
            )
    root = tmp_path_factory.mktemp("node")
    shutil.copytree(ROOT / "proto", root / "proto")
    folder = root / "examples" / "node"
    shutil.copytree(EXAMPLE, folder, ignore=NOT_COPIED)
    npm(folder, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    npm(folder, "run", "build")
    return folder


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    address: str
    log: Path


@contextmanager
def node(*command: object, address_file: Path | None = None) -> Iterator[Running]:
    """Runs a program of Node; at the end stops it, and checks that it drained."""
    with tempfile.TemporaryDirectory(prefix="farsim-test-") as temporary:
        log = Path(temporary, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(["node", *map(str, command)], stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 60
            while address_file is not None and not (
                address_file.exists() and address_file.read_text()
            ):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield Running(process, address_file.read_text() if address_file else "", log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(20)


@contextmanager
def serving(built: Path, *arguments: object) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="farsim-test-") as temporary:
        ports = Path(temporary, "ports")
        more = ("--address", "127.0.0.1:0", "--port-file", ports, *arguments)
        with node(built / "dist/src/serve.js", *more, address_file=ports) as running:
            yield running


@pytest.fixture(scope="module")
def server(built: Path) -> Iterator[Running]:
    with serving(built) as server:
        yield server


def keeps(address: str, *only: str, connection: ConnectionOptions | None = None) -> set[str]:
    """The titles of the checks that passed; fails if one did not."""
    (subject,) = runner.subjects(address, connection or ConnectionOptions())
    outcomes = runner.run([subject], runner.chosen(list(only), ["serving/pings"]))
    bad = [o for o in outcomes if o.status in (Status.failed, Status.blocked)]
    assert not bad, [(o.check.title, o.verdict) for o in bad]
    return {o.check.title for o in outcomes if o.status is Status.passed}


def test_the_lock_file_names_no_registry():
    assert '"resolved"' not in (EXAMPLE / "package-lock.json").read_text()


def test_the_golden_fixtures_are_the_same_bytes(built: Path):
    done = subprocess.run(
        ["npm", "test"],
        cwd=built,
        env={**os.environ, "FARSIM_GOLDEN": str(GOLDEN)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"pass (\d+)", done.stdout)[1] == "69", done.stdout


def test_it_keeps_the_contract(server: Running):
    passed = keeps(server.address)
    assert len(passed) > 85
    assert {
        "masks/form",
        "autoreset/SAME_STEP's last observation",
        "resume/a broken stream",
    } <= passed


def test_it_keeps_the_contract_with_a_token_and_few_sessions(built: Path, tmp_path: Path):
    (tmp_path / "token").write_text("sesame\n")
    connection = ConnectionOptions(token_file=str(tmp_path / "token"))
    flags = ("--token-file", tmp_path / "token", "--max-sessions", 3)
    with serving(built, *flags) as server:
        passed = keeps(server.address, "serving", connection=connection)
    assert {"serving/token", "serving/too many sessions"} <= passed


def test_faults_and_heartbeats(built: Path, tmp_path: Path):
    (tmp_path / "fragile.js").write_text(FRAGILE)
    address = tmp_path / "address"
    with node(tmp_path / "fragile.js", built, address, address_file=address) as server:
        passed = keeps(server.address, "batch/faults", "sequence/heartbeats")
    assert passed == {"batch/faults", "sequence/heartbeats"}


def test_it_wants_certificates_and_a_token(built: Path, tmp_path: Path):
    secrets = foreign.secrets(tmp_path)
    with serving(built, *secrets.serving) as server:
        secrets.assert_guarded(server.address)


def test_a_lease_runs_out(built: Path):
    with serving(built, "--max-sessions", 1) as server:
        foreign.assert_a_lease_runs_out(server.address)


def test_the_doctor_knows_the_simulators_share(server: Running):
    shares = foreign.shares(server.address)
    assert 0 < shares["simulator"] < shares["step"]


def test_it_does_not_listen_to_everyone_in_plain_text(built: Path):
    done = subprocess.run(
        ["node", "dist/src/serve.js", "--address", "0.0.0.0:0"],
        cwd=built,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "--insecure" in done.stderr


def returns(address: str, cuts: Proxy | None = None) -> np.ndarray:
    """What 4 environments earn in 40 steps of filling in turn; breaks the connection on the way."""
    env = RemoteVectorEnv(address, "bottling", num_envs=4)
    try:
        env.reset(seed=[1, 2, 3, 4])
        rewards = []
        for number in range(40):
            if cuts is not None and number % 10 == 5:
                assert cuts.cut()
            _, reward, _, _, infos = env.step(np.full(4, number % 5))
            assert "fault" not in infos
            rewards.append(reward)
        return np.array(rewards)
    finally:
        env.close()


def test_a_broken_connection_is_resumed(server: Running):
    with Proxy(server.address) as proxy:
        interrupted = returns(proxy.address, proxy)
        assert proxy.cuts == 4
    np.testing.assert_array_equal(interrupted, returns(server.address))


def test_it_dials_in(built: Path):
    with (
        attaching() as gateway,
        node(built / "dist/src/serve.js", "--attach", gateway.listens_at, "--max-sessions", 4),
    ):
        gateway.wait_for_seats(4)
        assert "resume/a broken stream" in keeps(gateway.address, "open/is granted", "resume")
        np.testing.assert_array_equal(returns(gateway.address), returns(gateway.address))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("train")) as place:
        yield place


@pytest.mark.long
def test_live_lines_feed_a_learner(built: Path, place: Workplace):
    foreign.feed(place, "node", built / "dist/src/play.js")


@pytest.fixture(scope="module")
def run(server: Running, place: Workplace) -> Path:
    """PPO, until it is as good as the planner's rule even while it explores."""
    out = place.folder / "run"
    place.here(
        *("train", "bottling", "--sims", server.address, "--env-runners", 0),
        *("--config", EXAMPLE / "training.yaml", "--seed", 1, "--out", out),
        *("--stop-return", RULE_RETURN, "--stop-steps", 70_000),
    )
    return out


def test_training_learns(run: Path):
    rows = read_progress(run / "progress.csv")
    first, last = float(rows[0]["return_mean"]), float(rows[-1]["return_mean"])
    assert first < RULE_RETURN - 3, (first, last)
    assert last >= max(RULE_RETURN, RANDOM_RETURN + 10), (first, last)


def test_a_live_line_runs_on_the_trained_policy(built: Path, run: Path, tmp_path: Path):
    """Better than chance by 10 and than the rule by 0.3, over a connection that breaks."""
    with policy_serving(tmp_path, run) as policy, Proxy(policy.addresses[0]) as proxy:
        command = ["node", built / "dist/src/play.js", "--policy", proxy.address, "--compare"]
        command += ["--episodes", 20, "--envs", 5, "--seed", 500, "--deadline", 30]
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert process.stdout is not None
            head = process.stdout.readline()
            proxy.cut()
            output = head + process.communicate(timeout=100)[0]
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert "over 20 episodes, 0 actions by the fallback" in output
    means = {
        name: float(mean) for name, mean in re.findall(r"^(\w+): mean return (\S+)", output, re.M)
    }
    assert means["policy"] > means["random"] + 10, output
    assert means["policy"] > means["rule"] + 0.3, output
