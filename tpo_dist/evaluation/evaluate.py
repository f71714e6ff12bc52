"""What a snapshot makes of held-out questions: pass@k, mean score, lengths; training goes on meanwhile elsewhere.

While a block is being scored, the next one is being sampled.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tpo_dist.config import EvaluationConfig
from tpo_dist.metrics import Max, Mean, Metrics, Sum
from tpo_dist.records import Snapshot, StopReason
from tpo_dist.rollout.contract import Candidates, Sampler
from tpo_dist.rollout.scorer_pool import GroupGrades
from tpo_dist.rollout.text_task import Pending, TokenizedTask
from tpo_dist.tasks.contract import Defect
from tpo_dist.tasks.rewards import OWN
from tpo_dist.tasks.text import HELD_OUT

_BLOCK = 16
"""Questions that are sampled at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One held-out question, and what became of it."""

    index: int
    """Its number among the held-out questions."""
    source: str
    """Which task of a mixture asked."""
    grades: GroupGrades | Defect
    """Of its completions, or why there are none."""
    lengths: tuple[int, ...]
    """Tokens of each completion."""
    cut_off: int
    """Completions that reached the limit of tokens."""
    words: Mapping[str, object]
    """Question, answer and completions, as a person reads them."""

    @property
    def solved(self) -> tuple[bool, ...]:
        """Which completions have the task's own score of 1, whatever other rewards weigh beside it."""
        if isinstance(self.grades, Defect):
            return ()
        return tuple(score >= 1.0 for score in self.grades.parts.get(OWN, self.grades.scores))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All questions of one evaluation."""

    version: int | None
    """The weights that answered."""
    questions: tuple[Answered, ...]
    metrics: Metrics
    """Names begin with eval/; those of the sources of a mixture end with /SOURCE."""


def evaluate(
    sampler: Sampler, task: TokenizedTask, config: EvaluationConfig, snapshot: Snapshot | None = None
) -> Evaluation:
    """Let the snapshot (None: the weights that the sampler has) answer the first held-out questions.

    The sampler draws with a temperature of its own: make it with that of `config`. A question whose completions cannot
    be scored counts as failed and in nothing else. Raises WrongWeights where the weights are not what the snapshot
    says, UsageError where there are no held-out questions.
    """
    started = time.perf_counter()
    if snapshot is not None and (sampler.version, sampler.digest) != (snapshot.version, snapshot.digest):
        sampler.load(snapshot)
    count = task.words.held_out_count()
    indices = list(range(config.questions if count is None else max(1, min(count, config.questions))))
    blocks: list[tuple[Sequence[int], Candidates, Pending]] = []
    for start in range(0, len(indices), _BLOCK):
        block = indices[start : start + _BLOCK]
        prompts = task.prompts(task.seed, HELD_OUT + np.array(block, dtype=np.int64))
        found = sampler.sample(prompts, config.samples)
        blocks.append((block, found, task.submit(prompts, found.tokens_GKT, found.lengths_GK)))
    questions = tuple(each for block in blocks for each in _answered(task, *block))
    metrics = {**_metrics(questions, config.samples), "eval/seconds": Sum(time.perf_counter() - started)}
    return Evaluation(version=sampler.version, questions=questions, metrics=metrics)


def pass_at(k: int, samples: int, solved: int) -> float:
    """The chance that of `k` completions drawn from `samples`, of which `solved` are right, one at least is: the
    unbiased estimate of pass@k (Chen et al. 2021, arXiv 2107.03374, equation 1)."""
    assert 1 <= k <= samples
    return 1.0 - math.comb(samples - solved, k) / math.comb(samples, k)


def _answered(task: TokenizedTask, block: Sequence[int], found: Candidates, pending: Pending) -> list[Answered]:
    answers = []
    for row, index in enumerate(block):
        lengths_K = found.lengths_GK[row]
        words = task.describe(HELD_OUT + index, found.tokens_GKT[row], lengths_K)
        answers.append(
            Answered(
                index=index,
                source=str(words["source"]),
                grades=pending[row].result(),
                lengths=tuple(lengths_K.tolist()),
                cut_off=int((found.stop_reasons_GK[row] == StopReason.LENGTH).sum()),
                words=words,
            )
        )
    return answers


def _metrics(questions: Sequence[Answered], samples: int) -> dict[str, Mean | Sum | Max]:
    """Of all questions, and of each source where there are several."""
    found = _measures(questions, samples, "")
    sources = sorted({each.source for each in questions})
    for source in sources if len(sources) > 1 else ():
        found |= _measures([each for each in questions if each.source == source], samples, f"/{source}")
    return found


def _measures(questions: Sequence[Answered], samples: int, end: str) -> dict[str, Mean | Sum | Max]:
    graded = [(each, each.grades) for each in questions if isinstance(each.grades, GroupGrades)]
    scores = [score for _, grades in graded for score in grades.scores]
    lengths = [length for each in questions for length in each.lengths]
    found: dict[str, Mean | Sum | Max] = {
        f"eval/score{end}": Mean(math.fsum(scores), len(scores)),
        f"eval/length{end}": Mean(float(sum(lengths)), len(lengths)),
        f"eval/length_max{end}": Max(float(max(lengths, default=0))),
        f"eval/cut_off{end}": Mean(float(sum(each.cut_off for each in questions)), len(lengths)),
        f"eval/questions{end}": Sum(float(len(questions))),
        f"eval/failed{end}": Sum(float(len(questions) - len(graded))),
    }
    powers = [2**power for power in range(samples.bit_length())]
    for k in sorted({*powers, samples}):
        chances = [pass_at(k, samples, sum(each.solved)) for each, _ in graded]
        found[f"eval/pass@{k}{end}"] = Mean(math.fsum(chances), len(chances))
    return found
