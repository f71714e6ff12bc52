"""Optimizers, off-policy corrections and learning-rate schedules by name."""

import math
from typing import Any, get_type_hints

import torch

from tpo_dist.components import build
from tpo_dist.config import CorrectionConfig, OptimizerConfig, ScheduleConfig
from tpo_dist.errors import UsageError
from tpo_dist.learner.master_weights import MasterAdamW, moments
from tpo_dist.learner.muon import MuonAdam
from tpo_dist.objective import CORRECTIONS, Correction
from tpo_dist.policies.contract import Policy


def make_optimizer(config: OptimizerConfig, policy: Policy) -> torch.optim.Optimizer:
    """Muon with Adam, routed by the policy's matrix views, or AdamW for everything.

    Raises UsageError for Muon on weights in low precision.
    """
    betas = (config.beta1, config.beta2)
    parameters = list(policy.published_parameters().values())
    low = any(parameter.dtype == torch.bfloat16 for parameter in parameters)
    if config.name == "muon":
        if low:
            reason = "it keeps no float32 copy of weights in bfloat16, whose steps would round to nothing"
            raise UsageError("learner.optimizer.name = 'muon'", reason, "give adamw, or policy.dtype=float32")
        return MuonAdam(
            policy.published_parameters().items(),
            policy.matrix_views(),
            lr=config.lr,
            momentum=config.momentum,
            betas=betas,
            eps=config.eps,
            damping=config.damping,
        )
    options: dict[str, Any] = {"lr": config.lr, "betas": betas, "eps": config.eps, "weight_decay": config.weight_decay}
    if low:
        return MasterAdamW(parameters, **options)
    adamw = torch.optim.AdamW(parameters, **options, foreach=True)
    for parameter in parameters:
        adamw.state[parameter] = moments(parameter)
    return adamw


def make_correction(config: CorrectionConfig) -> Correction | None:
    """The correction with its own options; None where every token counts fully."""
    if config.name == "none":
        return None
    given = config.model_dump()
    kind = CORRECTIONS[config.name]
    options = {name: given[name] for name in get_type_hints(kind)}
    return build("learner.correction", kind, options)


class LearningRate:
    """The learning rate of each step, a pure function of the step."""

    def __init__(self, peak: float, schedule: ScheduleConfig, steps: int) -> None:
        self._peak, self._schedule, self._steps = peak, schedule, steps

    def at(self, step: int) -> float:
        """The rate of step 0, 1, …; the last step of a decay still has a rate above its end value."""
        schedule = self._schedule
        if step < schedule.warmup_steps:
            return self._peak * (step + 1) / (schedule.warmup_steps + 1)
        progress = min(1.0, (step - schedule.warmup_steps) / (self._steps - schedule.warmup_steps))
        shape = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}
        final = 1.0 if schedule.name == "constant" else schedule.final_fraction
        return self._peak * (final + (1.0 - final) * shape[schedule.name])
