"""A task in words, as samplers and learners see it: an ordinary task of tokens.

Questions go through the chat template and the tokenizer; completions come back as text and are scored by processes of
their own. The learner makes one too, for its sizes, and never starts a scorer.

Shapes: G groups of the block, K candidates, T tokens of a candidate.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpo_dist.config import TextConfig
from tpo_dist.errors import UsageError
from tpo_dist.policies.tokenizer import TextTokenizer
from tpo_dist.records import Prompts
from tpo_dist.rollout.scorer_pool import GroupGrades, ScorerPool
from tpo_dist.tasks.contract import Defect, GroupScores, Scores
from tpo_dist.tasks.rewards import part_names
from tpo_dist.tasks.text import HELD_OUT, Question, TextTask, ask

_CHECKED_ROWS, _CHECKED_DRAWS, _CHECKED_LATER = 20_000, 500, 100
_REMEMBERED = 4096
_SLACK = 16
"""Tokens by which a prompt in its template may differ from the sum of both: they may merge where they meet."""

Pending = Sequence["Future[GroupGrades | Defect]"]
"""Scores on their way, one for each group."""


class TokenizedTask:
    """Implements `Task` and `GroupScoring` over a task in words."""

    def __init__(
        self, words: TextTask, tokenizer: TextTokenizer, text: TextConfig, seed: int, pool: ScorerPool
    ) -> None:
        """`seed`: of the run, to which questions and pool belong. Raises UsageError where the model's context is too
        small, or a chat template is asked for that there is not."""
        self.words, self.tokenizer = words, tokenizer
        self.seed = seed
        self._text, self._pool = text, pool
        self._question = lru_cache(maxsize=_REMEMBERED)(lambda draw: ask(words, seed, draw))
        self._parts = part_names(words)
        self._system: str | None = None
        self._system_known = False
        _refuse_text(tokenizer, text)

    @property
    def vocab_size(self) -> int:
        """Rows of the model's embedding."""
        return self.tokenizer.vocab_size

    @property
    def prompt_length(self) -> int:
        """Tokens of the longest prompt that is allowed."""
        return self._text.max_prompt_tokens

    @property
    def completion_length(self) -> int:
        """Tokens of the longest completion that is allowed, end token included."""
        return self._text.max_completion_tokens

    def start(self) -> None:
        """Start the scorers. Raises UsageError where they refuse the task, RunFailed where none comes up."""
        self._pool.start()

    def close(self) -> None:
        """End the scorers."""
        self._pool.close()

    def prompts(self, seed: int, ids: NDArray[np.int64]) -> Prompts:
        """The prompts of these draws. Raises UsageError, naming draw and length, for one that is too long."""
        assert seed == self.seed, "questions and scorers belong to the seed of the run"
        rows = [self._encode(int(draw)) for draw in ids]
        return Prompts(
            ids=ids,
            tokens=np.array([token for row in rows for token in row], dtype=np.int32),
            lengths=np.array([len(row) for row in rows], dtype=np.int32),
        )

    def submit(self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]) -> Pending:
        """Begin to score groups, without waiting; `collect` has what becomes of them."""
        pending = []
        for draw, tokens_KT, lengths_K in zip(prompts.ids, tokens_GKT, lengths_GK, strict=True):
            pending.append(self._pool.submit(int(draw), self._texts(tokens_KT, lengths_K)))
        return pending

    def collect(self, prompts: Prompts, pending: Pending) -> GroupScores:
        """Wait for the scores of groups. Raises UsageError and RunFailed where no scorer can be started any more."""
        outcomes = [each.result() for each in pending]
        defects = {row: each for row, each in enumerate(outcomes) if isinstance(each, Defect)}
        graded = [(row, each) for row, each in enumerate(outcomes) if isinstance(each, GroupGrades)]
        size = len(graded[0][1].scores) if graded else 0
        scores_GK = np.zeros((len(outcomes), size), dtype=np.float32)
        parts = {name: np.full(len(outcomes), np.nan) for name in self._parts}
        for row, grades in graded:
            scores_GK[row] = grades.scores
            for name, numbers in grades.parts.items():
                parts[name][row] = np.mean(numbers)
        sources = [self._question(int(draw)).source for draw in prompts.ids]
        return GroupScores(scores_GK=scores_GK, defects=defects, sources_G=np.array(sources, "S64"), parts_G=parts)

    def score_groups(
        self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]
    ) -> GroupScores:
        """The scores of all groups that can be scored, and why the others cannot."""
        return self.collect(prompts, self.submit(prompts, tokens_GKT, lengths_GK))

    def score(self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]) -> Scores:
        """Scores of all candidates. Raises RuntimeError, with the first cause, where a group has none."""
        found = self.score_groups(prompts, tokens_GKT, lengths_GK)
        for defect in found.defects.values():
            raise RuntimeError(f"{defect.cause}: {defect.detail}")
        return Scores(scores_GK=found.scores_GK, token_rewards_GKT=None)

    def describe(self, draw: int, tokens_KT: NDArray[np.int32], lengths_K: NDArray[np.int32]) -> dict[str, Any]:
        """A group as a person reads it, ready for JSON."""
        question = self._question(draw)
        asked = question.prompt if isinstance(question.prompt, str) else [dict(each) for each in question.prompt]
        return {
            "source": question.source,
            "question": asked,
            "answer": _short(question),
            "completions": self._texts(tokens_KT, lengths_K),
        }

    def check(self) -> None:
        """Raise UsageError where the task is not what its options promise, or a prompt is too long: every row of a
        data set that is not huge, and the first draws of each kind of one without end."""
        self.words.check()
        count, held_out = self.words.question_count(), self.words.held_out_count()
        draws = list(range(_CHECKED_DRAWS if count is None else min(count, _CHECKED_ROWS)))
        draws += [turn + number for turn in self.words.turns()[1:] for number in range(_CHECKED_LATER)]
        draws += [HELD_OUT + index for index in range(0 if held_out is None else min(held_out, _CHECKED_ROWS))]
        asked = [self._question(draw).prompt for draw in draws]
        alone = self.tokenizer.lengths([each if isinstance(each, str) else "" for each in asked])
        around = len(self._encode(draws[0])) - alone[0]  # what the template adds
        for draw, prompt, length in zip(draws, asked, alone, strict=True):
            if not isinstance(prompt, str) or length + around > self._text.max_prompt_tokens - _SLACK:
                self._encode(draw)  # all others are known to be short enough

    def _encode(self, draw: int) -> list[int]:
        if not self._system_known:  # read late: Reasoning Gym's own takes seconds to import
            said = self._text.system_prompt
            self._system, self._system_known = self.words.system_prompt if said is None else said, True
        prompt = self._question(draw).prompt
        options = self._text.chat_options
        ids = self.tokenizer.encode(prompt, self._system or None, chat=self._text.chat, options=options)
        limit = self._text.max_prompt_tokens
        if len(ids) > limit:
            which = f"draw {draw}" if draw < HELD_OUT else f"held-out question {draw - HELD_OUT}"
            reason = f"the prompt of {which} has {len(ids)} tokens"
            raise UsageError(f"text.max_prompt_tokens = {limit}", reason, "raise it, or ask shorter questions")
        if not ids:
            raise UsageError(f"the prompt of draw {draw}", "has no tokens", "ask something")
        return ids

    def _texts(self, tokens_KT: NDArray[np.int32], lengths_K: NDArray[np.int32]) -> list[str]:
        rows = zip(tokens_KT, lengths_K, strict=True)
        return [self.tokenizer.decode(tokens[:length].tolist()) for tokens, length in rows]


def _short(question: Question) -> str:
    answer = question.answer[1].get("answer") if isinstance(question.answer, tuple) else question.answer
    return str(answer)[:2000]


def _refuse_text(tokenizer: TextTokenizer, text: TextConfig) -> None:
    if text.chat and not tokenizer.has_template:
        reason = f"the tokenizer of {tokenizer.path} has no chat template"
        raise UsageError("text.chat = true", reason, "leave it out, or give a model that was trained to chat")
    if "" in text.stop:
        raise UsageError(f"text.stop = {text.stop}", "every text ends with the empty one", "leave it out")
    needed = text.max_prompt_tokens + text.max_completion_tokens
    if tokenizer.context is not None and needed > tokenizer.context:
        raise UsageError(
            f"text.max_prompt_tokens + text.max_completion_tokens = {needed}",
            f"the model {tokenizer.path} reads at most {tokenizer.context} tokens",
            "lower one of the two, or take a model with a longer context",
        )
