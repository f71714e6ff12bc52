"""The token-level methods that are the surrogate of `surrogate.py` with their own paper's settings.

Their papers pass over each batch once, in several mini-batches; here an update is a whole batch, so the clip acts on
stale groups and from the second epoch on.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from tpo_dist.objective.advantages import AdvantageKind
from tpo_dist.objective.surrogate import Aggregation, Surrogate


@dataclass(frozen=True, slots=True, kw_only=True)
class DAPO(Surrogate):
    """Clip-higher and a mean over all tokens of the batch, no KL (arXiv 2503.14476, Eq. 8; sections 3.1 and 3.3).

    Its dynamic sampling and overlong shaping choose prompts and scores; they are no part of the loss.
    """

    clip_high: float | None = 0.28
    """The ratio is clipped to at most 1 + clip_high."""

    advantage: ClassVar[AdvantageKind] = "group_standardised"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrGRPO(Surrogate):
    """GRPO without its std and without its length normalisation (arXiv 2503.20783, section 3.2).

    Sum over the tokens of a candidate divided by a constant, mean over candidates. The paper's equation has the
    constant 1; its code divides by the token budget (3000), which only rescales the learning rate.
    """

    aggregation: Aggregation = "constant_length"
    """token_mean, sequence_mean or constant_length."""

    advantage: ClassVar[AdvantageKind] = "group_mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFunction(Surrogate):
    """loss = -mean over candidates of sum_t A_t log pi_t: REINFORCE, which the methods below give their baselines."""

    clip_low: float | None = None
    """The ratio is clipped to at least 1 - clip_low; None for the plain score function."""
    clip_high: float | None = None
    """The ratio is clipped to at most 1 + clip_high; None for the plain score function."""
    aggregation: Aggregation = "constant_length"
    """token_mean, sequence_mean or constant_length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RLOO(ScoreFunction):
    """REINFORCE Leave-One-Out: the baseline is the mean of the other candidates (arXiv 2402.14740, section 2).

    Sum over tokens, mean over candidates. The paper also puts a KL into the reward, with a weight tuned by task.
    """

    advantage: ClassVar[AdvantageKind] = "leave_one_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReMax(ScoreFunction):
    """REINFORCE whose baseline is the score of the greedy completion (arXiv 2310.10505, Algorithm 1).

    Sum over tokens, mean over candidates. The paper also puts a KL into the reward, with a weight tuned by task.
    """

    advantage: ClassVar[AdvantageKind] = "greedy"
    min_group_size: ClassVar[int] = 1
    needs_greedy: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRL(ScoreFunction):
    """A = (r - mean) / mean: the gradient of a truncated maximum likelihood of success (arXiv 2602.02710).

    Sum over tokens, mean over candidates. Groups without any success have no gradient; rewards are 0 or more.
    """

    advantage: ClassVar[AdvantageKind] = "mean_relative"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforcePP(Surrogate):
    """REINFORCE++: A_t = r - beta sum_{i>=t} KL_i, whitened over the tokens of the batch (arXiv 2501.03262).

    Mean over all tokens of the batch, PPO's clip, KL in the reward. No group is needed.
    """

    reward_beta: float = 0.01
    """Weight of log pi_old - log pi_ref in the reward."""

    advantage: ClassVar[AdvantageKind] = "returns_whitened"
    min_group_size: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforcePPBaseline(Surrogate):
    """REINFORCE++ with a group baseline: r - mean, whitened over the tokens of the batch (arXiv 2501.03262).

    Mean over all tokens of the batch, PPO's clip, KL in the loss by its k2 estimator.
    """

    beta: float = 0.001
    """Weight of the KL to the reference policy in the loss."""
    kl: Literal["k2", "k3"] = "k2"
    """Estimator of that KL."""

    advantage: ClassVar[AdvantageKind] = "batch_whitened"
