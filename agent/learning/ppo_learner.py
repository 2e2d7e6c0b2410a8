"""RLlib's PPO learner, relieved of what is not arithmetic."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import ALL_MODULES
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    CONNECTOR_PIPELINE_TIMER,
    LEARNER_CONNECTOR,
    LEARNER_CONNECTOR_SUM_EPISODES_LENGTH_IN,
    LEARNER_CONNECTOR_SUM_EPISODES_LENGTH_OUT,
    MODULE_TRAIN_BATCH_SIZE_MEAN,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from torch import Tensor

from agent.learning.adam import FlatAdam
from agent.learning.minibatches import Minibatch, Minibatches, Rows, are_rows
from agent.learning.train_batch import NotInArrays, check_pipeline, steps_of, train_batch

logger = logging.getLogger(__name__)

#: Methods of RLlib's learner that may be overridden to change gradients.
_GRADIENT_HOOKS = (
    "compute_gradients",
    "postprocess_gradients",
    "postprocess_gradients_for_module",
    "apply_gradients",
    "_get_clip_function",
)


class PPOLearner(PPOTorchLearner):
    """RLlib's PPO learner, with the same results in less time.

    Set it with ``config.learners(learner_class=PPOLearner)``. After the same episodes and with the
    same seeds, weights, optimizer state, KL coefficients and metrics are those of RLlib's own
    learner, to the last bit on a CPU; only the times of single connectors are not among the
    metrics. What is different:

    * the train batch is made of the episodes' arrays at once, and the episodes stay as they are;
    * minibatches are parts of tensors that are put in order once an epoch;
    * what only metrics need is computed in the last minibatch of an update, the only one whose
      values RLlib keeps;
    * gradients are clipped, checked and applied side by side in one tensor.

    Where that cannot be, RLlib's way is taken, and the log says why: networks with state, several
    learners, GPUs, learner connectors of your own (for the batch only), gradient scalers, schedules
    of PyTorch's, compiled learners.

    Subclasses may override ``compute_loss_for_module`` and the methods around gradients as those of
    RLlib's learner; with other gradients than these, RLlib's way of applying them is taken.
    """

    @override(PPOTorchLearner)
    def build(self) -> None:
        super().build()
        #: Whether the present minibatch can go without metrics.
        self._is_quiet = False
        self._minibatches: Minibatches | None = None
        #: A batch by RLlib's connectors that RLlib's minibatches are to be of.
        self._made: Any = None
        self._own_gradients = all(
            getattr(type(self), name) in (getattr(TorchLearner, name), getattr(PPOLearner, name))
            for name in _GRADIENT_HOOKS
        )
        self._adams: dict[torch.optim.Optimizer, FlatAdam] = {}
        self._said: set[str] = set()

    # -- one update -----------------------------------------------------------------------

    @override(PPOTorchLearner)
    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, **kwargs: Any
    ) -> Iterable[Any]:
        self._is_quiet = False
        self._minibatches = self._made = None
        # An optimizer's state may have been replaced since.
        self._adams = {}
        obstacle = self._obstacle(training_data, kwargs)
        batch: dict[str, Any] = {}
        if not obstacle:
            batch, steps = self._batch(training_data)
            if not are_rows(batch):
                obstacle = "its batches have columns that are no tensors, or no loss mask"
        if obstacle:
            self._say(f"PPO learns in RLlib's own way: {obstacle}")
            batches: Iterable[Any] = super()._create_iterator_if_necessary(
                training_data=training_data, **kwargs
            )
            return batches
        self._made = None
        batch = {name: rows for name, rows in batch.items() if self._is_trained(name, batch)}
        if not batch:
            return {}
        modules: Any = self.module
        for name in batch:
            modules[name].train()
        epochs = kwargs.get("num_epochs", 1)
        self._minibatches = Minibatches(
            batch,
            steps=steps,
            size=kwargs.get("minibatch_size"),
            epochs=epochs,
            shuffle=kwargs.get("shuffle_batch_per_epoch", False) and epochs > 1,
        )
        return self._iterate(self._minibatches)

    def _iterate(self, minibatches: Minibatches) -> Iterable[Minibatch]:
        for minibatch in minibatches:
            self._is_quiet = not minibatch.is_last
            yield minibatch
        self._is_quiet = False

    def _obstacle(self, training_data: TrainingData, settings: Mapping[str, Any]) -> str:
        """Why RLlib's way is to be taken; empty if it need not be."""
        config: Any = self.config
        if not training_data.episodes:
            return "what it learns from are no episodes"
        if config.num_learners > 1 or settings.get("num_total_minibatches"):
            return "several learners"
        if torch.device(self._device or "cpu").type != "cpu":
            return f"its device is {self._device}"
        if config.torch_compile_learner:
            return "the learner is compiled"
        if self._grad_scalers is not None or self._lr_scheduler_classes is not None:
            return "a gradient scaler, or a schedule of PyTorch's"
        if not all(isinstance(module, TorchRLModule) for module in self.module.values()):
            return "a network that is none of PyTorch's"
        if self.module.is_stateful():
            return "a network with state"
        return ""

    def _is_trained(self, name: str, batch: Mapping[str, Any]) -> bool:
        return bool(self.should_module_be_updated(name, batch))

    def _batch(self, training_data: TrainingData) -> tuple[dict[str, Any], int]:
        """The train batch by module and column, and its environment steps."""
        pipeline: Any = self._learner_connector
        episodes: Any = training_data.episodes
        length = sum(map(len, episodes))
        try:
            check_pipeline(pipeline)
            with self.metrics.log_time((ALL_MODULES, LEARNER_CONNECTOR, CONNECTOR_PIPELINE_TIMER)):
                found = train_batch(episodes, self.module, pipeline, self._device)
        except NotInArrays as reason:
            self._say(f"PPO's batches are made in RLlib's own way: {reason}")
            made: Any = self._make_batch_if_necessary(training_data=training_data)
            # Connectors change episodes, and can not be asked for the same batch again.
            self._made = made
            return {name: dict(rows) for name, rows in made.policy_batches.items()}, len(made)
        steps = steps_of(episodes)
        self.metrics.log_value((ALL_MODULES, LEARNER_CONNECTOR_SUM_EPISODES_LENGTH_IN), length)
        self.metrics.log_value((ALL_MODULES, LEARNER_CONNECTOR_SUM_EPISODES_LENGTH_OUT), steps)
        return found, steps

    @override(PPOTorchLearner)
    def _make_batch_if_necessary(self, training_data: TrainingData) -> Any:
        made, self._made = self._made, None
        return made if made is not None else super()._make_batch_if_necessary(training_data)

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            logger.warning(message)

    # -- one minibatch --------------------------------------------------------------------

    @override(PPOTorchLearner)
    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> Any:
        if not self._is_quiet:
            return super()._uncompiled_update(batch, **kwargs)
        modules: Any = self.module
        outputs = {}
        for name, rows in batch.items():
            module = modules[name]
            is_usual = type(module).forward_train is TorchRLModule.forward_train
            # Whose usual one puts the module into the mode for training, in which it is already.
            outputs[name] = (module._forward_train if is_usual else module.forward_train)(rows)
        losses = self.compute_losses(fwd_out=outputs, batch=batch)
        if not self._own_gradients or not self._learn(losses):
            gradients = self.compute_gradients(losses)
            self.apply_gradients(self.postprocess_gradients(gradients))
        return outputs, losses, {}

    @override(PPOTorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: Any, fwd_out: dict[str, Any]
    ) -> Any:
        if not self._is_quiet or not isinstance(batch, Rows):
            loss: Any = super().compute_loss_for_module(
                module_id=module_id, config=config, batch=batch, fwd_out=fwd_out
            )
            return loss
        module: Any = self.module[module_id].unwrapped()
        valid, num_valid = batch.valid, batch.num_valid

        def mean(values: Tensor) -> Tensor:
            chosen = values if valid is None else values.index_select(0, valid)
            return chosen.sum() / num_valid

        # In the order of RLlib's loss, or gradients would be summed up in another one.
        now = module.get_train_action_dist_cls().from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        ratio = torch.exp(now.logp(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP])
        divergence = None
        if config.use_kl_loss:
            before = module.get_exploration_action_dist_cls().from_logits(
                batch[Columns.ACTION_DIST_INPUTS]
            )
            divergence = mean(before.kl(now))
        entropy = now.entropy()
        advantages = batch[Postprocessing.ADVANTAGES]
        clipped = torch.clamp(ratio, 1 - config.clip_param, 1 + config.clip_param)
        surrogate = torch.min(advantages * ratio, advantages * clipped)
        value_loss: Any = torch.tensor(0.0)
        if config.use_critic:
            values = module.compute_values(batch, embeddings=fwd_out.get(Columns.EMBEDDINGS))
            error = torch.pow(values - batch[Postprocessing.VALUE_TARGETS], 2.0)
            value_loss = torch.clamp(error, 0, config.vf_clip_param)
        schedulers: Any = self.entropy_coeff_schedulers_per_module
        coefficient = schedulers[module_id].get_current_value()
        total = mean(-surrogate + config.vf_loss_coeff * value_loss - (coefficient * entropy))
        if divergence is not None:
            coefficients: Any = self.curr_kl_coeffs_per_module
            total += coefficients[module_id] * divergence
        return total

    def _learn(self, losses: Mapping[str, Tensor]) -> bool:
        """One step of every optimizer; False, with nothing done, where RLlib's way is needed."""
        work = []
        for name in self.module.keys():  # noqa: SIM118 - a MultiRLModule is no mapping
            config: Any = self.config.get_config_for_module(name)
            clip = config.grad_clip
            if clip and config.grad_clip_by == "norm":
                return False
            for _, optimizer in self.get_optimizers_for_module(name):
                adam = self._adam(optimizer)
                if adam is None:
                    return False
                work.append((adam, clip, config.grad_clip_by))
        total = sum(losses.values())
        if not isinstance(total, Tensor) or total.grad_fn is None:
            return False
        parameters = [parameter for adam, _, _ in work for parameter in adam.parameters]
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        steps = []
        start = 0
        with torch.no_grad():
            for adam, clip, way in work:
                own = gradients[start : start + len(adam.parameters)]
                start += len(adam.parameters)
                gradient = _side_by_side(own)
                if gradient is None:
                    of_all: Any = dict(zip(parameters, gradients, strict=True))
                    self.apply_gradients(self.postprocess_gradients(of_all))
                    return True
                if clip and way == "value":
                    gradient.clamp_(-clip, clip)
                elif clip:
                    norm = torch.norm(torch.stack(torch._foreach_norm(own, 2.0)), 2.0)
                    factor = clip / torch.clamp(norm + 1e-6, min=clip)
                    gradient.mul_(torch.clamp(factor, max=1.0))
                steps.append((adam, gradient))
            for adam, gradient in steps:
                adam.step(gradient)
        return True

    def _adam(self, optimizer: torch.optim.Optimizer) -> FlatAdam | None:
        adam = self._adams.get(optimizer)
        if adam is None and FlatAdam.suits(optimizer) and FlatAdam.is_ready(optimizer):
            adam = self._adams[optimizer] = FlatAdam(optimizer)  # type: ignore[arg-type]
        return adam

    # -- metrics --------------------------------------------------------------------------

    @override(PPOTorchLearner)
    def _set_slicing_by_batch_id(self, batch: Any, *, value: bool) -> Any:
        if self._minibatches is not None:
            return batch
        return super()._set_slicing_by_batch_id(batch, value=value)

    @override(PPOTorchLearner)
    def _log_metrics(self, batch: Any) -> None:
        if self._minibatches is None:
            super()._log_metrics(batch)
        elif batch.is_last:
            number = self._minibatches.count
            rows = sum(map(_length, batch.policy_batches.values()))
            self._metrics_all_modules_num_env_steps_trained.inc(value=number * batch.env_steps())
            self._metrics_all_modules_num_module_steps_trained.inc(value=number * rows)

    @override(PPOTorchLearner)
    def _log_steps_trained_metrics(self, batch: Any) -> None:
        if self._minibatches is None:
            super()._log_steps_trained_metrics(batch)
            return
        if not batch.is_last:
            return
        number = self._minibatches.count
        for name, rows in batch.policy_batches.items():
            size = _length(rows)
            self.metrics.log_value((name, WEIGHTS_SEQ_NO), self._weights_seq_no, window=1)
            self.metrics.log_value((name, MODULE_TRAIN_BATCH_SIZE_MEAN), size, reduce="mean")
            self._add_up((name, NUM_MODULE_STEPS_TRAINED), number * size, throughput=False)
            self._add_up((name, NUM_MODULE_STEPS_TRAINED_LIFETIME), number * size)
            self._add_up((ALL_MODULES, NUM_MODULE_STEPS_TRAINED), number * size)
            self._add_up((ALL_MODULES, NUM_MODULE_STEPS_TRAINED_LIFETIME), number * size)
        self._add_up((ALL_MODULES, NUM_ENV_STEPS_TRAINED), number * batch.env_steps())
        self._add_up((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), number * batch.env_steps())

    def _add_up(self, key: tuple[str, str], value: int, throughput: bool = True) -> None:
        way = "lifetime_sum" if key[1].endswith("_lifetime") else "sum"
        self.metrics.log_value(key, value, reduce=way, with_throughput=throughput or None)


def _length(rows: Rows) -> int:
    return len(rows[Columns.LOSS_MASK])


def _side_by_side(gradients: Sequence[Tensor | None]) -> Tensor | None:
    """Gradients in one tensor [numbers]; None where one is missing or not finite."""
    parts = [gradient.reshape(-1) for gradient in gradients if gradient is not None]
    if len(parts) < len(gradients):
        return None
    joined = torch.cat(parts)
    # A sum that is too large only takes RLlib's way, which looks at every number.
    return joined if math.isfinite(joined.sum().item()) else None
