"""Scoring a block so that what a scorer cannot score costs that group and no other.

A block is scored by one call. Where that fails, each half is scored by itself, and so on down to single groups: one
failing group among G costs 2 log2 G calls more, and where all fail there are 2G - 1 calls in all.

Shapes: G groups of the block, F of them scored, K candidates, T tokens of a candidate.
"""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tpo_dist.errors import UsageError
from tpo_dist.quarantine import shorten
from tpo_dist.records import Prompts, ScalarT, flatten
from tpo_dist.rollout.contract import Candidates
from tpo_dist.tasks import Defect, GroupScoring, Scores, Task, TokenScoring


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class BlockScores:
    """The scores of those groups of a block that could be scored."""

    rows_F: NDArray[np.int64]
    """Their positions in the block, in order."""
    scores_FK: NDArray[np.float32]
    token_rewards_FKT: NDArray[np.float32] | None
    greedy_F: NDArray[np.float32] | None
    """Scores of the greedy completions, where there are any."""
    defects: Mapping[int, Defect]
    """Every other group of the block, by position."""
    sources_F: NDArray[np.bytes_] | None = None
    """Which task of a mixture asked, where prompts are in words."""
    parts_F: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """The rewards that make the scores, where there are several: means over the candidates."""


class _BadScores(Exception):
    """A scorer returned what are no scores."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


_Part = tuple[slice, Scores, NDArray[np.float32] | None]


class BlockScorer:
    """A task's scorer, and what to do where it fails."""

    def __init__(self, task: Task, *, token_level: bool = False) -> None:
        """`token_level`: candidates are single tokens along one trajectory."""
        assert not token_level or isinstance(task, TokenScoring), "programs/resolve.py refuses other tasks"
        self._task, self._token_level = task, token_level

    def score(self, prompts: Prompts, candidates: Candidates) -> BlockScores:
        """Every score that there is. Raises UsageError where the scorer does: that is no group's fault."""
        if isinstance(self._task, GroupScoring):
            return _of_groups(self._task, prompts, candidates)
        parts: list[_Part] = []
        defects: dict[int, Defect] = {}
        self._score(slice(0, len(prompts.ids)), prompts, candidates, parts, defects)
        scores = [each for _, each, _ in parts]
        greedy = [each for _, _, each in parts if each is not None]
        return BlockScores(
            rows_F=_joined([np.arange(rows.start, rows.stop) for rows, _, _ in parts], np.arange(0)),
            scores_FK=_joined([each.scores_GK for each in scores], np.empty((0, candidates.lengths_GK.shape[1]), "f4")),
            token_rewards_FKT=_rewards(scores, candidates),
            greedy_F=_joined(greedy, greedy[0][:0]) if greedy else None,
            defects=defects,
        )

    def _score(
        self, rows: slice, prompts: Prompts, candidates: Candidates, parts: list[_Part], defects: dict[int, Defect]
    ) -> None:
        """Add these rows to the parts, as one call's or as those of their halves, or to the defects."""
        defect = None
        try:
            parts.append((rows, *self._call(_rows_of(prompts, rows), candidates, rows)))
        except UsageError:
            raise
        except _BadScores as error:
            defect = Defect(error.cause, shorten(str(error)))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the scorer's
            defect = Defect(f"scorer raised {type(error).__name__[:80]}", shorten(traceback.format_exc()))
        if defect is None:
            return
        if rows.stop - rows.start == 1:
            defects[rows.start] = defect
            return
        middle = (rows.start + rows.stop) // 2
        for half in (slice(rows.start, middle), slice(middle, rows.stop)):
            self._score(half, prompts, candidates, parts, defects)

    def _call(self, prompts: Prompts, candidates: Candidates, rows: slice) -> tuple[Scores, NDArray[np.float32] | None]:
        """Scores of some rows and of their greedy completions. Raises _BadScores for what are none."""
        tokens, lengths = candidates.tokens_GKT[rows], candidates.lengths_GK[rows]
        if self._token_level:
            assert isinstance(self._task, TokenScoring)
            scores = _checked(self._task.score_alternatives(prompts, tokens, lengths), tokens, lengths)
        else:
            scores = _checked(self._task.score(prompts, tokens, lengths), tokens, lengths)
        if candidates.greedy_GT is None:
            return scores, None
        greedy, ends = candidates.greedy_GT[rows][:, None], _greedy_lengths(candidates)[rows]
        return scores, _checked(self._task.score(prompts, greedy, ends), greedy, ends).scores_GK[:, 0]


def _checked(scores: object, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]) -> Scores:
    """The scores themselves. Raises _BadScores unless they have the type, dtypes and shapes, and are finite."""
    if not isinstance(scores, Scores):
        kind = type(scores).__name__[:80]
        raise _BadScores(f"scorer returned {kind}", f"the scorer returned a {kind}; expected Scores")
    arrays: list[tuple[str, object, tuple[int, ...]]] = [("scores", scores.scores_GK, lengths_GK.shape)]
    if scores.token_rewards_GKT is not None:
        arrays.append(("token rewards", scores.token_rewards_GKT, tokens_GKT.shape))
    for name, array, shape in arrays:
        if not isinstance(array, np.ndarray):
            raise _BadScores(f"{name} are no array", f"{name} are a {type(array).__name__}; expected an array")
        if array.dtype != np.float32:
            raise _BadScores(f"{name} have the wrong dtype", f"{name} have dtype {array.dtype}; expected float32")
        if array.shape != shape:
            detail = f"{name} have shape {list(array.shape)}; expected {list(shape)}"
            raise _BadScores(f"{name} have the wrong shape", detail)
    if not np.isfinite(scores.scores_GK).all():
        bad = scores.scores_GK[~np.isfinite(scores.scores_GK)]
        raise _BadScores("score is not finite", f"{bad.size} of {scores.scores_GK.size} scores are {np.unique(bad)}")
    rewards = scores.token_rewards_GKT
    if rewards is None:
        return scores
    if not np.isfinite(rewards).all() and not np.isfinite(flatten(rewards, lengths_GK)).all():  # padding may hold any
        raise _BadScores("token reward is not finite", "a reward of a candidate's token is not finite")
    return scores


def _of_groups(task: GroupScoring, prompts: Prompts, candidates: Candidates) -> BlockScores:
    """The scores of a task that says itself which groups it could not score."""
    found = task.score_groups(prompts, candidates.tokens_GKT, candidates.lengths_GK)
    defects, greedy_G = dict(found.defects), None
    if candidates.greedy_GT is not None:
        greedy = task.score_groups(prompts, candidates.greedy_GT[:, None], _greedy_lengths(candidates))
        defects, greedy_G = {**greedy.defects, **defects}, greedy.scores_GK
    rows = np.array([row for row in range(len(prompts.ids)) if row not in defects], dtype=np.int64)
    return BlockScores(
        rows_F=rows,
        scores_FK=found.scores_GK[rows],
        token_rewards_FKT=None,
        greedy_F=None if greedy_G is None else greedy_G[rows, 0] if len(rows) else greedy_G[:0, :1].reshape(0),
        defects=defects,
        sources_F=found.sources_G[rows],
        parts_F={name: numbers[rows] for name, numbers in found.parts_G.items()},
    )


def _rewards(scores: list[Scores], candidates: Candidates) -> NDArray[np.float32] | None:
    """Token rewards of all parts; None where the task gives none."""
    found = [each.token_rewards_GKT for each in scores if each.token_rewards_GKT is not None]
    return None if len(found) < len(scores) else _joined(found, candidates.logps_GKT[:0])


def _greedy_lengths(candidates: Candidates) -> NDArray[np.int32]:
    """[G, 1] tokens of each greedy completion."""
    lengths_G = candidates.greedy_lengths_G
    return candidates.lengths_GK[:, :1] if lengths_G is None else lengths_G[:, None]


def _rows_of(prompts: Prompts, rows: slice) -> Prompts:
    if rows == slice(0, len(prompts.ids)):
        return prompts
    ends = np.cumsum(prompts.lengths, dtype=np.int64)
    start = int(ends[rows.start] - prompts.lengths[rows.start])
    return Prompts(
        ids=prompts.ids[rows], tokens=prompts.tokens[start : int(ends[rows.stop - 1])], lengths=prompts.lengths[rows]
    )


def _joined(parts: list[NDArray[ScalarT]], nothing: NDArray[ScalarT]) -> NDArray[ScalarT]:
    """The parts one after another; the usual single one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate([nothing, *parts])
