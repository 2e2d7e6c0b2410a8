"""The next sample, taken while the learner works on the last one."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from farsim.errors import InvalidOption


class SamplesAhead:
    """For an env runner class to inherit before RLlib's: samples between its ``sample`` calls.

    With ``env_config["sample_ahead"]`` an env runner begins its next sample as soon as the last
    one has been fetched with its metrics, and goes on with the weights that it has until that
    sample is complete; only then does it take new ones. Simulators and learner work at the same
    time, and what the learner gets was chosen with the weights from before its last update:
    algorithms that take that into account (PPO by its ratio of probabilities, IMPALA and APPO by
    V-trace, DQN and SAC always) learn from it nearly as well, others may not. Results still depend
    on seeds alone.

    Only env runners with a process of their own do it, as the learner would draw from the same
    random numbers; evaluation never does.
    """

    config: Any
    worker_index: Any
    num_workers: Any

    #: The sample that is on its way, or there but not asked for yet; what was asked of the last.
    _ahead: Future[Any] | None = None
    _asked: dict[str, Any] | None = None
    _thread: threading.Thread | None = None

    def may_sample_ahead(self, wanted: bool) -> None:
        """Settles whether it does; to be called when environments are made.

        Raises:
            InvalidOption: it is wanted, and the runner shares its process with the learner.
        """
        if wanted and not self.num_workers:
            raise InvalidOption(
                "env_config['sample_ahead'] needs env runners with processes of their own: give "
                "at least one (num_env_runners=1, --env-runners 1)",
                "sample_ahead",
            )
        self._samples_ahead = wanted and bool(self.worker_index) and not self.config.in_evaluation

    def sample(self, **how: Any) -> Any:
        """As RLlib's; what has been sampled ahead, if that is what is asked for."""
        self.settle()
        ahead = self._ahead
        if ahead is not None and how == self._asked:
            self._ahead = None
            return ahead.result()
        self._asked = how
        return super().sample(**how)  # type: ignore[misc]

    def sample_next(self) -> None:
        """Begins the next sample; to be called once the metrics of the last have been fetched."""
        if self._samples_ahead and self._ahead is None and _goes_on(self._asked):
            self._ahead = Future()
            self._thread = threading.Thread(
                target=self._sample_ahead, args=(self._ahead, self._asked), name="sample ahead"
            )
            self._thread.start()

    def get_state(self, *args: Any, **kwargs: Any) -> Any:
        self.settle()
        return super().get_state(*args, **kwargs)  # type: ignore[misc]

    def set_state(self, state: Any) -> None:
        self.settle()
        super().set_state(state)  # type: ignore[misc]

    def stop(self) -> None:
        self.settle()
        super().stop()  # type: ignore[misc]

    def settle(self) -> None:
        """Waits until nothing is on its way; what went wrong is for ``sample`` to say."""
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()
            self._thread = None

    def _sample_ahead(self, ahead: Future[Any], asked: dict[str, Any]) -> None:
        try:
            ahead.set_result(super().sample(**asked))  # type: ignore[misc]
        except BaseException as error:
            ahead.set_exception(error)


def _goes_on(asked: dict[str, Any] | None) -> bool:
    """Whether the next sample is likely to be asked for in the same way as the last."""
    return asked is not None and not (asked.get("num_episodes") or asked.get("force_reset"))
