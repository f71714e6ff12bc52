"""A scorer's failure costs its own group: it is counted, and the other groups are what they would have been."""

import dataclasses
import json

import numpy as np
import pytest

from tpo_dist.errors import UsageError
from tpo_dist.programs.job import configure
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.records import pad
from tpo_dist.tasks import TASKS, JudgedReversal, Scores, TokenReversal

SEQUENCES = ("task.length=4", "task.reward=bag_of_tokens", "policy.width=8", "rollout.block_size=4")
RUNS = {
    "token_reversal": SEQUENCES,
    "judged_reversal": (*SEQUENCES, "task.name=judged_reversal", "task.seconds=0.0"),
    "tabular_bandit": ("task.name=tabular_bandit", "policy.name=tabular"),
    "digit_bandit": ("task.name=digit_bandit", "policy.name=mlp"),
    "greedy": (*SEQUENCES, "objective.name=remax"),
    "token_level": (*SEQUENCES, "objective.name=tpo_token"),
}
BLOCK = np.arange(20, 27)  # 7 groups: halves of unequal size


def raises(scores, bad):
    raise ValueError("no judge\n" + "x" * 100_000)


def changed(field, change):
    def poison(scores, bad):
        array = getattr(scores, field).copy()
        return dataclasses.replace(scores, **{field: change(array, bad)})

    return poison


def put(value, *where):
    def change(array, bad):
        array[(bad, *where)] = value
        return array

    return change


MODES = {
    "raises": (raises, "scorer raised ValueError"),
    "nan": (changed("scores_GK", put(np.nan, -1)), "score is not finite"),
    "inf": (changed("scores_GK", put(-np.inf, -1)), "score is not finite"),
    "reward nan": (changed("token_rewards_GKT", put(np.nan, -1, 0)), "token reward is not finite"),
    "dtype": (changed("scores_GK", lambda array, _: array.astype(np.float64)), "scores have the wrong dtype"),
    "shape": (changed("scores_GK", lambda array, _: array[:, None]), "scores have the wrong shape"),
    "rewards' shape": (
        changed("token_rewards_GKT", lambda array, _: array[..., :0]),
        "token rewards have the wrong shape",
    ),
    "list": (changed("scores_GK", lambda array, _: array.tolist()), "scores are no array"),
    "type": (lambda _, __: None, "scorer returned NoneType"),
}


def standing(run):
    config = configure({}, ("rollout.groups_per_step=28", "rollout.group_size=5", *RUNS[run]))
    worker = make_worker(config)
    worker.load(make_learner(config).snapshot())
    return worker, TASKS[config.task.name], "score_alternatives" if run == "token_level" else "score"


def poisoned(monkeypatch, kind, method, draws, poison):
    """The task's scorer from now on: as it was, but for these draws; the number of calls."""
    original, calls = getattr(kind, method), []

    def score(self, prompts, tokens_GKT, lengths_GK):
        calls.append(prompts.ids.tolist())
        scores = original(self, prompts, tokens_GKT, lengths_GK)
        bad = np.isin(prompts.ids, draws)
        return poison(scores, bad) if bad.any() else scores

    monkeypatch.setattr(kind, method, score)
    return calls


def assert_same_groups(groups, expected):
    assert groups.arrays().keys() == expected.arrays().keys()
    for name, array in expected.arrays().items():
        if not name.startswith("info/"):
            np.testing.assert_array_equal(groups.arrays()[name], array, err_msg=name)
            assert groups.arrays()[name].dtype == array.dtype


def test_every_task_is_among_the_runs():
    assert {configure({}, RUNS[run]).task.name for run in RUNS} == set(TASKS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("run", RUNS)
def test_one_poisoned_group_fails_alone(run, mode, monkeypatch):
    worker, kind, method = standing(run)
    clean = worker.roll(BLOCK)
    assert clean.failures == ()
    poison, cause = MODES[mode]
    poisoned(monkeypatch, kind, method, [23], poison)
    rolled = worker.roll(BLOCK)
    assert [(failure.draw, failure.cause) for failure in rolled.failures] == [(23, cause)]
    assert rolled.groups.group_ids.tolist() == [20, 21, 22, 24, 25, 26]
    assert_same_groups(rolled.groups, clean.groups.select([0, 1, 2, 4, 5, 6]))
    [failure] = rolled.failures
    lost = clean.groups.select([3])
    assert json.loads(json.dumps(failure.record)) == {
        "prompt": lost.prompt_tokens.tolist(),
        "candidates": pad(lost.tokens, lost.lengths)[0].tolist(),
        "greedy": failure.record["greedy"],
        "snapshot_version": 0,
        "snapshot_digest": lost.snapshot_digests[0].decode(),
    }
    assert (failure.record["greedy"] is not None) == (run == "greedy")
    assert len(failure.detail) < 4100
    if mode == "raises":
        assert 'raise ValueError("no judge' in failure.detail


@pytest.mark.parametrize("draws", [[20], [26], [20, 26], [22, 23], [20, 21, 22, 24, 25, 26]])
def test_any_groups_of_a_block_may_fail(draws, monkeypatch):
    worker, kind, method = standing("token_reversal")
    clean = worker.roll(BLOCK).groups
    poisoned(monkeypatch, kind, method, draws, raises)
    rolled = worker.roll(BLOCK)
    assert [failure.draw for failure in rolled.failures] == draws
    assert_same_groups(rolled.groups, clean.select(np.flatnonzero(~np.isin(BLOCK, draws))))
    with pytest.raises(RuntimeError, match=f"{len(draws)} groups failed, first that of draw {draws[0]}: scorer raised"):
        rolled.whole()


def test_a_block_without_any_group(monkeypatch):
    worker, kind, method = standing("token_reversal")
    poisoned(monkeypatch, kind, method, BLOCK, raises)
    rolled = worker.roll(BLOCK)
    assert rolled.groups is None
    assert [failure.draw for failure in rolled.failures] == BLOCK.tolist()
    with pytest.raises(RuntimeError, match="7 groups failed"):
        rolled.whole()


def test_a_greedy_completion_without_a_score_fails_its_group(monkeypatch):
    worker, kind, method = standing("greedy")
    clean = worker.roll(BLOCK).groups

    def poison(scores, bad):
        alone = scores.scores_GK.shape[1] == 1
        return MODES["nan"][0](scores, bad) if alone else scores

    poisoned(monkeypatch, kind, method, [24], poison)
    rolled = worker.roll(BLOCK)
    assert [(failure.draw, failure.cause) for failure in rolled.failures] == [(24, "score is not finite")]
    assert_same_groups(rolled.groups, clean.select([0, 1, 2, 3, 5, 6]))


def test_a_block_is_one_call_and_a_failing_group_few_more(monkeypatch):
    worker, kind, method = standing("token_reversal")
    draws = np.arange(40, 48)
    calls = poisoned(monkeypatch, kind, method, [45], raises)
    worker.roll(draws - 8)
    assert calls == [(draws - 8).tolist()]
    calls.clear()
    worker.roll(draws)
    assert sorted(map(len, calls)) == [1, 1, 2, 2, 4, 4, 8]  # 2 log2 8 after the first
    calls.clear()
    poisoned(monkeypatch, kind, method, draws, raises)
    worker.roll(draws)
    assert len(calls) == 15


def test_what_falls_behind_a_candidate_s_end_may_be_anything():
    """Rewards are padded there, and nobody reads them."""
    from tpo_dist.records import Prompts
    from tpo_dist.rollout.contract import Candidates
    from tpo_dist.rollout.scoring import BlockScorer

    class Padded(TokenReversal):
        def score(self, prompts, tokens_GKT, lengths_GK):
            rewards = np.where(np.arange(3) < lengths_GK[..., None], 1.0, np.nan).astype(np.float32)
            return Scores(scores_GK=np.ones(lengths_GK.shape, np.float32), token_rewards_GKT=rewards)

    prompts = Prompts(ids=np.arange(2), tokens=np.zeros(3, np.int32), lengths=np.array([1, 2], np.int32))
    lengths = np.array([[3, 1], [2, 0]], np.int32)
    candidates = Candidates(
        tokens_GKT=np.zeros((2, 2, 3), np.int32),
        lengths_GK=lengths,
        logps_GKT=np.zeros((2, 2, 3), np.float32),
        stop_reasons_GK=np.zeros((2, 2), np.int8),
    )
    assert BlockScorer(Padded(length=3)).score(prompts, candidates).defects == {}


def test_prompts_of_unequal_length_are_split_where_they_end():
    from tpo_dist.records import Prompts
    from tpo_dist.rollout.contract import Candidates
    from tpo_dist.rollout.scoring import BlockScorer

    texts = {0: [7], 1: [1, 2, 3], 2: [], 3: [4, 5]}
    seen = {}

    class Reading(TokenReversal):
        def score(self, prompts, tokens_GKT, lengths_GK):
            if len(prompts.ids) > 1:
                raise OSError
            seen[int(prompts.ids[0])] = prompts.tokens.tolist()
            return Scores(scores_GK=np.ones((1, 1), np.float32), token_rewards_GKT=np.ones((1, 1, 1), np.float32))

    prompts = Prompts(
        ids=np.arange(4),
        tokens=np.array([token for text in texts.values() for token in text], np.int32),
        lengths=np.array([len(text) for text in texts.values()], np.int32),
    )
    candidates = Candidates(
        tokens_GKT=np.zeros((4, 1, 1), np.int32),
        lengths_GK=np.ones((4, 1), np.int32),
        logps_GKT=np.zeros((4, 1, 1), np.float32),
        stop_reasons_GK=np.zeros((4, 1), np.int8),
    )
    assert BlockScorer(Reading(length=1)).score(prompts, candidates).rows_F.tolist() == [0, 1, 2, 3]
    assert seen == texts


def test_failures_that_are_no_group_s_are_raised(monkeypatch):
    worker, kind, method = standing("token_reversal")

    def refuse(scores, bad):
        raise UsageError("task.path", "there is no such file", "give one that exists")

    poisoned(monkeypatch, kind, method, [23], refuse)
    with pytest.raises(UsageError, match="no such file"):
        worker.roll(BLOCK)
    monkeypatch.setattr(worker._sampler, "sample", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.roll(BLOCK)


def test_the_seconds_of_a_block_are_shared_by_the_groups_that_are_left(monkeypatch):
    worker, kind, method = standing("token_reversal")
    ticks = iter([10.0, 13.0, 13.0, 19.0])
    poisoned(monkeypatch, kind, method, [20, 21, 22, 23], raises)
    monkeypatch.setattr("tpo_dist.rollout.worker.time.perf_counter", lambda: next(ticks))
    info = worker.roll(BLOCK).groups.info
    assert info["sample_seconds"].tolist() == [1.0] * 3
    assert info["score_seconds"].tolist() == [2.0] * 3


def test_judged_draws_that_are_to_fail_do():
    config = configure({}, ("rollout.groups_per_step=28", *RUNS["judged_reversal"], "task.fail_every=3"))
    worker = make_worker(config)
    worker.load(make_learner(config).snapshot())
    rolled = worker.roll(BLOCK)
    assert [(failure.draw, failure.cause) for failure in rolled.failures] == [
        (20, "scorer raised ConnectionError"),
        (23, "scorer raised ConnectionError"),
        (26, "scorer raised ConnectionError"),
    ]
    assert "refuses draw 23" in rolled.failures[1].detail
    assert TASKS[config.task.name] is JudgedReversal
