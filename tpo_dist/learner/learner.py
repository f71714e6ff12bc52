"""The learner: target -> loss -> gradient -> step -> snapshot. Runs in any process, with or without Ray."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpo_dist.config import LearnerConfig
from tpo_dist.learner.batch import TrainingBatch, to_tensors
from tpo_dist.learner.frozen import FrozenSnapshots, groups_compared
from tpo_dist.learner.gradients import EpochGradients, bound_gradient
from tpo_dist.learner.measures import lag_metrics, mismatch_metrics, reference_metrics, score_metrics, signal_metrics
from tpo_dist.learner.micro_batches import with_reference
from tpo_dist.learner.optimizer import LearningRate, make_correction, make_optimizer
from tpo_dist.learner.oracle import misalignment, oracle_gradient
from tpo_dist.learner.sample import GroupSample, take_sample
from tpo_dist.learner.team import ALONE, Team
from tpo_dist.metrics import Max, Mean, Metrics, Sum
from tpo_dist.objective import Objective, Progress, wants_reference
from tpo_dist.policies.contract import Policy, SamplingPolicy
from tpo_dist.policies.weights import export_weights, whole
from tpo_dist.records import Array, ScoredGroups, Snapshot, weights_digest

_ROWS = 1_000  # steps; more than that only where checkpoints are rare, or cannot be written
_log = logging.getLogger(__name__)

_DISTORTING = 0.1
"""Nats by which the log-prob of a candidate may be another than its anchor's before the user hears of it."""


class Learner:
    """Owns the policy and its optimizer; every update makes one new version of the weights.

    In synchronous mode this is Algorithm 1 of arXiv 2604.06159: build the target of each group from the snapshot that
    sampled it, then take several gradient epochs towards it.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        config: LearnerConfig,
        steps: int,
        oracle: Callable[[ScoredGroups], NDArray[np.int32]] | None = None,
        *,
        remember: int,
        sampling: tuple[int, int] = (0, 1),
        team: Team = ALONE,
    ) -> None:
        """`steps`: of the whole run, for the schedule. The weights at hand are the initial reference policy.
        `oracle`: the right answers [G, T] of a record's prompts, where misalignment is to be measured.
        `remember`: publications, the newest included, whose groups are accepted. `sampling`: how many groups `sample`
        keeps, and of every so many-th step. `team`: the ranks that share the policy, and do together what one does."""
        self.team, self.device = team, team.device(config.device)
        held = config.reference == "initial" and (wants_reference(objective) or config.reference_kl > 0)
        self._reference = team.place(policy.frozen(), self.device) if held else None
        self.policy = team.place(policy, self.device).train()
        self.objective = objective
        self.optimizer = make_optimizer(config.optimizer, self.policy)
        self.version = 0
        self.draws_trained = 0
        self.published: dict[int, str] = {}
        """Digest of each published version whose groups are still accepted."""
        self.settled: dict[str, Any] = {"below": 0, "beyond": []}
        """Blocks of the stream that are trained or failed as of this version: all below a number, and some beyond it.
        The program sets it before it saves; a checkpoint keeps it."""
        self.rows: deque[dict[str, float]] = deque(maxlen=_ROWS)
        """What the program writes down of the steps since the newest checkpoint; the next one keeps it."""
        self.newest: Snapshot | None = None
        """The newest snapshot, where steps without one follow; else nobody asks for it again, and it is None."""
        self.sample: tuple[GroupSample, ...] = ()
        """A few groups of the newest step, for people to look at; none where it is not one of those sampled."""
        self._sampling = sampling
        self._rate = LearningRate(config.optimizer.lr, config.schedule, steps)
        self._epochs = config.epochs or objective.epochs
        self._limits = config.micro_batch_candidates, config.micro_batch_tokens, team
        self._max_norm = config.max_grad_norm
        self._stop = config.early_stop
        self._correction = make_correction(config.correction)
        self._reference_kl = config.reference_kl
        self._oracle = oracle
        self._publish_every, self._remember = config.publish_every, remember
        self._recompute = config.old_logprobs == "recompute" and not isinstance(policy, SamplingPolicy)
        self._compared = None if self._recompute else groups_compared(config.mismatch_groups, policy)
        self._frozen = None if self._compared == 0 else FrozenSnapshots(self.policy)
        self._warned: set[str] = set()

    def update(self, record: ScoredGroups) -> Metrics:
        """One training step on whole groups; the policy moves to the next version.

        Raises ValueError for groups that `refusal` speaks against, and FloatingPointError where a gradient is not
        finite; no step is taken along such a gradient. RankLost where another rank does not come along.
        """
        if (refusal := self.refusal(record)) is not None:
            raise ValueError(refusal)
        metrics: Metrics = self.team.run(Learner._update, self, record)
        return metrics

    def _update(self, record: ScoredGroups) -> Metrics:
        started = time.perf_counter()
        batch = to_tensors(record, self.device)
        sampled_GKT = batch.groups.old_logps_GKT
        fresh_G = torch.from_numpy(record.snapshot_versions == self.version).to(self.device)
        if self._reference is not None:
            batch = with_reference(batch, self._reference, *self._limits)
        known_GKT, anew = fresh_G.view(-1, 1, 1), None
        if self._frozen is not None and (self._recompute or not bool(fresh_G.any())):
            anew, known_GKT = self._frozen.recomputed(batch, record, self.version, self._limits, self._compared)
            batch = anew if self._recompute else batch
        gradients = EpochGradients(self.policy, self.objective, batch, *self._limits[:2], self._reference_kl, self.team)
        corrected = {} if self._correction is None else gradients.corrected(self._correction)
        diagnostics = self.objective.diagnostics(gradients.groups, gradients.signal)
        self._warn_about(diagnostics)
        rate = self._rate.at(self.version)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # What the current weights sampled, they also scored; one older group, and nothing may be reused.
        reuse = self._correction is None and bool(fresh_G.all())
        lag_G = self._publication(self.version) - record.snapshot_versions // self._publish_every
        answers = None if self._oracle is None else torch.from_numpy(self._oracle(record)).long().to(self.device)
        epochs = self._run_epochs(gradients, reuse, batch.candidates.prompts_GP, answers)
        found = gradients.start_logps_GKT if anew is None else anew.groups.old_logps_GKT
        mismatch = self._mismatch(found, sampled_GKT, batch.groups.live, known_GKT)
        self.sample = self._take_sample(record, batch, gradients, lag_G)
        self.version += 1
        self.draws_trained += len(record)
        return {
            **score_metrics(record, batch.groups),
            **signal_metrics(batch.groups, gradients.signal),
            **{name: Mean(value) for name, value in diagnostics.items()},
            **({} if self._reference is None else reference_metrics(batch.groups)),
            **corrected,
            **epochs,
            **mismatch,
            "learning_rate": Mean(rate),
            **lag_metrics(record, lag_G),
            "groups_trained": Sum(float(len(record))),
            "train_seconds": Sum(time.perf_counter() - started),
        }

    def _run_epochs(
        self, gradients: EpochGradients, reuse: bool, prompts_GP: Tensor, answers_GT: Tensor | None
    ) -> dict[str, Mean | Sum | Max]:
        """All epochs of a batch, as far as early stopping lets them."""
        watched = self._stop.kl is not None or self._stop.distance is not None
        enough = self._enough if watched else None
        losses, norms = [], []
        found: dict[str, Mean | Sum | Max] = {}
        for epoch in range(self._epochs):
            self.optimizer.zero_grad(set_to_none=True)
            reused = reuse and epoch == 0
            loss = gradients.on_policy_epoch(enough) if reused else gradients.epoch(enough)
            if loss is None:
                break
            losses.append(loss)
            norms.append(self._finish_gradient())
            if epoch == 0 and answers_GT is not None:
                oracle = oracle_gradient(self.policy, prompts_GP, answers_GT)
                found["misalignment"] = Mean(misalignment(self.policy, oracle))
            self.optimizer.step()
        found["epochs"] = Mean(float(len(losses)))
        if losses:
            found["loss_first"], found["loss_last"] = Mean(losses[0]), Mean(losses[-1])
        found["grad_norm_first"] = Mean(norms[0] if norms else 0.0)
        found["grad_norm_last"] = Mean(norms[-1] if norms else 0.0)
        assert gradients.ratio_ess is not None, "there is at least one epoch"
        found["ratio_ess"] = gradients.ratio_ess
        return found

    def _take_sample(
        self, record: ScoredGroups, batch: TrainingBatch, gradients: EpochGradients, lag_G: NDArray[np.int64]
    ) -> tuple[GroupSample, ...]:
        count, every = self._sampling
        if count == 0 or self.version % every:
            return ()
        seen = replace(batch, groups=gradients.groups)  # as a correction left them
        parts = self.policy, self.objective, record, seen
        return take_sample(count, *parts, gradients.signal, lag_G, self._limits)

    def _enough(self, at: Progress) -> bool:
        """Whether the policy has gone too far from the snapshot, or met its target."""
        too_far = self._stop.kl is not None and at.kl > self._stop.kl
        return too_far or (
            self._stop.distance is not None and at.distance is not None and at.distance < self._stop.distance
        )

    def publishes(self, version: int) -> bool:
        """Whether rollout workers get a snapshot of that version."""
        return version % self._publish_every == 0

    def snapshot(self) -> Snapshot:
        """A frozen copy of the weights; groups sampled from it are welcome until it is `remember` publications old."""
        arrays, probe = self.team.run(Learner._export, self)
        digest = weights_digest(arrays)
        self.published[self.version] = digest
        oldest = self._publication(self.version) - self._remember + 1
        self.published = {v: known for v, known in self.published.items() if self._publication(v) >= oldest}
        tokens, logps = (None, None) if probe is None else (probe[0].numpy().astype(np.int32), probe[1].numpy())
        snapshot = Snapshot(version=self.version, arrays=arrays, digest=digest, probe_tokens=tokens, probe_logps=logps)
        self.newest = snapshot if self._publish_every > 1 else None
        return snapshot

    def _export(self) -> tuple[dict[str, Array], tuple[Tensor, Tensor] | None]:
        """The weights, on rank 0, and what they say of the probe."""
        if self._frozen is not None and (self._remember > 2 or self._publish_every > 1):  # else all groups are fresh
            oldest = (self._publication(self.version) - self._remember + 1) * self._publish_every
            self._frozen.keep(self.version, oldest)
        if self.team.rank == 0:
            return export_weights(self.policy), self.policy.probe()
        for parameter in self.policy.published_parameters().values():
            whole(parameter.detach())
        return {}, self.policy.probe()

    def close(self) -> None:
        """End the other ranks, if there are any; there is no further call."""
        self.team.close()

    @property
    def standing(self) -> Snapshot | None:
        """An older snapshot that rollout workers sample from at this version, as the next is not due; None without."""
        newest = self.newest
        if newest is None or newest.version == self.version:
            return None
        return newest if self._publication(newest.version) == self._publication(self.version) else None

    def current(self) -> Snapshot:
        """What rollout workers sample from at this version: the snapshot that stands, or one of these weights."""
        return self.standing or self.snapshot()

    def refusal(self, record: ScoredGroups) -> str | None:
        """Why groups are not accepted: other weights sampled them than those published under their version, or it is
        not known any more, or never was. None where all are accepted."""
        stamps = set(zip(record.snapshot_versions.tolist(), record.snapshot_digests.tolist(), strict=True))
        for version, digest in sorted(stamps):
            known = self.published.get(version)
            if known is not None and known.encode() == digest:
                continue
            held = f"this learner published {known or 'no such version'}"
            if known is None and self.published and version < min(self.published):
                held = f"this learner remembers no version before {min(self.published)}"
            return f"groups come from version {version} with digest {digest.decode(errors='backslashreplace')}; {held}"
        return None

    def _publication(self, version: int) -> int:
        """Number of the newest publication that there is at that version."""
        return version // self._publish_every

    def _finish_gradient(self) -> float:
        """The gradient's norm before it is scaled down to the bound, if there is one."""
        norm = bound_gradient(list(self.policy.published_parameters().values()), self._max_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient of step {self.version} is {norm}; lower learner.optimizer.lr or set "
                "learner.max_grad_norm"
            )
        return norm

    def _mismatch(
        self, learner_GKT: Tensor | None, sampler_GKT: Tensor, live_GKT: Tensor, known_GKT: Tensor
    ) -> Metrics:
        """What the sampling engine makes of the weights that drew the known tokens; nothing where the policy does. The
        learner's log-probs are of those weights."""
        if learner_GKT is None or isinstance(self.policy, SamplingPolicy):
            return {}
        found = mismatch_metrics(learner_GKT, sampler_GKT, live_GKT & known_GKT)
        size = found["mismatch_sequence"].value if found else 0.0
        if size > _DISTORTING and not self._recompute:
            self._warn_once(
                "log-probs summed over a candidate differ by %.2f nats between learner and sampling engine, and they "
                "anchor the target. Consider learner.old_logprobs=recompute or objective.group_distribution=ratio.",
                size,
            )
        return found

    def _warn_about(self, diagnostics: dict[str, float]) -> None:
        size = diagnostics.get("effective_group_size")
        if size is not None and size < 2:
            self._warn_once(
                "the effective group size is %.2f: the summed log-probs of long candidates make p_old one-hot, and the "
                "target can hardly move it. Consider objective.group_distribution=ratio.",
                size,
            )

    def _warn_once(self, text: str, number: float) -> None:
        """Of what only matters where the group's distribution goes by summed log-probs."""
        if getattr(self.objective, "group_distribution", None) == "sequence" and text not in self._warned:
            self._warned.add(text)
            _log.warning(text, number)
