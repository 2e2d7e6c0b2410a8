"""Chunks of episodes made of arrays hold what happened, step by step."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from agent.multi_agent.recorder import Now, Recorder

AGENTS = (("a_0", "a_1"), ("b",))
SPACES = {
    agent: (Box(-np.inf, np.inf, (2,), np.float32), Discrete(1000))
    for group in AGENTS
    for agent in group
}


@dataclass
class Story:
    """What an agent of one episode lives through, told one event at a time."""

    observations: list[float] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool | None = None

    def earns(self, reward: float) -> None:
        if self.rewards:
            self.rewards[-1] += reward


class World:
    """Random turns, ends and faults in some environments, recorded and told."""

    def __init__(self, num_envs: int, random: np.random.Generator, horizon: int) -> None:
        self.num_envs, self.random = num_envs, random
        self.recorder = Recorder(AGENTS, num_envs, SPACES, horizon)
        self.counter = 0
        self.alive = [np.ones((num_envs, len(names)), bool) for names in AGENTS]
        self.see()
        self.episodes = [self.new_episode(env) for env in range(num_envs)]
        #: By episode and agent.
        self.told: dict[str, dict[str, Story]] = defaultdict(lambda: defaultdict(Story))
        self.chunks: list[MultiAgentEpisode] = []

    def new_episode(self, env: int) -> MultiAgentEpisode:
        for alive in self.alive:
            alive[env] = True
        self.recorder.begin(env)
        return MultiAgentEpisode(agent_to_module_mapping_fn=lambda agent, episode: agent[0])

    def see(self) -> None:
        self.now = []
        for alive in self.alive:
            count = alive.size
            self.counter += count
            numbers = np.arange(self.counter - count, self.counter, dtype=np.float32)
            acting = alive.reshape(-1) & (self.random.random(count) < 0.7)
            self.now.append(Now(np.stack([numbers, -numbers], 1), acting))

    def step(self) -> None:
        rewards = []
        for number, (names, now) in enumerate(zip(AGENTS, self.now, strict=True)):
            rows = np.flatnonzero(now.acting)
            actions = self.random.integers(0, 1000, len(rows))
            if len(rows):
                whole = len(rows) == len(now.acting)
                self.recorder.acted(
                    number,
                    names[0][0],
                    None if whole else rows,
                    now.observation[rows],
                    actions,
                    {"logp": actions / 1000},
                )
            for row, action in zip(rows, actions, strict=True):
                story = self.story(number, row)
                story.observations.append(float(now.observation[row, 0]))
                story.actions.append(int(action))
                story.rewards.append(0.0)
            earned = self.random.integers(0, 9, len(now.acting)) / 4
            rewards.append(np.where(self.alive[number].reshape(-1), earned, 0.0))
        failed = self.random.random(self.num_envs) < 0.03
        before, alive_before = self.now, [alive.copy() for alive in self.alive]
        self.recorder.stepped([now.acting for now in before], rewards)
        self.end_some(rewards, failed)
        self.see()
        for env in range(self.num_envs):
            if failed[env]:
                self.fail(env, before, alive_before)
            elif not any(alive[env].any() for alive in self.alive):
                self.finish(env)

    def story(self, group: int, row: int) -> Story:
        env, place = divmod(row, len(AGENTS[group]))
        return self.told[self.episodes[env].id_][AGENTS[group][place]]

    def end_some(self, rewards: list[np.ndarray], failed: np.ndarray) -> None:
        for number, names in enumerate(AGENTS):
            rows = []
            for row in range(self.num_envs * len(names)):
                env, place = divmod(row, len(names))
                if failed[env]:
                    continue
                if self.alive[number][env, place]:
                    self.story(number, row).earns(float(rewards[number][row]))
                    if self.random.random() < 0.1:
                        rows.append(row)
            if not rows:
                continue
            index = np.array(rows)
            self.counter += len(rows)
            numbers = np.arange(self.counter - len(rows), self.counter, dtype=np.float32)
            terminated = self.random.random(len(rows)) < 0.5
            infos = {row: {"row": float(row)} for row in rows}
            self.recorder.ended(number, index, np.stack([numbers, -numbers], 1), terminated, infos)
            for row, seen, over in zip(rows, numbers, terminated, strict=True):
                env, place = divmod(row, len(names))
                self.alive[number][env, place] = False
                story = self.story(number, row)
                story.observations.append(float(seen))
                story.terminated = bool(over)

    def finish(self, env: int) -> None:
        episode = self.episodes[env]
        if self.recorder.hand_out(env, episode, self.now):
            self.chunks.append(episode)
        self.episodes[env] = self.new_episode(env)

    def fail(self, env: int, before: list[Now], alive: list[np.ndarray]) -> None:
        """The step is undone: its actions had no consequence, and the episode stops before it."""
        for number, names in enumerate(AGENTS):
            for place in range(len(names)):
                row = env * len(names) + place
                story = self.story(number, row)
                if before[number].acting[row]:
                    # What it saw is the last observation; what it did is not known to anyone.
                    story.actions.pop()
                    story.rewards.pop()
                elif alive[number][env, place] and story.actions:
                    story.actions.pop()
                    story.rewards.pop()
        episode = self.episodes[env]
        if self.recorder.hand_out(env, episode, before, self.recorder.time - 1):
            self.chunks.append(episode)
        self.episodes[env] = self.new_episode(env)

    def cut(self) -> None:
        for env, running in enumerate(self.episodes):
            chunk = MultiAgentEpisode(
                id_=running.id_, agent_to_module_mapping_fn=lambda agent, episode: agent[0]
            )
            if self.recorder.hand_out(env, chunk, self.now):
                self.chunks.append(chunk)
        self.recorder.cut()


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 40), st.integers(0, 3))
def test_chunks_put_together_are_what_every_agent_lived_through(seed, num_envs, steps, horizon):
    world = World(num_envs, np.random.default_rng(seed), horizon)
    for _ in range(steps):
        world.step()
        if world.random.random() < 0.2:
            world.cut()
    world.cut()
    found: dict[tuple[str, str], list] = defaultdict(list)
    for chunk in world.chunks:
        chunk.validate()
        for agent, part in chunk.agent_episodes.items():
            part.validate()
            assert part.is_numpy
            found[chunk.id_, agent].append((chunk, part))
    for (episode, agent), parts in found.items():
        story = world.told[episode][agent]
        actions, rewards, observations = [], [], []
        for chunk, part in parts:
            assert part.t_started == len(actions)
            back = part.observations.lookback
            assert back <= min(horizon, len(actions))
            past = slice(len(actions) - back, len(actions))
            assert part.observations.data[:back, 0].tolist() == story.observations[past]
            assert part.actions.data[:back].tolist() == actions[past]
            assert part.rewards.data[:back].tolist() == rewards[past]
            actions += part.get_actions().tolist()
            rewards += part.get_rewards().tolist()
            seen = part.get_observations()[:, 0].tolist()
            np.testing.assert_allclose(
                part.get_extra_model_outputs("logp"), part.get_actions() / 1000
            )
            assert not observations or observations[-1] == seen[0]
            observations = observations[:-1] + seen
            tags = chunk.env_t_to_agent_t[agent]
            assert tags.lookback == min(horizon, chunk.env_t_started)
            looked = [tag for tag in tags.data[: tags.lookback] if tag != "S"]
            assert looked == list(range(part.t_started - back, part.t_started))
            clock = tags.data[tags.lookback :]
            assert len(clock) == chunk.env_t - chunk.env_t_started + 1
            stamps = [t for t in clock if t != "S"]
            assert stamps == list(range(part.t + 1))[-len(stamps) :]
        done = parts[-1][1].is_done
        # An action of an episode that goes on may still wait for its consequence.
        assert len(story.actions) - len(actions) in ((0,) if done else (0, 1))
        assert actions == story.actions[: len(actions)]
        assert rewards == pytest.approx(story.rewards[: len(actions)])
        assert observations[:-1] == story.observations[: len(actions)]
        if done:
            assert observations[-1] == story.observations[-1]
            assert parts[-1][1].is_terminated is story.terminated
    for episode, stories in world.told.items():
        for agent, story in stories.items():
            if len(story.actions) > 1:
                assert (episode, agent) in found


def test_a_chunk_reads_as_rllibs_own():
    """The same episode, told to RLlib one step at a time and recorded by us, in two chunks."""
    random = np.random.default_rng(5)
    recorder = Recorder([("x", "y")], 1, dict.fromkeys(("x", "y"), SPACES["b"]))
    theirs = MultiAgentEpisode(agent_to_module_mapping_fn=lambda agent, episode: "p")
    seen = random.random((9, 2, 2), np.float32)
    theirs.add_env_reset(observations={"x": seen[0, 0], "y": seen[0, 1]})
    recorder.begin(0)
    pairs = []
    for t in range(8):
        actions, rewards = random.integers(0, 9, 2), random.random(2)
        recorder.acted(0, "p", None, seen[t], actions, {"logp": actions / 10})
        recorder.stepped([np.ones(2, bool)], [rewards])
        theirs.add_env_step(
            observations=dict(zip("xy", seen[t + 1], strict=True)),
            actions=dict(zip("xy", actions, strict=True)),
            rewards=dict(zip("xy", rewards, strict=True)),
            truncateds={"__all__": t == 7},
            extra_model_outputs={a: {"logp": v / 10} for a, v in zip("xy", actions, strict=True)},
        )
        ours = MultiAgentEpisode(
            id_=theirs.id_, agent_to_module_mapping_fn=lambda agent, episode: "p"
        )
        if t == 4:
            recorder.hand_out(0, ours, [Now(seen[5], np.ones(2, bool))])
            recorder.cut()
            pairs.append((theirs, ours))
            theirs = theirs.cut()
        if t == 7:
            recorder.ended(0, np.arange(2), seen[8], np.zeros(2, bool), {})
            recorder.hand_out(0, ours, [Now(seen[8], np.zeros(2, bool))])
            ours.is_truncated = True
            pairs.append((theirs, ours))
    for theirs, ours in pairs:
        theirs.to_numpy()
        assert (len(ours), ours.env_t_started, ours.env_t) == (
            len(theirs),
            theirs.env_t_started,
            theirs.env_t,
        )
        assert (ours.is_terminated, ours.is_truncated) == (False, theirs.is_truncated)
        assert ours.get_return() == pytest.approx(theirs.get_return())
        for agent in "xy":
            one, other = ours.agent_episodes[agent], theirs.agent_episodes[agent]
            assert (one.t_started, one.t, one.module_id) == (other.t_started, other.t, "p")
            assert one.is_truncated is other.is_truncated
            for name in ("observations", "actions", "rewards"):
                got, wanted = getattr(one, name), getattr(other, name)
                np.testing.assert_allclose(got[: len(got)], wanted[: len(wanted)])
            mine = list(ours.env_t_to_agent_t[agent].data)
            assert mine == theirs.env_t_to_agent_t[agent].data
        mine, others = ours.get_observations(2), theirs.get_observations(2)
        assert mine.keys() == others.keys()
        for agent in mine:
            np.testing.assert_allclose(mine[agent], others[agent])
