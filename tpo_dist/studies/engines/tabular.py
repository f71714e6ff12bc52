"""The tabular bandits of arXiv 2604.06159: a table of logits, moved by normalised steps, all seeds at once.

Shapes: S seeds, N contexts, C arms, B samples. Everything is float64. The right arm is arm 0: the logits start alike
or at random, so which one it is does not matter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpo_dist.components import build
from tpo_dist.errors import UsageError
from tpo_dist.objective import bandit
from tpo_dist.studies.engines.draws import count_arms, step_uniforms

Curves = dict[str, NDArray[np.float64]]
_REPORT_EVERY = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class OneContext:
    """Section 3.1: one context, sampled updates, logits that start at 0."""

    method: bandit.PooledMethod = "tpo"
    arms: int = 100
    samples: int = 100
    """Arms drawn per step."""
    step_size: float = 0.1
    """Length of each step in the logits."""
    baseline: float = 0.5
    """What PG, DG and TPO subtract from the reward."""
    eta: float = 1.0
    """Temperature of TPO's target and of DG's gate."""

    def __post_init__(self) -> None:
        _check_sizes(self, arms=2, samples=1)
        _check_positive(self, "step_size", "eta")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyContexts:
    """Section 3.2: independent contexts share one normalised step; exact expected updates, N(0, 1) logits."""

    method: bandit.PopulationMethod = "tpo"
    contexts: int = 100
    arms: int = 10
    step_size: float = 0.1
    """Length of each step in the logits of all contexts together."""
    initial_logits: list[list[float]] | None = None
    """[contexts][arms]; null: drawn from N(0, 1) with the seed."""

    def __post_init__(self) -> None:
        _check_sizes(self, arms=2, contexts=1)
        _check_positive(self, "step_size")
        rows = self.initial_logits
        if rows is not None and (len(rows) != self.contexts or any(len(row) != self.arms for row in rows)):
            reason = f"there are contexts = {self.contexts} of arms = {self.arms} each"
            raise UsageError("initial_logits", reason, "give one row per context and one number per arm")


def simulate_one_context(
    setting: Mapping[str, object], seeds: Sequence[int], steps: int, report: Callable[[int], None]
) -> list[Curves]:
    """For each seed: `step` (updates done before it, 0 first), `error` 1 - pi(y*) before the update, and
    `misalignment` 1 - cos(field, exact policy gradient) of the update. Keys of `setting`: fields of `OneContext`."""
    options = build("setting", OneContext, setting)
    logits_SC = torch.zeros(len(seeds), options.arms, dtype=torch.float64)
    rewards_C = bandit.one_hot(torch.tensor(0), logits_SC)
    uniforms_SNB = step_uniforms(seeds, 0, steps, options.samples)
    errors, misalignments = [], []
    for step in range(steps):
        probs_SC = torch.softmax(logits_SC, dim=-1)
        counts_SC = count_arms(probs_SC, uniforms_SNB[:, step].contiguous())
        field_SC = bandit.pooled_field(
            options.method,
            torch.log_softmax(logits_SC, dim=-1),
            counts_SC,
            rewards_C,
            baseline=options.baseline,
            eta=options.eta,
        )
        errors.append(1 - probs_SC[:, 0])
        oracle_SC = probs_SC[:, :1] * (rewards_C - probs_SC)
        misalignments.append(bandit.misalignment(field_SC, oracle_SC, (-1,)))
        logits_SC = bandit.normalised_step(logits_SC, field_SC, options.step_size, (-1,))
        _tell(report, step + 1, steps, len(seeds))
    return _curves(np.arange(steps), error=errors, misalignment=misalignments)


def simulate_many_contexts(
    setting: Mapping[str, object], seeds: Sequence[int], steps: int, report: Callable[[int], None]
) -> list[Curves]:
    """For each seed: `step` (updates done, 1 first), mean `error` 1 - pi(y) after the update, and `misalignment`
    1 - cos(field, cross-entropy's field) of the update. Keys of `setting`: fields of `ManyContexts`."""
    options = build("setting", ManyContexts, setting)
    logits_SNC = torch.stack([_initial_logits(options, seed) for seed in seeds])
    right_C = bandit.one_hot(torch.tensor(0), logits_SNC)
    probs_SNC = torch.softmax(logits_SNC, dim=-1)
    errors, misalignments = [], []
    for step in range(steps):
        oracle_SNC = right_C - probs_SNC
        weights_SN = bandit.population_weights(options.method, probs_SNC[..., 0], options.arms)
        field_SNC = weights_SN.unsqueeze(-1) * oracle_SNC
        misalignments.append(bandit.misalignment(field_SNC, oracle_SNC, (-2, -1)))
        logits_SNC = bandit.normalised_step(logits_SNC, field_SNC, options.step_size, (-2, -1))
        probs_SNC = torch.softmax(logits_SNC, dim=-1)
        errors.append(1 - probs_SNC[..., 0].mean(dim=-1))
        _tell(report, step + 1, steps, len(seeds))
    return _curves(np.arange(1, steps + 1), error=errors, misalignment=misalignments)


def _initial_logits(options: ManyContexts, seed: int) -> Tensor:
    if options.initial_logits is not None:
        return torch.tensor(options.initial_logits, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(options.contexts, options.arms, dtype=torch.float64, generator=generator)


def _tell(report: Callable[[int], None], done: int, steps: int, seeds: int) -> None:
    if done % _REPORT_EVERY == 0 or done == steps:
        report(done * seeds)


def _curves(step: NDArray[np.int64], **metrics: list[Tensor]) -> list[Curves]:
    """One dict of curves for each seed, from values [S] by step."""
    stacked = {name: torch.stack(values, dim=-1).numpy() for name, values in metrics.items()}
    count = len(next(iter(stacked.values())))
    return [
        {"step": step.astype(np.float64), **{n: rows[s].copy() for n, rows in stacked.items()}} for s in range(count)
    ]


def _check_sizes(options: object, **least: int) -> None:
    for name, bound in least.items():
        if getattr(options, name) < bound:
            raise UsageError(f"{name} = {getattr(options, name)}", f"{bound} is the least", f"give {bound} or more")


def _check_positive(options: object, *names: str) -> None:
    for name in names:
        if not getattr(options, name) > 0:
            raise UsageError(f"{name} = {getattr(options, name)}", "must be positive", "give a number above 0")
