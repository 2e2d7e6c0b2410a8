import csv
import subprocess
import sys

import pytest

from tests.simserver.bonsai.running import ADDER, ROOT, adders, gateway

PPO = """\
training:
  {train_batch_size_per_learner: 640, minibatch_size: 128, num_epochs: 10, lr: 0.002, gamma: 0.8,
   lambda_: 0.9, vf_clip_param: .inf, vf_loss_coeff: 0.001, entropy_coeff: 0.01, use_kl_loss: false}
env_runners: {num_envs_per_env_runner: 8}
"""
#: Random actions get about -300; the best that there is gets -30 on average.
WORKS = -75.0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_eight_adders_of_the_real_client_train_to_a_working_policy(tmp_path):
    config, out = tmp_path / "ppo.yaml", tmp_path / "run"
    config.write_text(PPO)
    with gateway(*ADDER) as running, adders(running, 8):
        command = [sys.executable, "-m", "farsim", "train", "Adder", "--sims", running.address]
        command += ["--config", str(config), "--out", str(out), "--seed", "1"]
        command += ["--stop-return", str(WORKS), "--stop-steps", "10000"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with (out / "progress.csv").open() as file:
        returns = [float(row["return_mean"]) for row in csv.DictReader(file) if row["return_mean"]]
    assert returns[0] < 2 * WORKS, "there was nothing to learn"
    assert returns[-1] >= WORKS
