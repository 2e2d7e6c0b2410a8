"""The losses of MADDPG.

R. Lowe, Y. Wu, A. Tamar, J. Harb, P. Abbeel, I. Mordatch, "Multi-Agent Actor-Critic for Mixed
Cooperative-Competitive Environments", NeurIPS 2017, https://arxiv.org/abs/1706.02275.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import POLICY_LOSS_KEY, Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.utils import update_target_network
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS
from ray.rllib.utils.annotations import override
from torch import Tensor

from agent.maddpg.module import MADDPGModule
from agent.maddpg.replay import VALID

#: Metrics of a module; ``POLICY_LOSS_KEY`` is the actor's loss.
CRITIC_LOSS = "critic_loss"
Q_MEAN = "q_mean"
ACTOR_ENTROPY = "actor_entropy"
ACTOR, CRITIC = "actor", "critic"

_TensorDict = dict[str, Tensor]


class MADDPGTorchLearner(TorchLearner):
    """Updates all modules from one batch of joint transitions, as ``JointReplay`` draws it.

    For agent i with observation o_i and action a_i, reward r_i, next observations o' and target
    networks marked ', the critic's loss is the mean square of

        y - Q_i(o_1, a_1, ..., o_N, a_N),  y = r_i + gamma Q'_i(o'_1, a'_1, ..., o'_N, a'_N)

    with a'_j drawn from the target actor j at o'_j (Lowe et al. 2017, equation 6; without the
    second term of y where the agent's episode terminated), and the actor's loss is minus the mean
    of Q_i with a_i drawn anew from the actor and the others' actions as replayed (equation 5).
    A critic that is not centralised sees only o_i and a_i, which is DDPG (T. Lillicrap et al.,
    "Continuous control with deep reinforcement learning", ICLR 2016). Targets follow their
    networks as target <- tau network + (1 - tau) target (ibid., algorithm 1).

    With twin critics y takes the smaller of two estimates (S. Fujimoto, H. van Hoof, D. Meger,
    "Addressing Function Approximation Error in Actor-Critic Methods", ICML 2018, section 4.2).
    """

    @override(TorchLearner)
    def build(self) -> None:
        super().build()
        for module_id in self._module_ids():
            self._net(module_id).make_target_networks()

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        module = self._net(module_id)
        parts = ((ACTOR, module.actor, config.actor_lr), (CRITIC, module.critic, config.critic_lr))
        for name, network, learning_rate in parts:
            parameters = list(network.parameters())
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=torch.optim.Adam(parameters),
                params=parameters,
                lr_or_lr_schedule=learning_rate,
            )

    @override(Learner)
    def should_module_be_updated(self, module_id: str, multi_agent_batch: Any = None) -> bool:
        # Without the batch of a policy that is not trained the others' critics would be blind.
        return True

    @override(Learner)
    def compute_losses(
        self, *, fwd_out: dict[str, Any], batch: dict[str, _TensorDict]
    ) -> dict[str, Tensor]:
        steps = {name: self._step(name, columns) for name, columns in batch.items()}
        before = self.seen_by_others({name: step["before"] for name, step in steps.items()})
        after = self.seen_by_others({name: step["after"] for name, step in steps.items()})
        losses = {}
        for name, columns in batch.items():
            if not self._is_trained(name):
                continue
            outputs = fwd_out[name][Columns.ACTION_DIST_INPUTS]
            losses[name] = self._losses_of(
                name, columns, outputs, steps[name], before.get(name), after.get(name)
            )
        return losses

    @override(TorchLearner)
    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Any]:
        gradients = super().compute_gradients(loss_per_module, **kwargs)
        return {name: gradient for name, gradient in gradients.items() if gradient is not None}

    @override(TorchLearner)
    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().after_gradient_based_update(timesteps=timesteps)
        for module_id in filter(self._is_trained, self._module_ids()):
            config: Any = self.config.get_config_for_module(module_id)
            for network, target in self._net(module_id).get_target_network_pairs():
                update_target_network(main_net=network, target_net=target, tau=config.tau)

    @override(Learner)
    def compute_loss_for_module(self, **kwargs: Any) -> Tensor:
        raise NotImplementedError("critics need the transitions of all modules: compute_losses")

    def _is_trained(self, module_id: str) -> bool:
        """What the configuration's ``policies_to_train`` says."""
        return bool(super().should_module_be_updated(module_id))

    def _module_ids(self) -> list[str]:
        return list(self.module.keys())

    def _net(self, module_id: str) -> MADDPGModule:
        return cast("MADDPGModule", self.module[module_id].unwrapped())

    def _step(self, module_id: str, columns: _TensorDict) -> _TensorDict:
        """What critics see of a module's agents before and after the step, and its parts.

        ``before`` and ``after`` are [n, agents, observation + action], zeros for who is not there.
        """
        module = self._net(module_id)
        valid = columns[VALID][..., None].float()
        actions = module.actions.encode(columns[Columns.ACTIONS]) * valid
        with torch.no_grad():
            outputs = module.forward_target(columns)[TARGET_NETWORK_ACTION_DIST_INPUTS]
            next_actions = module.actions.draw(outputs)
        left = valid * (1 - columns[Columns.TERMINATEDS][..., None].float())
        return {
            "actions": actions,
            "before": torch.cat([columns[Columns.OBS], actions], dim=-1),
            "after": torch.cat([columns[Columns.NEXT_OBS], next_actions], dim=-1) * left,
            "next_actions": next_actions,
        }

    def seen_by_others(self, parts: Mapping[str, Tensor]) -> _TensorDict:
        """What centralised critics see of the agents that are not their owner.

        Args:
            parts: [n, agents, width] for each module.

        Returns:
            [n, agents, numbers] for each module whose critic is centralised: first the agents of
            the same module, then the other modules', always in the same order.
        """
        rests = {}
        for name, own in parts.items():
            if not self._net(name).critic.rest:
                continue
            rows, agents, width = own.shape
            others = [
                part.reshape(rows, 1, -1).expand(rows, agents, -1)
                for other, part in sorted(parts.items())
                if other != name
            ]
            if agents > 1:
                index = [[b for b in range(agents) if b != a] for a in range(agents)]
                alike = own[:, torch.tensor(index, device=own.device)]
                others.insert(0, alike.reshape(rows, agents, (agents - 1) * width))
            rests[name] = torch.cat(others, dim=-1)
        return rests

    def _losses_of(
        self,
        module_id: str,
        columns: _TensorDict,
        outputs: Tensor,
        step: _TensorDict,
        rest: Tensor | None,
        next_rest: Tensor | None,
    ) -> Tensor:
        module = self._net(module_id)
        config: Any = self.config.get_config_for_module(module_id)
        observation = columns[Columns.OBS]
        weight = columns[VALID].float()
        total = weight.sum().clamp(min=1)

        with torch.no_grad():
            following = module.target_critic(
                columns[Columns.NEXT_OBS], step["next_actions"], next_rest
            )
            goes_on = 1 - columns[Columns.TERMINATEDS].float()
            reward = columns[Columns.REWARDS]
            target = reward + config.gamma * goes_on * following.min(dim=0).values
        q = module.critic(observation, step["actions"], rest)
        critic_loss = (((q - target) ** 2) * weight).sum() / total

        # The actor climbs the critic, which must not move for it.
        module.critic.requires_grad_(False)
        drawn = module.actions.draw(outputs)
        climbed = module.critic(observation, drawn, rest)[0]
        module.critic.requires_grad_(True)
        size = (outputs**2).mean(dim=-1)
        actor_loss = ((config.actor_logit_regularisation * size - climbed) * weight).sum() / total

        entropy = module.actions.entropy(outputs.detach())
        self.metrics.log_dict(
            {
                POLICY_LOSS_KEY: actor_loss.detach(),
                CRITIC_LOSS: critic_loss.detach(),
                Q_MEAN: (q[0].detach() * weight).sum() / total,
                ACTOR_ENTROPY: (entropy * weight).sum() / total,
            },
            key=module_id,
            window=1,
        )
        return critic_loss + actor_loss
