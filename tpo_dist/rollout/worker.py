"""The rollout worker: a block of prompt draws in, whole scored groups out."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpo_dist.blocks import BlockSummary, Failure
from tpo_dist.quarantine import GroupFailure
from tpo_dist.records import Prompts, ScoredGroups, Snapshot, flatten, pad
from tpo_dist.rollout.contract import Candidates, FetchingSampler, Sampler, StreamingSampler
from tpo_dist.rollout.scoring import BlockScorer, BlockScores
from tpo_dist.tasks import GroupScoring, Task
from tpo_dist.weight_group import Announcement, Sender


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rolled:
    """What became of a block of draws: each is in a group or in a failure."""

    groups: ScoredGroups | None
    """Those that were scored, in the order of their draws; None where every one failed."""
    failures: tuple[GroupFailure, ...] = ()
    """Those that could not be scored, in the order of their draws."""

    def whole(self) -> ScoredGroups:
        """The groups of all draws. Raises RuntimeError, with the first cause, where one failed."""
        if self.failures:
            first = self.failures[0]
            reason = f"{first.cause}\n{first.detail}"
            raise RuntimeError(f"{len(self.failures)} groups failed, first that of draw {first.draw}: {reason}")
        assert self.groups is not None, "a block without groups has failures"
        return self.groups


@dataclass(frozen=True, slots=True)
class Stamp:
    """The weights that a group was sampled from; where they changed on the way, those that it began with."""

    version: int
    digest: str


class RolloutWorker:
    """Samples and scores blocks under the snapshot that it loaded last."""

    def __init__(self, task: Task, sampler: Sampler, group_size: int, seed: int, *, token_level: bool = False) -> None:
        """`group_size`: candidates of each prompt. `seed`: of the run. `token_level`: the candidates are single tokens
        along one trajectory."""
        self._token_level = token_level
        self._task, self._sampler = task, sampler
        self._scorer = BlockScorer(task, token_level=token_level)
        self._group_size, self._seed = group_size, seed

    @property
    def version(self) -> int | None:
        """The version of the loaded snapshot; None before the first."""
        return self._sampler.version

    def load(self, snapshot: Snapshot) -> None:
        """Take over these weights. Raises WrongWeights where they are not what the snapshot says."""
        self._sampler.load(snapshot)

    def fetch(self, announced: Announcement, sender: Sender) -> None:
        """Take over announced weights. Raises as `FetchingSampler.fetch` does."""
        assert isinstance(self._sampler, FetchingSampler), "resolve() refuses others"
        self._sampler.fetch(announced, sender)

    def roll(self, draw_ids: NDArray[np.int64]) -> Rolled:
        """The groups of these draws: the same whichever worker rolls them.

        A scorer that raises, or returns what is no finite score, fails the group that it does so for. Raises where
        sampling fails, and UsageError where the scorer raises that.
        """
        started = time.perf_counter()
        prompts = self._task.prompts(self._seed, draw_ids)
        candidates = self._sampler.sample(prompts, self._group_size)
        return self.score(prompts, candidates, self.stamp, time.perf_counter() - started)

    @property
    def stamp(self) -> Stamp:
        """What groups carry that are sampled now. Call it after sampling, or where that is not over, before it."""
        assert self._sampler.version is not None, "nothing is sampled before the first snapshot"
        return Stamp(self._sampler.version, self._sampler.digest)

    def submit(self, key: int, draw_ids: NDArray[np.int64]) -> Prompts:
        """Begin to sample these draws, which `step` will give back under that key; for samplers that stream."""
        assert isinstance(self._sampler, StreamingSampler)
        prompts = self._task.prompts(self._seed, draw_ids)
        self._sampler.submit(key, prompts, self._group_size)
        return prompts

    @property
    def pending(self) -> int:
        """Blocks that were begun and not given back; 0 where the sampler does not stream."""
        return self._sampler.pending if isinstance(self._sampler, StreamingSampler) else 0

    @property
    def in_flight(self) -> bool:
        """Whether weights may change while blocks are under way."""
        return isinstance(self._sampler, StreamingSampler) and self._sampler.in_flight

    def step(self) -> list[tuple[int, Candidates]]:
        """Sample on for a moment; the blocks that are whole since."""
        assert isinstance(self._sampler, StreamingSampler)
        return self._sampler.step()

    def score(self, prompts: Prompts, candidates: Candidates, stamp: Stamp, sample_seconds: float) -> Rolled:
        """The second half of `roll`; threads may call it while the worker samples on."""
        started = time.perf_counter()
        scores = self._scorer.score(prompts, candidates)
        seconds = {"sample_seconds": sample_seconds, "score_seconds": time.perf_counter() - started}
        failures = self._failures(prompts, candidates, scores, stamp)
        if len(failures) == len(prompts.ids):
            return Rolled(groups=None, failures=failures)
        return Rolled(groups=self._record(prompts, candidates, scores, stamp, seconds), failures=failures)

    def _record(
        self, prompts: Prompts, candidates: Candidates, scores: BlockScores, stamp: Stamp, seconds: dict[str, float]
    ) -> ScoredGroups:
        """The groups that have scores; they share the seconds that all took."""
        kept = scores.rows_F if scores.defects else slice(None)  # a slice copies nothing
        lengths, prompt_lengths, count = candidates.lengths_GK[kept], prompts.lengths[kept], len(scores.rows_F)
        prompt_tokens = prompts.tokens
        if scores.defects:
            prompt_tokens = flatten(pad(prompts.tokens, prompts.lengths)[kept], prompt_lengths)
        rewards, versions = scores.token_rewards_FKT, candidates.versions_GKT
        return ScoredGroups(
            group_ids=prompts.ids[kept],
            prompt_tokens=prompt_tokens,
            prompt_lengths=prompt_lengths,
            tokens=flatten(candidates.tokens_GKT[kept], lengths),
            lengths=lengths,
            behavior_logprobs=flatten(candidates.logps_GKT[kept], lengths),
            scores=scores.scores_FK,
            snapshot_versions=np.full(count, stamp.version, dtype=np.int64),
            snapshot_digests=np.full(count, stamp.digest.encode(), dtype="S32"),
            stop_reasons=candidates.stop_reasons_GK[kept],
            token_rewards=None if rewards is None else flatten(rewards, lengths),
            greedy_scores=scores.greedy_F,
            token_level=self._token_level,
            sources=scores.sources_F,
            parts=scores.parts_F,
            token_versions=None if versions is None else flatten(versions[kept], lengths),
            info={name: np.full(count, total / count) for name, total in seconds.items()},
        )

    def _failures(
        self, prompts: Prompts, candidates: Candidates, scores: BlockScores, stamp: Stamp
    ) -> tuple[GroupFailure, ...]:
        ends = np.cumsum(prompts.lengths, dtype=np.int64)
        found = []
        for row, defect in sorted(scores.defects.items()):
            rows = zip(candidates.tokens_GKT[row], candidates.lengths_GK[row], strict=True)
            record = {
                "prompt": prompts.tokens[ends[row] - prompts.lengths[row] : ends[row]].tolist(),
                "candidates": [tokens[:length].tolist() for tokens, length in rows],
                "greedy": None if candidates.greedy_GT is None else candidates.greedy_GT[row].tolist(),
                "snapshot_version": stamp.version,
                "snapshot_digest": stamp.digest,
            }
            draw = int(prompts.ids[row])
            if isinstance(self._task, GroupScoring):
                record["words"] = self._task.describe(draw, candidates.tokens_GKT[row], candidates.lengths_GK[row])
            found.append(GroupFailure(draw=draw, cause=defect.cause, detail=defect.detail, record=record))
        return tuple(found)


def summarise(rolled: Rolled, wait_seconds: float = 0.0, roll_seconds: float = 0.0) -> BlockSummary:
    """What the stream is told of a block."""
    groups = rolled.groups
    return BlockSummary(
        groups=0 if groups is None else len(groups),
        failures=tuple(Failure(draw=each.draw, cause=each.cause, detail=each.detail) for each in rolled.failures),
        prompt_length=0.0 if groups is None else float(groups.prompt_lengths.mean()),
        reward=0.0 if groups is None else float(groups.scores.mean()),
        wait_seconds=wait_seconds,
        roll_seconds=roll_seconds,
    )
