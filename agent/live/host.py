"""What all calls and sessions of one server of policies share."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.live.batching import Batcher
from agent.live.inference import EpisodeSink
from agent.live.limits import Limits
from agent.live.metrics import Metrics
from agent.live.policies import Policies
from farsim.errors import FarsimError, InternalError, to_proto
from farsim.v1 import policy_pb2 as pb
from farsim.v1 import simulator_pb2

logger = logging.getLogger(__name__)


@dataclass
class Host:
    """What all calls and sessions of a server share.

    Attributes:
        policies: who acts for whom.
        batcher: who is asked.
        limits: the server's.
        metrics: where to count.
        sinks: whom to tell of what is lived through.
        modes: those that sessions may have.
        greedy: how actions are chosen where the client leaves it open.
        debug: whether tracebacks reach clients.
        is_draining: whether the server is about to stop.
        episodes: how many run, over all sessions.
    """

    policies: Policies
    batcher: Batcher
    limits: Limits
    metrics: Metrics
    sinks: Sequence[EpisodeSink] = ()
    modes: Sequence[pb.LiveMode] = (pb.LIVE_MODE_SERVE, pb.LIVE_MODE_SHADOW)
    greedy: bool = True
    debug: bool = False
    is_draining: bool = False
    episodes: int = field(default=0, init=False)

    def wire_error(self, error: Exception) -> simulator_pb2.Error:
        """The message for an error; one that nobody raises on purpose is logged."""
        trace = "".join(traceback.format_exception(error)) if self.debug else ""
        if not isinstance(error, FarsimError):
            logger.exception("an event or call failed", exc_info=error)
            error = InternalError(f"{type(error).__name__}: {error}")
        message = to_proto(error, trace)
        self.metrics.refused(simulator_pb2.ErrorCode.Name(message.code))
        return message
