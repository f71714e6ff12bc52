"""The learner: target -> loss -> gradient -> step -> snapshot. Runs in any process, with or without Ray."""

import logging
import time

import torch
from torch import Tensor

from tpo_dist.config import LearnerConfig
from tpo_dist.learner.batch import to_tensors
from tpo_dist.learner.gradients import EpochGradients
from tpo_dist.learner.optimizer import LearningRate, make_optimizer
from tpo_dist.metrics import Max, Mean, Metrics, Sum
from tpo_dist.objective import Groups, Objective, zero_variance
from tpo_dist.policies.contract import Policy
from tpo_dist.policies.weights import export_weights
from tpo_dist.records import ScoredGroups, Snapshot, weights_digest

_log = logging.getLogger(__name__)


class Learner:
    """Owns the policy and its optimizer; every update makes one new version of the weights.

    In synchronous mode this is Algorithm 1 of arXiv 2604.06159: build the target of each group from the snapshot that
    sampled it, then take several gradient epochs towards it.
    """

    def __init__(self, policy: Policy, objective: Objective, config: LearnerConfig, steps: int) -> None:
        """`steps`: of the whole run, for the schedule."""
        self.device = torch.device(config.device)
        self.policy = policy.to(self.device).train()
        self.objective = objective
        self.optimizer = make_optimizer(config.optimizer, self.policy)
        self.version = 0
        self.draws_trained = 0
        self._rate = LearningRate(config.optimizer.lr, config.schedule, steps)
        self._epochs = config.epochs or objective.epochs
        self._micro, self._max_norm = config.micro_batch_candidates, config.max_grad_norm
        self._issued: dict[int, str] = {}
        self._warned = False

    def update(self, record: ScoredGroups) -> Metrics:
        """One training step on whole groups; the policy moves to the next version.

        Raises ValueError for groups sampled from weights that this learner never published, and FloatingPointError
        where a gradient is not finite; no step is taken along such a gradient.
        """
        started = time.perf_counter()
        self._check_provenance(record)
        batch = to_tensors(record, self.device)
        gradients = EpochGradients(self.policy, self.objective, batch, self._micro)
        diagnostics = self.objective.diagnostics(batch.groups, gradients.signal)
        self._warn_about(diagnostics)
        rate = self._rate.at(self.version)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        on_policy = bool((record.snapshot_versions == self.version).all())
        losses, norms = [], []
        for epoch in range(self._epochs):
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(gradients.on_policy_epoch() if on_policy and epoch == 0 else gradients.epoch())
            norms.append(self._finish_gradient())
            self.optimizer.step()
        self.version += 1
        self.draws_trained += len(record)
        return {
            **_score_metrics(record, batch.groups),
            **_signal_metrics(batch.groups, gradients.signal),
            **{name: Mean(value) for name, value in diagnostics.items()},
            "loss_first": Mean(losses[0]),
            "loss_last": Mean(losses[-1]),
            "grad_norm_first": Mean(norms[0]),
            "grad_norm_last": Mean(norms[-1]),
            "learning_rate": Mean(rate),
            "staleness": Max(float(self.version - 1 - record.snapshot_versions.min())),
            "train_seconds": Sum(time.perf_counter() - started),
        }

    def snapshot(self) -> Snapshot:
        """A frozen copy of the weights; groups sampled from it are welcome from now on."""
        arrays = export_weights(self.policy)
        digest = weights_digest(arrays)
        self._issued[self.version] = digest
        return Snapshot(version=self.version, arrays=arrays, digest=digest)

    def _finish_gradient(self) -> float:
        """The gradient's norm before it is scaled down to the bound, if there is one."""
        parameters = list(self.policy.parameters())
        for parameter in parameters:
            if parameter.grad is None:  # a batch without any preference: the optimizer still sees its zero gradient
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if not bool(norm.isfinite()):
            raise FloatingPointError(
                f"the gradient of step {self.version} is {norm.item()}; lower learner.optimizer.lr or set "
                "learner.max_grad_norm"
            )
        if self._max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._max_norm, norm)
        return norm.item()

    def _check_provenance(self, record: ScoredGroups) -> None:
        versions = record.snapshot_versions.tolist()
        for version, digest in set(zip(versions, record.snapshot_digests.tolist(), strict=True)):
            known = self._issued.get(version)
            if known is None or known.encode() != digest:
                raise ValueError(
                    f"groups come from version {version} with digest {digest.decode()}; "
                    f"this learner published {known or 'no such version'}"
                )

    def _warn_about(self, diagnostics: dict[str, float]) -> None:
        size = diagnostics.get("effective_group_size")
        if self._warned or size is None or size >= 2:
            return
        if getattr(self.objective, "group_distribution", None) == "sequence":
            self._warned = True
            _log.warning(
                "the effective group size is %.2f: the summed log-probs of long candidates make p_old one-hot, and the "
                "target can hardly move it. Consider objective.group_distribution=ratio.",
                size,
            )


def _signal_metrics(groups: Groups, signal: Tensor) -> dict[str, Mean | Sum | Max]:
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


def _score_metrics(record: ScoredGroups, groups: Groups) -> dict[str, Mean | Sum | Max]:
    """What the rollout workers achieved, and what it cost them."""
    scores = record.scores[:, :1] if record.token_level else record.scores  # the others were never followed
    count, groups_seen = scores.size, len(groups.scores_GK)
    fails_G = ((groups.scores_GK <= 0) | ~groups.present_GK).all(dim=1)
    metrics: dict[str, Mean | Sum | Max] = {
        "reward": Mean(float(scores.sum(dtype="float64")), count),
        "error": Mean(float((1.0 - scores).sum(dtype="float64")), count),
        "zero_variance": Mean(float(zero_variance(groups.scores_GK, groups.present_GK).sum()), groups_seen),
        "all_fail": Mean(float(fails_G.sum()), groups_seen),
        "completion_length": Mean(float(record.lengths.sum()), record.lengths.size),
    }
    metrics.update({name: Sum(float(seconds.sum())) for name, seconds in record.info.items()})
    return metrics
