"""Videos of what a policy does while it learns."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from ray.rllib.algorithms.algorithm import Algorithm

from agent.evaluation import pictures
from agent.evaluation.pictures import Reel, VideoUnavailable
from agent.evaluation.seeds import evaluation_seeds
from agent.models import masking
from agent.multi_agent.acting import Acting, ActingGroup
from agent.remote_multi_agent_vector_env import MultiAgentStep, RemoteMultiAgentVectorEnv
from agent.training.algorithm import Plan
from agent.training.env_runner import EncodedView
from agent.training.records import Records
from farsim.channel import ConnectionOptions
from farsim.errors import Unsupported

#: In a run's folder.
VIDEOS = "videos"

#: An episode that has not ended by then is cut; at ten pictures a second it is a minute and a half.
MAX_STEPS = 1000

#: TensorBoard keeps all of a picture in its events, and shows it small.
_TENSORBOARD_FRAMES = 200


class FilmCrew:
    """Plays greedy episodes in an environment of its own, and makes videos of them.

    It is the same episode each time, one that training cannot have seen, so that what changes from
    video to video is the policy. Training goes on afterwards as if nothing had been played.

    Args:
        algorithm: whose policies play, as they are when a video is made.
        algorithm_plan: what it was built from.
        folder: for the videos: MP4 where imageio-ffmpeg is installed, else GIF.
        max_steps: where an episode is cut.

    Raises:
        Unsupported: the simulator gives no pictures, or a network is recurrent.
    """

    def __init__(
        self, algorithm: Algorithm, algorithm_plan: Plan, folder: Path, max_steps: int = MAX_STEPS
    ) -> None:
        interface = algorithm_plan.interface
        if not interface.can_render:
            raise Unsupported(f"simulator '{interface.simulator}' gives no pictures", "render")
        self._algorithm = algorithm
        self._plan = algorithm_plan
        self._folder = folder
        self._max_steps = max_steps
        policies = dict.fromkeys(map(algorithm_plan.policy_of, interface.agents))
        # Copies, as env runners go on with theirs.
        self._modules: Any = {
            policy: copy.deepcopy(algorithm.get_module(policy)).unwrapped()  # type: ignore[union-attr]
            for policy in policies
        }
        for policy, module in self._modules.items():
            if module.is_stateful():
                raise Unsupported(f"the network of policy '{policy}' is recurrent", policy)
        self._views = [
            EncodedView.of(algorithm_plan.observed_space(group), group.action_space)
            for group in interface.groups
        ]
        self._suffix = ".mp4"
        try:
            pictures.check_mp4()
        except VideoUnavailable:
            self._suffix = ".gif"

    def shoot(self, number: int, steps: int, records: Records) -> Path:
        """Plays an episode, and keeps it as a file and in TensorBoard.

        Args:
            number: of the iteration, which is the file's name.
            steps: environment steps so far.
            records: where TensorBoard's events go.

        Raises:
            FarsimError: no server lets an episode be played.
        """
        frames = self._play()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{number:06d}{self._suffix}"
        write = pictures.write_mp4 if self._suffix == ".mp4" else pictures.write_gif
        write(frames, path)
        records.add_animation("greedy_episode", *_animation(frames), steps)
        return path

    def _play(self) -> Reel:
        self._take_weights()
        env_config = self._plan.config.env_config
        config = self._plan.config
        env = RemoteMultiAgentVectorEnv(
            env_config["addresses"],
            env_config["simulator"],
            num_envs=1,
            options=env_config["options"],
            autoreset_mode=self._autoreset_mode(),
            render_mode="rgb_array",
            connection=ConnectionOptions.of(env_config["connection"]),
        )
        frames = Reel()
        with env:
            acting = Acting(
                [
                    ActingGroup(view.action_space, view.decode, len(group.agents))
                    for group, view in zip(env.groups, self._views, strict=True)
                ],
                config.normalize_actions,
                config.clip_actions,
                "cpu",
                seed=0,
            )
            for number, group in enumerate(env.groups):
                policies = [self._plan.policy_of(agent) for agent in group.agents]
                acting.assign(number, slice(0, len(group.agents)), policies)
            step = env.reset(seed=evaluation_seeds(0, 1))
            frames.append(_picture(env))
            for _ in range(self._max_steps):
                acts = [part.acting for part in step.groups]
                actions, _ = acting.choose(
                    self._modules, self._seen(env, step), acts, explore=False, time=0
                )
                step = env.step(actions)
                if step.started.any() or step.faults:
                    break
                frames.append(_picture(env))
                if not any(part.acting.any() for part in step.groups):
                    break
        return frames

    def _autoreset_mode(self) -> AutoresetMode:
        """One where the end of an episode can still be seen, if the simulator has it."""
        modes = self._plan.interface.autoreset_modes
        seen = [mode for mode in modes if mode is not AutoresetMode.SAME_STEP]
        return seen[0] if seen else AutoresetMode.SAME_STEP

    def _take_weights(self) -> None:
        """The learner's, of which those of env runners may be copies of some time ago."""
        learners: Any = self._algorithm.learner_group
        weights: Mapping[str, Any] = learners.get_weights(list(self._modules))
        for policy, module in self._modules.items():
            module.set_state(weights[policy])

    def _seen(self, env: RemoteMultiAgentVectorEnv, step: MultiAgentStep) -> list[Any]:
        seen = []
        for group, view, part in zip(env.groups, self._views, step.groups, strict=True):
            observation = part.observation
            if self._plan.action_mask and group.has_action_mask:
                observation = {
                    masking.OBSERVATIONS: observation,
                    masking.ACTION_MASK: np.asarray(part.action_masks[0], np.float32),
                }
            seen.append(view.encode(observation))
        return seen


def _picture(env: RemoteMultiAgentVectorEnv) -> Any:
    frames = env.render()
    assert frames is not None
    return np.asarray(frames[0])


def _animation(frames: Reel) -> tuple[bytes, int, int]:
    """An animated GIF, which TensorBoard shows as it is, and its height and width."""
    thinned = Reel()
    for index in range(0, len(frames), -(-len(frames) // _TENSORBOARD_FRAMES)):
        thinned.append(frames[index])
    with tempfile.TemporaryDirectory(prefix="farsim-film-") as folder:
        path = Path(folder) / "episode.gif"
        pictures.write_gif(thinned, path)
        height, width = thinned[0].shape[:2]
        return path.read_bytes(), height, width
