"""What a batch says of the rollouts and of the objective's signal, as metrics that any run logs."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpo_dist.metrics import Histogram, Max, Mean, Metrics, Sum
from tpo_dist.objective import Groups, mean_kl, zero_variance
from tpo_dist.records import ScoredGroups, StopReason, pad

_LONGEST_LAG = 8


def signal_metrics(groups: Groups, signal: Tensor) -> dict[str, Mean | Sum | Max]:
    """Mean size of the signal on candidates that won (score above 1/2) and lost: target mass q where there is a
    target, |A| where there are advantages (arXiv 2604.06159, figure 10)."""
    size_GK = signal.abs()
    if size_GK.ndim == 3:
        counts = groups.mask_GKT.sum(dim=-1).clamp(min=1)
        size_GK = torch.where(groups.mask_GKT, size_GK, 0.0).sum(dim=-1) / counts
    parts = {"winners": groups.scores_GK > 0.5, "losers": groups.scores_GK <= 0.5}
    found: dict[str, Mean | Sum | Max] = {}
    for name, who in parts.items():
        chosen = who & groups.present_GK
        found[f"signal_on_{name}"] = Mean(float(size_GK[chosen].sum(dtype=torch.float64)), int(chosen.sum()))
    return found


def score_metrics(record: ScoredGroups, groups: Groups) -> dict[str, Mean | Sum | Max]:
    """What the rollout workers achieved, and what it cost them."""
    scores = _followed(record)
    count, groups_seen = scores.size, len(groups.scores_GK)
    fails_G = ((groups.scores_GK <= 0) | ~groups.present_GK).all(dim=1)
    metrics: dict[str, Mean | Sum | Max] = {
        "reward": Mean(float(scores.sum(dtype="float64")), count),
        "error": Mean(float((1.0 - scores).sum(dtype="float64")), count),
        "zero_variance": Mean(float(zero_variance(groups.scores_GK, groups.present_GK).sum()), groups_seen),
        "all_fail": Mean(float(fails_G.sum()), groups_seen),
        "completion_length": Mean(float(record.lengths.sum()), record.lengths.size),
    }
    metrics.update(_wrong_concentration(record))
    metrics.update(_text_metrics(record))
    metrics.update({name: Sum(float(seconds.sum())) for name, seconds in record.info.items()})
    return metrics


def mismatch_metrics(learner_GKT: Tensor, sampler_GKT: Tensor, live_GKT: Tensor) -> dict[str, Mean | Sum | Max]:
    """How far the log-probs of one and the same weights differ between learner and sampling engine, in nats: per token,
    and summed over each candidate. NaN for the learner: it did not look."""
    seen_GKT = live_GKT & learner_GKT.isfinite()
    gap_GKT = torch.where(seen_GKT, learner_GKT.double() - sampler_GKT.double(), 0.0)
    tokens, sequences = int(seen_GKT.sum()), int(seen_GKT.any(dim=-1).sum())
    if tokens == 0:
        return {}
    return {
        "mismatch_token": Mean(float(gap_GKT.abs().sum()), tokens),
        "mismatch_sequence": Mean(float(gap_GKT.sum(dim=-1).abs().sum()), sequences),
        "mismatch_max": Max(float(gap_GKT.abs().max())),
    }


def reference_metrics(groups: Groups) -> dict[str, Mean | Sum | Max]:
    """How far the snapshots that sampled a batch have gone from the reference: k3 in nats per token."""
    tokens = int(groups.live.sum())
    return {"reference_kl": Mean(float(mean_kl(groups.old_logps_GKT.double(), groups)) * tokens, tokens)}


def lag_metrics(record: ScoredGroups, lag_G: NDArray[np.int64]) -> Metrics:
    """How stale groups are, in publications, and what those of each age achieved."""
    found: dict[str, Mean | Sum | Max | Histogram] = {
        "staleness": Histogram(tuple(float(lag) for lag in lag_G)),
        "staleness_max": Max(float(lag_G.max())),
    }
    for lag in np.unique(lag_G[lag_G <= _LONGEST_LAG]):
        scores = _followed(record)[lag_G == lag]
        found[f"reward_lag_{lag}"] = Mean(float(scores.sum(dtype="float64")), scores.size)
    return found


def _text_metrics(record: ScoredGroups) -> dict[str, Mean | Sum | Max]:
    """Where completions end by themselves, how many were cut off; the reward of each source, and each of its parts."""
    found: dict[str, Mean | Sum | Max] = {}
    if (record.stop_reasons != StopReason.FIXED).any():
        found["cut_off"] = Mean(float((record.stop_reasons == StopReason.LENGTH).sum()), record.stop_reasons.size)
        found["completion_length_max"] = Max(float(record.lengths.max()))
    if record.sources is not None:
        for source in np.unique(record.sources):
            scores = record.scores[record.sources == source]
            found[f"reward/{source.decode()}"] = Mean(float(scores.sum(dtype="float64")), scores.size)
    for name, means in record.parts.items():
        known = means[~np.isnan(means)]
        found[f"part/{name}"] = Mean(float(known.sum()), len(known))
    return found


def _followed(record: ScoredGroups) -> NDArray[np.float32]:
    """Scores of the candidates that count as answers: alternatives at single positions were never followed."""
    return record.scores[:, :1] if record.token_level else record.scores


def _wrong_concentration(record: ScoredGroups) -> dict[str, Mean]:
    """How far wrong candidates are one and the same: over groups with wrong candidates, the share that the most
    frequent of them has among the wrong ones (arXiv 2604.06159, section 3.3, on draws instead of probabilities)."""
    if record.token_level or record.group_size < 2:
        return {}
    tokens = pad(record.tokens, record.lengths)
    codes = np.unique(tokens.reshape(-1, tokens.shape[-1]), axis=0, return_inverse=True)[1].reshape(record.scores.shape)
    wrong = record.scores < 1.0
    same = (codes[:, :, None] == codes[:, None, :]) & wrong[:, None, :] & wrong[:, :, None]
    counts, most = wrong.sum(axis=1), same.sum(axis=2).max(axis=1)
    some = counts > 0
    return {"wrong_concentration": Mean(float((most[some] / counts[some]).sum()), int(some.sum()))}
