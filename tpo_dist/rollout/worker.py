"""The rollout worker: a block of prompt draws in, whole scored groups out."""

import time

import numpy as np
from numpy.typing import NDArray

from tpo_dist.records import Prompts, ScoredGroups, Snapshot, flatten
from tpo_dist.rollout.contract import Sampler
from tpo_dist.tasks import Scores, Task, TokenScoring


class RolloutWorker:
    """Samples and scores blocks under the snapshot that it loaded last."""

    def __init__(self, task: Task, sampler: Sampler, group_size: int, seed: int, *, token_level: bool = False) -> None:
        """`group_size`: candidates of each prompt. `seed`: of the run. `token_level`: the candidates are single tokens
        along one trajectory."""
        self._token_level = token_level
        self._task, self._sampler = task, sampler
        self._group_size, self._seed = group_size, seed

    @property
    def version(self) -> int | None:
        """The version of the loaded snapshot; None before the first."""
        return self._sampler.version

    def load(self, snapshot: Snapshot) -> None:
        """Take over these weights. Raises WrongWeights where they are not what the snapshot says."""
        self._sampler.load(snapshot)

    def roll(self, draw_ids: NDArray[np.int64]) -> ScoredGroups:
        """The groups of these draws: the same whichever worker rolls them. Raises where the scorer fails."""
        started = time.perf_counter()
        prompts = self._task.prompts(self._seed, draw_ids)
        candidates = self._sampler.sample(prompts, self._group_size)
        sampled = time.perf_counter()
        scores = self._score(prompts, candidates.tokens_GKT, candidates.lengths_GK)
        greedy_scores = None
        if candidates.greedy_GT is not None:
            greedy = candidates.greedy_GT[:, None]
            greedy_scores = self._task.score(prompts, greedy, candidates.lengths_GK[:, :1]).scores_GK[:, 0]
        scored = time.perf_counter()
        count, lengths = len(draw_ids), candidates.lengths_GK
        assert self._sampler.version is not None
        return ScoredGroups(
            group_ids=draw_ids,
            prompt_tokens=prompts.tokens,
            prompt_lengths=prompts.lengths,
            tokens=flatten(candidates.tokens_GKT, lengths),
            lengths=lengths,
            behavior_logprobs=flatten(candidates.logps_GKT, lengths),
            scores=scores.scores_GK,
            snapshot_versions=np.full(count, self._sampler.version, dtype=np.int64),
            snapshot_digests=np.full(count, self._sampler.digest.encode(), dtype="S32"),
            stop_reasons=candidates.stop_reasons_GK,
            token_rewards=flatten(scores.token_rewards_GKT, lengths),
            greedy_scores=greedy_scores,
            token_level=self._token_level,
            info={
                "sample_seconds": np.full(count, (sampled - started) / count),
                "score_seconds": np.full(count, (scored - sampled) / count),
            },
        )

    def _score(self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]) -> Scores:
        if not self._token_level:
            return self._task.score(prompts, tokens_GKT, lengths_GK)
        assert isinstance(self._task, TokenScoring), "programs/resolve.py refuses other tasks"
        return self._task.score_alternatives(prompts, tokens_GKT, lengths_GK)
