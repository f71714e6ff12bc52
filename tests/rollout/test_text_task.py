"""A task in words as tokens: prompts, completions as text, groups that fail, and what a person reads of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import tiny_model
from tpo_dist.config import ScoringConfig, TextConfig
from tpo_dist.errors import UsageError
from tpo_dist.policies.tokenizer import load_tokenizer
from tpo_dist.quarantine import write_quarantine
from tpo_dist.records import ScoredGroups, StopReason, concatenate
from tpo_dist.rollout.contract import Candidates
from tpo_dist.rollout.scorer_pool import ScorerPool
from tpo_dist.rollout.text_task import TokenizedTask
from tpo_dist.rollout.worker import RolloutWorker
from tpo_dist.tasks import GroupScoring, build_text_task
from tpo_dist.tasks.text import HELD_OUT

SCORERS = Path(__file__).parents[1] / "tasks" / "scorers.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"what is {n}?", "answer": str(n)}) + "\n" for n in range(8)))
    return path


def tokenized(folder, rows, *, text=None, seed=0, **options):
    options = {"path": str(rows), "scorer": f"{SCORERS}:troubled", **options}
    words = build_text_task("text", options)
    pool = ScorerPool("text", options, seed, ScoringConfig(seconds=1.0, retries=0))
    tokenizer = load_tokenizer(str(folder))
    return TokenizedTask(words, tokenizer, TextConfig(**(text or {})), seed, pool)


@pytest.fixture(scope="module")
def task(folder, rows):
    made = tokenized(folder, rows, held_out_rows=2)
    yield made
    made.close()


def padded(tokenizer, groups):
    """Tokens [G, K, T] and lengths [G, K] of completions in words, each with its end token."""
    ids = [[[*tokenizer.tokenizer(text).input_ids, tokenizer.end_tokens[0]] for text in group] for group in groups]
    lengths = np.array([[len(row) for row in group] for group in ids], dtype=np.int32)
    tokens = np.zeros((*lengths.shape, lengths.max()), dtype=np.int32)
    for g, group in enumerate(ids):
        for k, row in enumerate(group):
            tokens[g, k, : len(row)] = row
    return tokens, lengths


def answers(task, ids):
    return [task.words.question(0, int(draw)).answer for draw in ids]


def test_prompts_are_the_questions_in_the_chat_template(task):
    prompts = task.prompts(0, np.array([3, HELD_OUT + 1]))
    first, second = np.split(prompts.tokens, [prompts.lengths[0]])
    question = task.words.question(0, 3).prompt
    text = task.tokenizer.tokenizer.decode(first)
    assert text == f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    assert task.words.held_out(1).prompt in task.tokenizer.tokenizer.decode(second)
    assert prompts.ids.tolist() == [3, HELD_OUT + 1]
    assert prompts.tokens.dtype == prompts.lengths.dtype == np.int32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({"chat": False}, "{0}"),
        ({"chat": False, "system_prompt": "be brief"}, "be brief\n\n{0}"),
        ({"system_prompt": "be brief"}, "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n{0}<|im_end|>\n"),
        ({"system_prompt": ""}, "<|im_start|>user\n{0}<|im_end|>\n"),
    ],
)
def test_what_stands_around_a_question(folder, rows, text, expected):
    made = tokenized(folder, rows, text=text)
    prompts = made.prompts(0, np.arange(1))
    said = made.tokenizer.tokenizer.decode(prompts.tokens)
    assert said.startswith(expected.format(made.words.question(0, 0).prompt))


def test_the_task_s_own_system_prompt_unless_told_otherwise(folder, rows):
    said = []
    for text in ({}, {"system_prompt": "other"}, {"system_prompt": ""}):
        made = tokenized(folder, rows, text=text, system="its own")
        said.append(made.tokenizer.tokenizer.decode(made.prompts(0, np.arange(1)).tokens).split("<|im_end|>")[0])
    assert said[:2] == ["<|im_start|>system\nits own", "<|im_start|>system\nother"]
    assert said[2].startswith("<|im_start|>user\n")


def test_groups_are_scored_as_the_words_that_their_tokens_are(task):
    assert isinstance(task, GroupScoring)
    ids = np.arange(4)
    right = answers(task, ids)
    prompts = task.prompts(0, ids)
    tokens, lengths = padded(task.tokenizer, [[answer, "no", answer + "!"] for answer in right])
    found = task.score_groups(prompts, tokens, lengths)
    assert found.scores_GK.tolist() == [[1.0, 0.0, 0.0]] * 4
    assert found.defects == {}
    assert found.sources_G.tolist() == [b"text"] * 4
    assert task.score(prompts, tokens, lengths).token_rewards_GKT is None
    pending = task.submit(prompts, tokens, lengths)
    assert task.collect(prompts, pending).scores_GK.tolist() == found.scores_GK.tolist()


def test_an_empty_completion_is_scored_as_an_empty_text(task):
    prompts = task.prompts(0, np.arange(1))
    end = task.tokenizer.end_tokens[0]
    tokens = np.array([[[end, 0], [0, 0]]], dtype=np.int32)
    found = task.score_groups(prompts, tokens, np.array([[1, 0]], dtype=np.int32))
    assert found.scores_GK.tolist() == [[0.0, 0.0]]
    assert task.describe(0, tokens[0], np.array([1, 0], dtype=np.int32))["completions"] == ["", ""]


def test_a_group_that_cannot_be_scored_fails_alone(task):
    ids = np.arange(3)
    right = answers(task, ids)
    tokens, lengths = padded(task.tokenizer, [[right[0], "x"], ["none", "x"], [right[2], "x"]])
    found = task.score_groups(task.prompts(0, ids), tokens, lengths)
    assert found.scores_GK[[0, 2]].tolist() == [[1.0, 0.0]] * 2
    assert {row: defect.cause for row, defect in found.defects.items()} == {1: "scorer returned NoneType"}
    with pytest.raises(RuntimeError, match="scorer returned NoneType"):
        task.score(task.prompts(0, ids), tokens, lengths)


class Reciting:
    """A sampler that says what it is told to."""

    version, digest = 4, "d" * 32

    def __init__(self, task, say, greedy=None):
        self._task, self._say, self._greedy = task, say, greedy

    def sample(self, prompts, group_size):
        tokens, lengths = padded(self._task.tokenizer, [self._say(int(draw)) for draw in prompts.ids])
        greedy, greedy_lengths = None, None
        if self._greedy is not None:
            greedy, greedy_lengths = padded(self._task.tokenizer, [[self._greedy(int(draw))] for draw in prompts.ids])
        return Candidates(
            tokens_GKT=tokens,
            lengths_GK=lengths,
            logps_GKT=np.full(tokens.shape, -1.0, dtype=np.float32),
            stop_reasons_GK=np.full(lengths.shape, StopReason.STOP, dtype=np.int8),
            greedy_GT=None if greedy is None else greedy[:, 0],
            greedy_lengths_G=None if greedy_lengths is None else greedy_lengths[:, 0],
        )


def test_a_worker_makes_groups_of_words(task, tmp_path):
    def say(draw):
        return [task.words.question(0, draw).answer, "raise" if draw == 5 else "no", "<answer>é</answer>"]

    rolled = RolloutWorker(task, Reciting(task, say), 3, 0).roll(np.arange(4, 8))
    assert rolled.groups.group_ids.tolist() == [4, 6, 7]
    assert rolled.groups.scores.tolist() == [[1.0, 0.0, 0.0]] * 3
    assert rolled.groups.token_rewards is None
    assert rolled.groups.sources.tolist() == [b"text"] * 3
    [failure] = rolled.failures
    assert failure.cause == "scorer raised KeyError"
    path = write_quarantine(tmp_path, failure)
    kept = json.loads(path.read_text())
    assert kept["words"] == {
        "source": "text",
        "question": task.words.question(0, 5).prompt,
        "answer": task.words.question(0, 5).answer,
        "completions": say(5),
    }
    assert "é" in path.read_text()
    both = concatenate([rolled.groups, RolloutWorker(task, Reciting(task, say), 3, 0).roll(np.arange(4)).groups])
    assert both.select([0, 4]).sources.tolist() == [b"text", b"text"]


def test_greedy_completions_are_scored_with_lengths_of_their_own(task):
    def say(draw):
        return ["a long completion", "no"]

    def greedy(draw):
        return "nan" if draw == 1 else task.words.question(0, draw).answer

    rolled = RolloutWorker(task, Reciting(task, say, greedy), 2, 0).roll(np.arange(3))
    assert rolled.groups.greedy_scores.tolist() == [1.0, 1.0]
    assert [(failure.draw, failure.cause) for failure in rolled.failures] == [(1, "score is not finite")]


def test_a_block_of_which_nothing_can_be_scored(task):
    for greedy in (None, lambda draw: "7"):
        rolled = RolloutWorker(task, Reciting(task, lambda draw: ["none", "x"], greedy), 2, 0).roll(np.arange(3))
        assert rolled.groups is None
        assert len(rolled.failures) == 3


def test_rewards_that_make_a_score_are_told_by_part(folder, rows):
    made = tokenized(folder, rows, rewards={"task": 3.0, "answer_tag": 1.0})
    prompts = made.prompts(0, np.arange(2))
    right = answers(made, [0, 1])
    tokens, lengths = padded(made.tokenizer, [[right[0], "<answer>x</answer>"], ["none", "x"]])
    found = made.score_groups(prompts, tokens, lengths)
    made.close()
    np.testing.assert_allclose(found.scores_GK[0], [0.75, 0.25])
    np.testing.assert_array_equal(found.parts_G["task"], [0.5, np.nan])
    np.testing.assert_array_equal(found.parts_G["answer_tag"], [0.5, np.nan])


def test_sizes_are_those_of_the_model_and_of_the_limits(task):
    assert (task.vocab_size, task.prompt_length, task.completion_length) == (272, 512, 256)


def test_a_prompt_that_is_too_long_is_refused_by_draw_and_length(folder, rows):
    made = tokenized(folder, rows, text={"max_prompt_tokens": 20})
    with pytest.raises(UsageError, match=r"text.max_prompt_tokens = 20: the prompt of draw 3 has \d\d tokens"):
        made.prompts(0, np.array([3]))
    with pytest.raises(UsageError, match="the prompt of draw 0 has"):
        made.check()


def test_every_row_is_looked_at_before_the_run(folder, tmp_path):
    """Also those that the first draws do not ask, and the held-out ones."""
    for long in (7, 9):
        path = tmp_path / f"rows{long}.jsonl"
        rows = [{"prompt": "x" * (400 if n == long else 5), "answer": "1"} for n in range(10)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = tokenized(folder, path, text={"max_prompt_tokens": 300}, held_out_rows=2)
        which = "held-out question 1" if long == 9 else "draw"
        with pytest.raises(UsageError, match=f"the prompt of {which}.* has 4.. tokens"):
            made.check()
    tokenized(folder, path, text={"max_prompt_tokens": 450}, held_out_rows=2).check()


def test_every_stage_of_a_curriculum_is_looked_at_before_the_run(folder):
    """Also one that begins after the draws that are looked at in any case."""
    pytest.importorskip("reasoning_gym")
    stages = [{"draws": 10_000, "parameters": {"max_terms": 2}}, {"parameters": {"min_terms": 60, "max_terms": 60}}]
    options = {"dataset": "chain_sum", "instructions": None, "curriculum": stages}
    words = build_text_task("reasoning_gym", options)
    pool = ScorerPool("reasoning_gym", options, 0, ScoringConfig())
    made = TokenizedTask(words, load_tokenizer(str(folder)), TextConfig(max_prompt_tokens=160), 0, pool)
    with pytest.raises(UsageError, match=r"the prompt of draw 10000 has \d+ tokens"):
        made.check()


def test_a_context_that_is_too_small_is_refused(folder, rows):
    with pytest.raises(UsageError, match="= 1300: the model .* reads at most 1024 tokens"):
        tokenized(folder, rows, text={"max_prompt_tokens": 300, "max_completion_tokens": 1000})


def test_messages_go_through_the_template_as_they_are(folder, tmp_path):
    path = tmp_path / "rows.jsonl"
    messages = [{"role": "system", "content": "own"}, {"role": "user", "content": "hello"}]
    path.write_text(json.dumps({"prompt": messages, "answer": "1"}) + "\n")
    made = tokenized(folder, path, text={"system_prompt": "another"})
    made.check()
    said = made.tokenizer.tokenizer.decode(made.prompts(0, np.arange(1)).tokens)
    assert said.startswith("<|im_start|>system\nown<|im_end|>\n<|im_start|>user\nhello")
    assert made.describe(0, np.zeros((1, 1), np.int32), np.zeros(1, np.int32))["question"] == messages
    plain = tokenized(folder, path, text={"chat": False})
    assert plain.tokenizer.tokenizer.decode(plain.prompts(0, np.arange(1)).tokens) == "own\n\nhello"


def test_records_refuse_parts_and_sources_of_another_shape():
    fields = {
        "group_ids": np.arange(1),
        "prompt_tokens": np.zeros(1, np.int32),
        "prompt_lengths": np.ones(1, np.int32),
        "tokens": np.zeros(1, np.int32),
        "lengths": np.ones((1, 1), np.int32),
        "behavior_logprobs": np.zeros(1, np.float32),
        "scores": np.zeros((1, 1), np.float32),
        "snapshot_versions": np.zeros(1, np.int64),
        "snapshot_digests": np.full(1, b"d" * 32, "S32"),
        "stop_reasons": np.zeros((1, 1), np.int8),
    }
    ScoredGroups(**fields, sources=np.array([b"a"], "S64"), parts={"x": np.array([np.nan])})
    with pytest.raises(ValueError, match="sources has shape"):
        ScoredGroups(**fields, sources=np.array([b"a", b"b"], "S64"))
    with pytest.raises(ValueError, match="sources has dtype"):
        ScoredGroups(**fields, sources=np.array([b"a"]))
    with pytest.raises(ValueError, match="parts/x has to hold"):
        ScoredGroups(**fields, parts={"x": np.array([np.inf])})
    with pytest.raises(ValueError, match="parts/x has shape"):
        ScoredGroups(**fields, parts={"x": np.zeros(2)})
