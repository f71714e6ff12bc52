"""Groups of a step as a person reads them: texts instead of tokens, ready for JSON."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_dist.config import RunConfig
from tpo_dist.learner.sample import GroupSample
from tpo_dist.programs.parts import make_task
from tpo_dist.records import Prompts, StopReason
from tpo_dist.tasks import Answers, GroupScoring, Legible, Task

LONGEST = 20_000
"""Characters of a text that are kept: the first and the last half of them."""
_log = logging.getLogger(__name__)


class Reader:
    """Reads the groups of one run."""

    def __init__(self, config: RunConfig) -> None:
        """The task is made when the first group comes."""
        self._config = config
        self._task: Task | None = None
        self._warned = False

    def row(self, step: int, group: GroupSample) -> dict[str, Any]:
        """A group of that step, as `groups.jsonl` has it. Where the task cannot be asked what a group says, it is shown
        in tokens, and the first time a warning is logged."""
        try:
            words = self._words(group)
        except Exception as error:  # noqa: BLE001  # a task's own code and data; a run does not end for its records
            if not self._warned:
                self._warned = True
                _log.warning("groups are shown in tokens: the task cannot say what they read (%s)", error)
            words = {"prompt": _tokens(group.prompt), "answer": None, "texts": [_tokens(row) for row in _rows(group)]}
        target, advantages = group.target_K, group.advantages_K
        moved = None if target is None else float(np.abs(target.astype(np.float64) - group.p_old_K).sum())
        return {
            "step": step,
            "draw": group.draw,
            "source": group.source or self._config.task.name,
            "position": group.position,
            **words,
            "lengths": group.lengths_K.tolist(),
            "scores": _numbers(group.scores_K),
            "stops": [StopReason(int(stop)).name.lower() for stop in group.stops_K],
            "logps_old": _numbers(group.logps_old_K),
            "logps_after": _numbers(group.logps_after_K),
            "p_old": _numbers(group.p_old_K),
            "p_after": _numbers(group.p_after_K),
            "q": None if target is None else _numbers(target),
            "advantages": None if advantages is None else _numbers(advantages),
            "distance": None if moved is None else _number(moved),
            "zero_variance": group.zero_variance,
            "version": group.version,
            "staleness": group.staleness,
        }

    def _words(self, group: GroupSample) -> dict[str, Any]:
        task = self._task = self._task or make_task(self._config)
        if isinstance(task, GroupScoring):
            told = task.describe(group.draw, group.tokens_KT, group.lengths_K)
            texts = [_shorten(text) for text in told["completions"]]
            return {
                "prompt": _shorten(_asked(told["question"])),
                "answer": _shorten(str(told["answer"])),
                "texts": texts,
            }
        prompt, candidates = _tokens(group.prompt), [_tokens(row) for row in _rows(group)]
        answer = self._answer(task, group)
        if isinstance(task, Legible):
            prompt = task.read_prompt(group.prompt)
            candidates = [task.read_candidate(row) for row in _rows(group)]
            answer = None if answer is None else task.read_candidate(answer)
        if group.position:
            prompt += f" → {_tokens(group.tokens_KT[0, : group.position])}"
        return {
            "prompt": _shorten(prompt),
            "answer": answer if answer is None or isinstance(answer, str) else _shorten(_tokens(answer)),
            "texts": [_shorten(text) for text in candidates],
        }

    def _answer(self, task: Task, group: GroupSample) -> Any:
        if not isinstance(task, Answers):
            return None
        lengths = np.array([len(group.prompt)], dtype=np.int32)
        prompts = Prompts(ids=np.array([group.draw], dtype=np.int64), tokens=group.prompt, lengths=lengths)
        answer = task.answers(prompts)[0]
        return answer if group.position is None else answer[group.position : group.position + 1]


def _rows(group: GroupSample) -> Iterable[NDArray[np.int32]]:
    """The tokens of each candidate."""
    if group.position is not None:
        return group.tokens_KT[:, group.position : group.position + 1]
    return (tokens[:length] for tokens, length in zip(group.tokens_KT, group.lengths_K, strict=True))


def _tokens(tokens: Iterable[Any]) -> str:
    return " ".join(str(int(token)) for token in tokens)


def _asked(question: str | Sequence[Mapping[str, str]]) -> str:
    if isinstance(question, str):
        return question
    return "\n\n".join(f"{each.get('role', '')}: {each.get('content', '')}" for each in question)


def _shorten(text: str) -> str:
    text = text.encode(errors="replace").decode()  # half a surrogate pair is no text
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n... {len(text) - LONGEST} characters left out ...\n{text[-half:]}"


def _numbers(values: NDArray[np.float32]) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | None:
    """Six digits are what anybody looks at; JSON has no number that is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
