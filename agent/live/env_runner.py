"""RLlib's env runners for simulators that run by themselves and ask for actions."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils import metrics as names
from ray.rllib.utils.annotations import override

from agent.env_runner import tell_created
from agent.live.callbacks import EpisodeCallbacks
from agent.live.experience import Experience, Finished, Harvest
from agent.live.greeted import read_greeted
from agent.live.inference import PolicySpec
from agent.live.learned import LearnedPolicies, Seat
from agent.live.live_config import LiveConfig
from agent.live.rllib_episodes import EpisodeMaker
from agent.live.server import PolicyServer
from agent.live.spaces_env import LiveAgentSpaces, LiveSpaces
from farsim.errors import InvalidOption, Unsupported
from farsim.live.interface import Group

logger = logging.getLogger(__name__)

#: Under RLlib's metrics of env runners, among other numbers that simulators are the cause of.
METRICS = ("info", "live")

#: Lifetime sums there; see ``Experience``.
COUNTS = ("stale", "off_policy", "overflow", "aborted", "lost")

#: Between two looks at who is there, while a sample is not complete.
_LOOK_SECONDS = 0.5


class LiveSampling:
    """What both env runners share: the service, and where transitions come from.

    Attributes:
        live_address: where simulators find the policies; empty in a runner that does not sample.
        on_waiting: called with this runner and the seconds so far, again and again while
            ``sample`` waits; what it raises goes through to who has called ``sample``.
    """

    config: Any
    metrics: Any
    module: Any
    env: Any
    num_envs: int
    worker_index: Any
    num_workers: Any
    num_env_steps_sampled_lifetime: int
    _weights_seq_no: int
    _device: Any

    live_address = ""
    on_waiting: Callable[[Any, float], None] | None = None
    _server: PolicyServer | None = None
    _policies: LearnedPolicies

    # -- set up ---------------------------------------------------------------------------

    def _read_config(self) -> None:
        config = self.config
        for name in ("env_to_module_connector", "module_to_env_connector"):
            if getattr(config, f"_{name}", None) is not None:
                raise Unsupported(
                    f"{name}: this env runner carries out RLlib's default connectors and none "
                    "besides; put the translation into the simulator or into the network",
                    name,
                )
        self._live = LiveConfig.of(config.env_config or {})
        self._told = EpisodeCallbacks(self)
        # Those that learn from the actions of others have a place to keep them.
        self._on_policy = not hasattr(config, "replay_buffer_config")

    def _seat(self, name: str, group: Group, agents: tuple[str, ...]) -> Seat:
        config = self.config
        spec = PolicySpec(
            name,
            group.observation_space,
            group.action_space,
            group.has_action_mask,
            agents=agents,
        )
        takes_mask = self._live.action_mask_in_observation
        return Seat(spec, takes_mask, config.normalize_actions, config.clip_actions)

    def _open(self, seats: list[Seat], module: Callable[[str], Any]) -> None:
        """Lets simulators in; once there are networks."""
        for seat in seats:
            is_recurrent = module(seat.spec.name).is_stateful()
            seat.spec = replace(seat.spec, is_recurrent=is_recurrent)
        live = self._live
        self._policies = LearnedPolicies(seats, module, self._device)
        algo = type(self.config).__name__.removesuffix("Config")
        staleness = live.staleness_of(algo, self._on_policy)
        self._experience = Experience(self._on_policy, staleness, live.capacity)
        self._maker = EpisodeMaker(
            self._policies.seats, self._on_policy, self.config.episodes_to_numpy
        )
        self._finished: list[Finished] = []
        address = live.address_of(
            self.worker_index or 0, self.num_workers or 0, self.config.in_evaluation
        )
        self._server = PolicyServer(
            self._policies, address, live.server_options(), (self._experience,)
        )
        if (self.worker_index or 0) <= live.first_runner and not self.config.in_evaluation:
            for one in read_greeted(live.greeted):
                self._server.adopt(one)
        self._server.start()
        self.live_address = self._server.address
        logger.info("live simulators are taken at %s", self.live_address)

    # -- sampling -------------------------------------------------------------------------

    def _collect(
        self,
        num_timesteps: int | None,
        num_episodes: int | None,
        explore: bool,
        random_actions: bool,
    ) -> Harvest:
        """Waits for what was asked for, but not for ever, and returns all that there is."""
        if random_actions:
            raise Unsupported("live simulators ask for the policy's actions, not for random ones")
        runners = self.config.num_env_runners or 1
        steps = self.num_env_steps_sampled_lifetime // runners * runners
        self._policies.sampling(explore, steps)
        begun = now = time.monotonic()
        until = begun + self._live.wait_seconds
        while now < until:
            seconds = min(_LOOK_SECONDS, until - now)
            if self._experience.wait(num_timesteps, num_episodes, seconds):
                break
            now = time.monotonic()
            if self.on_waiting is not None:
                self.on_waiting(self, now - begun)
        harvest = self._experience.harvest(self._policies.version)
        self._finished += harvest.finished
        self._log(harvest)
        return harvest

    def _log(self, harvest: Harvest) -> None:
        log = self.metrics.log_value
        for name in COUNTS:
            log((*METRICS, name), harvest.counts[name], reduce="lifetime_sum")
        total = sum(harvest.staleness.values())
        if total:
            versions = sum(behind * count for behind, count in harvest.staleness.items())
            log((*METRICS, "staleness"), versions / total, reduce="mean", window=100)
            log((*METRICS, "staleness_max"), max(harvest.staleness), reduce="max", window=100)
        # For algorithms that update once a sample: how far simulators are ahead of them.
        log((*METRICS, "steps_per_sample"), harvest.steps, reduce="mean", window=100)
        log((*METRICS, "simulators"), self.simulators, reduce="mean", window=1)
        log((*METRICS, "port"), int(self.live_address.rpartition(":")[2]), reduce="min", window=1)

    @property
    def simulators(self) -> int:
        """How many live sessions are open."""
        return 0 if self._server is None else self._server.counts["sessions"]

    # -- weights and the end --------------------------------------------------------------

    def set_state(self, state: Any) -> None:
        """Takes RLlib's state over; nobody is answered by half of the new weights."""
        parent: Any = super()
        if self._server is None:
            parent.set_state(state)
            return
        number = state.get(names.WEIGHTS_SEQ_NO, 0)
        is_new = COMPONENT_RL_MODULE in state and (not number or number > self._weights_seq_no)
        with self._policies.still():
            parent.set_state(state)
            if is_new:
                self._policies.changed(number)

    def assert_healthy(self) -> None:
        """Raises unless there is a service, and a network behind it."""
        if self._server is None or self.module is None:
            raise InvalidOption("this env runner takes no live simulators", "env_runners")

    def stop(self) -> None:
        """Tells simulators to go, and ends the service."""
        if self._server is not None:
            self._server.close(grace_seconds=1.0)
            self._server = None


class LiveEnvRunner(LiveSampling, SingleAgentEnvRunner):
    """Takes simulators that run by themselves, and samples what they go through.

    Set it with ``config.env_runners(env_runner_cls=LiveEnvRunner)``; ``env_config`` is a
    ``LiveConfig`` as a dict, ``config.env`` any name. Every runner that samples hosts the service
    ``farsim.v1.Policy`` at its own port. Simulators come and go; what sessions with COLLECT go
    through is handed out, whatever the others do.

    ``sample`` returns everything that is complete as soon as it is as much as was asked for, or
    what there is after ``wait_seconds``: perhaps nothing. An episode of a simulator that vanished
    ends as truncated with the last observation on which it is known what happened.

    Algorithms without a replay buffer get only actions that the policy chose, with their exact
    log-probabilities: where somebody else acted, an episode is cut. Others get all actions.

    Callbacks of episodes are called as ``EpisodeCallbacks`` says. Metrics are under ``info/live``:
    ``simulators``, ``staleness`` (versions behind, mean and ``_max``), ``steps_per_sample``, and
    the sums ``COUNTS``. Mean returns are of episodes that simulators brought to an end themselves.
    """

    @override(SingleAgentEnvRunner)
    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        if self.env is not None:
            self._open([self._only], lambda name: self.module)

    @override(SingleAgentEnvRunner)
    def make_env(self) -> None:
        if self.env is not None:
            return  # Simulators are not ours to make anew.
        self._read_config()
        groups = self._live.groups or (
            Group(self.config.observation_space, self.config.action_space),
        )
        if len(groups) != 1 or len(groups[0].agents) != 1:
            raise Unsupported("several agents need LiveMultiAgentEnvRunner")
        self._only = self._seat(DEFAULT_MODULE_ID, groups[0], ())
        self.env = LiveSpaces(self._only.observation_space, self._only.action_space)
        self.num_envs = 1
        tell_created(self)

    @override(SingleAgentEnvRunner)
    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[SingleAgentEpisode]:
        harvest = self._collect(num_timesteps, num_episodes, explore, random_actions)
        if harvest.steps:
            self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=harvest.steps)
        self._increase_sampled_metrics(harvest.steps, len(harvest.finished))
        made = [
            (found, self._maker.single(chunk)) for found in harvest.chunks for chunk in found.chunks
        ]
        self._told.call(made, harvest.finished, harvest.over)
        return [episode for _, episode in made]

    @override(SingleAgentEnvRunner)
    def get_metrics(self) -> Any:
        for one in self._finished:
            self._log_episode_metrics(one.length, sum(one.returns.values()), one.seconds)
        self._finished.clear()
        return self.metrics.reduce()


class LiveMultiAgentEnvRunner(LiveSampling, MultiAgentEnvRunner):
    """``LiveEnvRunner`` for simulators with several agents.

    ``env_config["groups"]`` says which, and ``config.multi_agent`` who decides for whom. A step of
    the environment is an event in which agents act.
    """

    env: Any
    module: Any

    @override(MultiAgentEnvRunner)
    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        if self.env is not None:
            self._open(list(self._by_policy.values()), lambda name: self.module[name])

    @override(MultiAgentEnvRunner)
    def make_env(self) -> None:
        if self.env is not None:
            return
        self._read_config()
        if not self._live.groups:
            raise InvalidOption("env_config needs 'groups': the agents and their spaces", "groups")
        agents: dict[str, tuple[Group, list[str]]] = {}
        self._policy_of: dict[str, str] = {}
        for group in self._live.groups:
            for agent in group.agents:
                policy = self.config.policy_mapping_fn(agent, None)
                self._policy_of[agent] = policy
                agents.setdefault(policy, (group, []))[1].append(agent)
        self._by_policy = {
            name: self._seat(name, group, tuple(members))
            for name, (group, members) in agents.items()
        }
        self.env = LiveAgentSpaces(
            {
                agent: (seat.observation_space, seat.action_space)
                for agent, policy in self._policy_of.items()
                if (seat := self._by_policy[policy])
            }
        )
        self.num_envs = 1
        tell_created(self)

    @override(MultiAgentEnvRunner)
    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[MultiAgentEpisode]:
        harvest = self._collect(num_timesteps, num_episodes, explore, random_actions)
        if harvest.steps:
            self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=harvest.steps)
        self._log_steps(harvest)
        mapping = self.config.policy_mapping_fn
        made = [
            (found, episode)
            for found in harvest.chunks
            for episode in self._maker.several(found, mapping)
        ]
        self._told.call(made, harvest.finished, harvest.over)
        return [episode for _, episode in made]

    def _log_steps(self, harvest: Harvest) -> None:
        log = self.metrics.log_value
        agents: Counter[str] = Counter()
        policies: Counter[str] = Counter()
        for chunk in [chunk for found in harvest.chunks for chunk in found.chunks]:
            agents[chunk.agent] += len(chunk.lived)
            policies[chunk.policy] += len(chunk.lived)
        log(names.NUM_ENV_STEPS_SAMPLED, harvest.steps, reduce="sum")
        log(
            names.NUM_ENV_STEPS_SAMPLED_LIFETIME,
            harvest.steps,
            reduce="lifetime_sum",
            with_throughput=True,
        )
        log(names.NUM_EPISODES, len(harvest.finished), reduce="sum")
        log(names.NUM_EPISODES_LIFETIME, len(harvest.finished), reduce="lifetime_sum")
        for agent in self._policy_of:
            log((names.NUM_AGENT_STEPS_SAMPLED, agent), agents[agent], reduce="sum")
            log(
                (names.NUM_AGENT_STEPS_SAMPLED_LIFETIME, agent),
                agents[agent],
                reduce="lifetime_sum",
            )
        for policy in self._by_policy:
            log((names.NUM_MODULE_STEPS_SAMPLED, policy), policies[policy], reduce="sum")
            log(
                (names.NUM_MODULE_STEPS_SAMPLED_LIFETIME, policy),
                policies[policy],
                reduce="lifetime_sum",
            )

    @override(MultiAgentEnvRunner)
    def get_metrics(self) -> Any:
        for one in self._finished:
            modules: dict[str, float] = defaultdict(float)
            for agent, value in one.returns.items():
                modules[one.policies[agent]] += value
            self._log_episode_metrics(
                one.length,
                sum(one.returns.values()),
                one.seconds,
                one.returns,
                dict(modules),
                one.steps,
            )
        self._finished.clear()
        return self.metrics.reduce()
