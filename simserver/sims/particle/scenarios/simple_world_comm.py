"""A chase with food, forests to hide in, and a leader who sees everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from simserver.sims.particle.bodies import OTHERS, Landmarks, Team
from simserver.sims.particle.palette import AMBER, DARK_RED, GREEN, LEAF, RED, SLATE
from simserver.sims.particle.scenario import REWARDS, Outcome, Scenario, count_of, numbered
from simserver.sims.particle.scenarios.chase import LANDMARK_RANGE, out_of_bounds
from simserver.sims.particle.worlds import Worlds
from simserver.simulator import BoolArray, FloatArray

_TEAMS = ("leader", "adversaries", "agents")
_LANDMARKS = ("landmark", "food", "forest")


class SimpleWorldComm(Scenario):
    """Adversaries chase agents that look for food; forests hide, but not from the leader.

    Observations: own velocity and position; relative to it the obstacles, food and forests, and
    the others; the velocities of the (other) good agents; for each forest 1 inside, -1 outside;
    the leader's message. Of the good agents the forests come before the velocities, and there is
    no message. Of an agent that is not to be seen position and velocity are 0: agents see each
    other in a common forest, or if both are outside all forests, and the leader sees all.

    Rewards: an adversary's is -0.1 of its distance from the nearest agent, and 5 for each contact
    of any adversary with an agent. An agent loses 5 for each of its own contacts, up to 40 for
    being away from the middle, and 0.05 of its distance from the nearest food (with
    ``rewards=original`` it gains that), and gains 2 for each food it touches. Infos: ``collisions``
    with the other side; of the agents also ``food`` touched and ``food_distance``.
    """

    description = "Particle: a led chase, with food, and forests to hide in"
    parameters = (
        count_of("num_good", 2, "agents"),
        count_of("num_adversaries", 4, "adversaries, the leader included"),
        count_of("num_obstacles", 1, "obstacles", low=0),
        count_of("num_food", 2, "pieces of food"),
        count_of("num_forests", 2, "forests", low=0),
        REWARDS,
    )
    vocabulary = 4

    def __init__(
        self,
        *,
        num_good: int,
        num_adversaries: int,
        num_obstacles: int,
        num_food: int,
        num_forests: int,
        rewards: str,
    ) -> None:
        hunter = Team(
            "leader", ("leadadversary_0",), DARK_RED, 0.075, acceleration=3.0, max_speed=1.0
        )
        teams = [replace(hunter, speaks=True)]
        self._hunters: tuple[str, ...] = ("leader",)
        if num_adversaries > 1:
            names = numbered("adversary", int(num_adversaries) - 1)
            teams.append(replace(hunter, name="adversaries", agents=names, color=RED))
            self._hunters = ("leader", "adversaries")
        names = numbered("agent", int(num_good))
        teams.append(Team("agents", names, GREEN, 0.045, acceleration=4.0, max_speed=1.3))
        self.teams = tuple(teams)
        self.landmarks = (
            Landmarks("landmark", int(num_obstacles), SLATE, size=0.2, collides=True),
            Landmarks("food", int(num_food), AMBER, size=0.03),
            Landmarks("forest", int(num_forests), LEAF, size=0.3, ground=True),
        )
        self._food = -1 if rewards == "original" else 1

    @property
    def num_draws(self) -> int:
        """Food and forests are placed twice, as in the reference; the second time counts."""
        parts = self.bodies.parts
        return 2 * (2 * self.bodies.count - parts["food"].start)

    def place(self, uniform: FloatArray) -> FloatArray:
        count, food = self.bodies.count, self.bodies.parts["food"].start
        agents = self.bodies.num_agents
        draws = uniform.reshape(-1, 2, uniform.shape[-1])
        draws = np.concatenate([draws[:food], draws[count:]])
        positions = -1 + 2 * draws
        positions[agents:] = -LANDMARK_RANGE + 2 * LANDMARK_RANGE * draws[agents:]
        return positions

    def observe(self, worlds: Worlds) -> Mapping[str, Sequence[FloatArray]]:
        inside = self._in_forests(worlds)
        flags = np.where(inside, 1.0, -1.0)
        hidden = self._hidden(inside)
        said = worlds.message("leader")
        parts = {}
        for team in self.teams:
            name = team.name
            everyone = worlds.bodies.seen_by(name, (OTHERS,))
            good = worlds.bodies.seen_by(name, ("agents",))
            own = np.arange(len(everyone)) + worlds.bodies.parts[name].start
            seen = worlds.relative(name, OTHERS)
            velocities = worlds.velocities_seen(name, "agents")
            if name != "leader":
                seen = _without(seen, hidden[own[:, None], everyone])
                velocities = _without(velocities, hidden[own[:, None], good])
            forests = flags[own]
            parts[name] = [
                worlds.velocity(name),
                worlds.position(name),
                worlds.relative(name, *_LANDMARKS),
                seen,
            ]
            if name == "agents":
                parts[name] += [forests, velocities]
            else:
                parts[name] += [velocities, forests]
                parts[name].append(np.broadcast_to(said, (len(own), *said.shape[1:])))
        return parts

    def judge(self, worlds: Worlds) -> Outcome:
        bodies = worlds.bodies
        apart = {name: worlds.distance(name, "agents") for name in self._hunters}
        contacts = {name: apart[name] < bodies.reach(name, "agents") for name in self._hunters}
        catches = {name: contacts[name].sum(axis=1, dtype=np.int32) for name in self._hunters}
        caught = sum(contact.sum(axis=0, dtype=np.int32) for contact in contacts.values())
        all_contacts = np.sum(caught, axis=0)

        food = worlds.distance("agents", "food")
        eaten = food < bodies.reach("agents", "food")
        food_distance = food.min(axis=1)
        bounds = 2 * out_of_bounds(worlds.position("agents"))
        # The order of the sums is that of the reference, to the last bit.
        agents = -5.0 * caught - bounds[:, 0] - bounds[:, 1]
        for piece in range(food.shape[1]):
            agents += 2.0 * eaten[:, piece]
        agents -= self._food * 0.05 * food_distance
        rewards = {"agents": agents}
        for name in self._hunters:
            reward = -0.1 * apart[name].min(axis=1)
            for contact in range(int(all_contacts.max(initial=0))):
                reward += 5.0 * (contact < all_contacts)
            rewards[name] = reward
        infos = {name: {"collisions": catches[name]} for name in self._hunters}
        infos["agents"] = {
            "collisions": caught,
            "food": eaten.sum(axis=1, dtype=np.int32),
            "food_distance": food_distance,
        }
        return Outcome(rewards, infos)

    def _in_forests(self, worlds: Worlds) -> BoolArray:
        """Which agent is in which forest: bool [A, forests, W]."""
        return np.concatenate([worlds.touching(team.name, "forest") for team in self.teams])

    def _hidden(self, inside: BoolArray) -> BoolArray:
        """Which agent can not see which other one, but for the leader: bool [A, A, W]."""
        together = (inside[:, None] & inside[None]).any(axis=2)
        outside: BoolArray = np.logical_not(inside.any(axis=1))
        return ~(together | (outside[:, None] & outside[None]))


def _without(vectors: FloatArray, hidden: BoolArray) -> FloatArray:
    """Vectors [n, 2 m, W], those hidden [n, m, W] set to 0."""
    agents, _, worlds = vectors.shape
    pairs = vectors.reshape(agents, hidden.shape[1], 2, worlds)
    return np.where(hidden[:, :, None], 0.0, pairs).reshape(vectors.shape)
