"""Motion of all bodies of all worlds by one time step (SPEC section 2)."""

from __future__ import annotations

import numpy as np

from simserver.sims.particle.bodies import Bodies
from simserver.sims.particle.worlds import Worlds, length
from simserver.simulator import FloatArray, IntArray

#: Seconds in a step.
TIME_STEP = 0.1
#: Share of the velocity that is lost in a step.
DAMPING = 0.25
#: Force for each unit that two bodies overlap.
CONTACT_FORCE = 100.0
#: How softly contact begins, in units of length.
CONTACT_MARGIN = 0.001


class Physics:
    """Forces of contact, and integration, for worlds of these bodies.

    The order of all sums is that of the reference, so that results are the same to the last bit,
    in whatever batch.
    """

    def __init__(self, bodies: Bodies) -> None:
        moves, collides = bodies.moves, bodies.collides
        movers = np.flatnonzero(moves)
        self._moving = movers.size > 0
        # A slice gives views, which are integrated in place.
        self._movers: slice | IntArray = movers
        if movers.size and movers[-1] - movers[0] == movers.size - 1:
            self._movers = slice(int(movers[0]), int(movers[-1]) + 1)
        self._max_speed = bodies.max_speed[movers, None]
        self._limited = bool(np.isfinite(self._max_speed).any())

        colliders = np.flatnonzero(collides)
        pairs = [
            (one, other)
            for place, one in enumerate(colliders.tolist())
            for other in colliders[place + 1 :].tolist()
            if moves[one] or moves[other]
        ]
        self._touchable = bool(pairs)
        self._ones = np.array([one for one, _ in pairs], np.int64)
        self._others = np.array([other for _, other in pairs], np.int64)
        self._reach = (bodies.size[self._ones] + bodies.size[self._others])[:, None]
        # Forces on a body are added in the order of the bodies they come from.
        self._receivers = np.flatnonzero(collides & moves)
        number = {pair: place for place, pair in enumerate(pairs)}
        sources = [
            [other for other in colliders.tolist() if other != one]
            for one in self._receivers.tolist()
        ]
        self._pair_of = np.array(
            [
                [number[min(one, other), max(one, other)] for other in row]
                for one, row in zip(self._receivers.tolist(), sources, strict=True)
            ],
            np.int64,
        )
        self._sign = np.array(
            [
                [1.0 if one < other else -1.0 for other in row]
                for one, row in zip(self._receivers.tolist(), sources, strict=True)
            ]
        )

    def step(self, worlds: Worlds, force: FloatArray) -> None:
        """Moves everything by one step.

        Args:
            worlds: changed in place.
            force: float64 [E, 2, W], of the agents' actions; used up.
        """
        if self._touchable:
            self._add_contact(worlds.positions, force)
        if not self._moving:
            return
        movers = self._movers
        velocity = worlds.velocities[movers]
        # The position takes the old velocity: every action acts one step later.
        worlds.positions[movers] += velocity * TIME_STEP
        velocity *= 1 - DAMPING
        force = force[movers]
        force *= TIME_STEP
        velocity += force
        if self._limited:
            speed = length(velocity)
            fast = speed > self._max_speed
            if fast.any():
                body, world = fast.nonzero()
                excess = speed[body, world][:, None]
                velocity[body, :, world] /= excess
                velocity[body, :, world] *= self._max_speed[body]
        if not isinstance(movers, slice):
            worlds.velocities[movers] = velocity

    def _add_contact(self, positions: FloatArray, force: FloatArray) -> None:
        apart = positions[self._ones]
        apart -= positions[self._others]
        distance = length(apart)
        overlap = self._reach - distance
        overlap /= CONTACT_MARGIN
        # A soft maximum with 0: overlap where it is large, almost 0 where it is negative.
        overlap = np.logaddexp(0, overlap)
        overlap *= CONTACT_MARGIN
        if not overlap.any():
            return
        # Where centres coincide no direction is right, and the force is 0.
        np.maximum(distance, np.finfo(np.float64).tiny, out=distance)
        apart *= CONTACT_FORCE
        apart /= distance[:, None]
        apart *= overlap[:, None]
        pushes = apart[self._pair_of]
        pushes *= self._sign[:, :, None, None]
        total = force[self._receivers]
        for source in range(pushes.shape[1]):
            total += pushes[:, source]
        force[self._receivers] = total
