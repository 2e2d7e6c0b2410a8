"""Runs in MLflow, in a real store of files."""

from __future__ import annotations

import json
import math
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from agent.training.iteration import Iteration
from agent.training.tracking import Tracking, TrackingUnavailable, is_expected
from farsim import certs
from tests.agent.training.command import Workplace, workplace
from tests.ray_cluster import ray_cluster
from tests.servers import serving


@pytest.fixture(autouse=True)
def no_mlflow_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "AZUREML_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def iteration(number: int, mean_return: float = -1.0) -> Iteration:
    return Iteration(
        number=number,
        steps=100 * number,
        seconds=float(number),
        new_steps=100 * number,
        steps_per_second=50.0,
        mean_return=mean_return,
        mean_length=5.0,
        episodes=2,
        infos={"slowdown (mean)": 3.5},
    )


def tracking(folder: Path, told: list[str]) -> Tracking:
    parameters = {
        "simulator": "deeprm",
        "settings": {"training": {"lr": 0.001, "model": {"fcnet": [64] * 400}}},
    }
    return Tracking(folder, "first", parameters, {"farsim.servers": "10.0.0.4:50051"}, told.append)


def history(run: Tracking, metric: str) -> list[tuple[int, float]]:
    found = MlflowClient(tracking_uri=run.uri).get_metric_history(run.run_id, metric)
    return sorted((each.step, each.value) for each in found)


def test_what_a_run_leaves(tmp_path: Path):
    with tracking(tmp_path, []) as run:
        run.add(iteration(1, math.nan))
        run.add(iteration(2, -2.5))
    assert run.uri == (tmp_path / "mlruns").as_uri()
    assert history(run, "train/return_mean") == [(200, -2.5)]
    assert history(run, "train/steps_per_second") == [(100, 50.0), (200, 50.0)]
    assert history(run, "info/slowdown _mean_") == [(100, 3.5), (200, 3.5)]
    found = MlflowClient(tracking_uri=run.uri).get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "first"
    assert found.data.params["settings.training.lr"] == "0.001"
    assert len(found.data.params["settings.training.model.fcnet"]) == 500
    assert found.data.tags["farsim.servers"] == "10.0.0.4:50051"


def test_a_run_that_raises_has_failed(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), tracking(tmp_path, []) as run:
        raise ZeroDivisionError
    assert MlflowClient(tracking_uri=run.uri).get_run(run.run_id).info.status == "FAILED"


def test_metrics_wait_for_a_store_that_is_away(tmp_path: Path):
    told: list[str] = []
    with tracking(tmp_path, told) as run:
        run.add(iteration(1))
        (tmp_path / "mlruns").rename(tmp_path / "away")
        run.add(iteration(2))
        run.add(iteration(3))
        assert len(told) == 1
        assert "MLflow takes no metrics at the moment" in told[0]
        (tmp_path / "away").rename(tmp_path / "mlruns")
        run.add(iteration(4))
    assert [step for step, _ in history(run, "train/episodes")] == [100, 200, 300, 400]


def test_a_run_that_somebody_else_began_is_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    uri = (tmp_path / "store").as_uri()
    client = MlflowClient(tracking_uri=uri)
    begun = client.create_run(client.create_experiment("a job")).info.run_id
    assert not is_expected()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", begun)
    assert is_expected()
    with tracking(tmp_path, []) as run:
        run.add(iteration(1))
    assert run.run_id == begun
    assert history(run, "train/episodes") == [(100, 2.0)]
    assert client.get_run(begun).info.status == "RUNNING"


def test_a_job_of_azure_ml_tells_its_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    certs.make_certificates(tmp_path, ["localhost"])
    said: list[tuple[str, str, dict[str, Any]]] = []

    class Workspace(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            said.append((self.path, self.headers["Authorization"], json.loads(content)))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Workspace)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / certs.SERVER, tmp_path / certs.SERVER_KEY)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    place = f"localhost:{server.server_address[1]}/mlflow/v1.0/workspaces/rl"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"azureml://{place}")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "the-jobs-token")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / certs.CA))
    monkeypatch.setenv("AZUREML_RUN_ID", "scheduling-1")
    try:
        with tracking(tmp_path / "run", []) as run:
            run.add(iteration(1))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert [path for path, _, _ in said] == [
        "/mlflow/v1.0/workspaces/rl/api/2.0/mlflow/runs/log-batch"
    ] * 2
    assert {token for _, token, _ in said} == {"Bearer the-jobs-token"}
    parameters, metrics = (content for _, _, content in said)
    assert parameters["run_id"] == metrics["run_id"] == "scheduling-1"
    assert {"key": "simulator", "value": "deeprm"} in parameters["params"]
    assert {each["key"]: each["value"] for each in metrics["metrics"]}["train/return_mean"] == -1.0


def test_a_store_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://somewhere")
    with pytest.raises(TrackingUnavailable, match=r"nowhere://somewhere.*MLFLOW_TRACKING_URI"):
        tracking(tmp_path, [])


@pytest.fixture
def place(tmp_path: Path):
    with workplace(tmp_path) as place:
        yield place


@pytest.mark.slow
def test_training_waits_for_simulators_and_is_tracked(place: Workplace):
    with serving("adder") as before:
        address = before.address  # Free again once this server has ended.
    out = place.folder / "run"
    process = place.start(
        *("train", "adder", "--sims", address, "--config", place.quick, "--stop-steps", 400),
        *("--out", out, "--wait-seconds", 100, "--mlflow"),
    )
    assert process.stdout is not None
    try:
        said = ""
        while "waiting     0 of 1 simulator servers are there" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        with serving("adder", address=address):
            rest, _ = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, rest
    assert "all 1 servers are there" in rest
    client = MlflowClient(tracking_uri=(out / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("farsim")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["simulator"] == "adder"
    assert float(run.data.params["stop.steps"]) == 400
    assert "train/return_mean" in run.data.metrics
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_nodes_that_do_not_come_are_told(place: Workplace):
    with serving("adder") as server, ray_cluster({"num_cpus": 1}) as cluster:
        output = place.here(
            *("train", "adder", "--sims", server.address, "--ray-address", cluster.address),
            *("--ray-nodes", 2, "--wait-seconds", 1),
            code=1,
        )
    assert "1 of 2 Ray nodes were not there within 1 s (--wait-seconds)" in output
