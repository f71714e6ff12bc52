"""Groups older than the learner: p_old is what the workers recorded, for every objective, and nothing is reused."""

import copy

import numpy as np
import pytest
import torch

from tests.objective.batches import ragged, ragged_scores
from tests.objective.oracles import batch_baseline, token_rewards
from tests.objective.oracles_surrogate import cispo_weights
from tests.objective.test_corrections import expected
from tests.objective.test_oracles import by_oracle
from tpo_dist.learner.batch import to_tensors
from tpo_dist.objective import CORRECTIONS, OBJECTIVES, make_groups
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.records import ScoredGroups, concatenate

SMALL = ("task.reward=bag_of_tokens", "task.vocab=3", "task.length=3", "rollout.group_size=4", "learner.epochs=1")
STALE = ("stream.max_staleness=2", "learner.optimizer.lr=0.02")


def graded(record, seed):
    """The record with scores that leave no group without a preference."""
    arrays = {name: array for name, array in record.arrays().items() if "/" not in name}
    draw = np.random.default_rng(seed).random
    if record.token_level:
        changes = {"token_rewards": draw(record.tokens.shape, dtype=np.float32)}
    else:
        greedy = draw(len(record), dtype=np.float32)
        changes = {"scores": draw(record.scores.shape, dtype=np.float32), "greedy_scores": greedy}
        arrays.pop("token_rewards")  # so that every method goes by the scores
    return ScoredGroups(**{**arrays, **changes}, token_level=record.token_level)


def behind(config, seed=0, ages=(2, 1, 2)):
    """A learner at version 2, and a record whose blocks of two groups were sampled so many versions ago."""
    learner, worker = make_learner(config), make_worker(config)
    blocks = []
    for version in range(3):
        worker.load(learner.snapshot())
        for block, age in enumerate(ages):
            if 2 - age == version:
                blocks.append(worker.roll(np.arange(2 * block, 2 * block + 2)).whole())
        if version < 2:
            learner.update(worker.roll(np.arange(100 * version + 100, 100 * version + 124)).whole())
    assert learner.version == 2
    return learner, graded(concatenate(blocks), seed)


def plain_groups(learner, record, old_logps=None):
    """The batch in float64 with behaviour log-probs, or others, as the old ones; its padding is not looked at."""
    batch = to_tensors(record, learner.device)
    groups = batch.groups
    old = groups.old_logps_GKT if old_logps is None else old_logps
    greedy = None if groups.greedy_scores_G is None else groups.greedy_scores_G.double()
    return batch, make_groups(old.double(), groups.scores_GK.double(), groups.mask_GKT, greedy_scores_G=greedy)


def naive_pull(name, logps, groups):
    """dloss/dlogp, token by token: the slope of the paper's loss, or its formula where a gradient is stopped."""
    pull = torch.zeros_like(logps)
    lists, old, scores = ragged(logps, groups), ragged(groups.old_logps_GKT, groups), ragged_scores(groups)
    candidates, tokens = groups.present_GK.sum().item(), groups.live.sum().item()
    rewards = token_rewards(lists, scores)
    baseline = batch_baseline(rewards)
    for g, k, t in groups.live.nonzero().tolist():
        if name == "cispo":
            pull[g, k, t] = -cispo_weights(lists, old, scores)[g][k][t] / tokens
        elif name == "dg":
            advantage = rewards[g][k][t] - baseline[t]
            pull[g, k, t] = -advantage / (1 + np.exp(advantage * lists[g][k][t])) / candidates
        else:
            values = []
            for step in (1e-6, -1e-6):
                moved = logps.clone()
                moved[g, k, t] += step
                values.append(by_oracle(name, moved, groups))
            pull[g, k, t] = (values[0] - values[1]) / 2e-6
    return pull


def gradient_of(policy, batch, pull):
    policy.zero_grad()
    (batch.from_groups(pull.float()) * policy.scorer(batch.candidates)()).sum().backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters()])


def logps_of(policy, batch):
    with torch.no_grad():
        return batch.to_groups(policy.scorer(batch.candidates)()).double()


def flat_gradient(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters()])


@pytest.mark.parametrize("ages", [(2, 2, 2), (2, 0, 1)], ids=["two versions old", "of three versions"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_towards_what_the_behaviour_log_probs_say(name, ages, small_config):
    config = small_config(*SMALL, *STALE, f"objective.name={name}")
    learner, record = behind(config, ages=ages)
    before = copy.deepcopy(learner.policy)
    learner.update(record)
    batch, groups = plain_groups(learner, record)
    if not record.token_level:
        torch.testing.assert_close(
            groups.old_logps_GKT[groups.mask_GKT].float(), torch.tensor(record.behavior_logprobs), rtol=0, atol=0
        )
    logps = logps_of(before, batch)
    assert (logps - groups.old_logps_GKT).abs()[groups.mask_GKT].mean() > 0.05  # it matters which are the old ones
    naive = gradient_of(before, batch, naive_pull(name, logps, groups))
    assert naive.norm() > 1e-4
    assert (flat_gradient(learner.policy) - naive).norm() <= 1e-3 * naive.norm()


@pytest.mark.parametrize("correction", [name for name in CORRECTIONS if name != "none"])
@pytest.mark.parametrize("name", ["tpo", "grpo", "ppo"])
def test_corrections_weigh_the_start_of_the_batch_over_the_behaviour(name, correction, small_config, monkeypatch):
    """In both epochs: the ratio is frozen at the start, and what the objective calls old is the start too."""
    options = {"tis": {"cap": 1.05}, "icepop": {"low": 0.9, "high": 1.2}, "vtrace": {"c_bar": 0.95}}[correction]
    given = [f"learner.correction.{key}={value}" for key, value in options.items()]
    config = small_config(
        *SMALL, *STALE, f"objective.name={name}", f"learner.correction.name={correction}", *given, "learner.epochs=2"
    )
    learner, record = behind(config)
    start, seen, step = copy.deepcopy(learner.policy), [], learner.optimizer.step

    def watched():
        seen.append((copy.deepcopy(learner.policy), flat_gradient(learner.policy)))
        step()

    monkeypatch.setattr(learner.optimizer, "step", watched)
    learner.update(record)
    batch, behaviour = plain_groups(learner, record)
    start_logps = logps_of(start, batch)
    _, from_start = plain_groups(learner, record, start_logps)
    weights = torch.zeros_like(start_logps)
    for g, k in np.ndindex(*behaviour.scores_GK.shape):
        ratios = (start_logps - behaviour.old_logps_GKT)[g, k].exp().tolist()
        weights[g, k] = torch.tensor(expected(correction, ratios, **options), dtype=torch.float64)
    assert (weights != 1).any()
    assert (weights != weights[0, 0, 0]).any()
    assert len(seen) == 2
    for epoch, (at, got) in enumerate(seen):
        naive = gradient_of(at, batch, naive_pull(name, logps_of(at, batch), from_start) * weights)
        assert (got - naive).norm() <= 2e-3 * naive.norm(), epoch


@pytest.mark.parametrize("micro", ["null", "3"])
@pytest.mark.parametrize("correction", ["none", "tis"])
@pytest.mark.parametrize("name", ["tpo", "tpo_token"])
def test_the_effective_sample_size_is_that_of_the_sequence_ratios(name, correction, micro, small_config):
    config = small_config(
        *SMALL,
        *STALE,
        f"objective.name={name}",
        f"learner.correction.name={correction}",
        f"learner.micro_batch_candidates={micro}",
        "learner.epochs=2",
    )
    learner, record = behind(config)
    batch = to_tensors(record, learner.device)
    moved = (logps_of(learner.policy, batch) - batch.groups.old_logps_GKT).sum(dim=-1).flatten().tolist()
    ratios = [np.exp(one) for one in moved]
    share = sum(ratios) ** 2 / sum(ratio**2 for ratio in ratios) / len(ratios)
    assert 0.05 < share < 0.98
    metrics = learner.update(record)
    assert metrics["ratio_ess"].value == pytest.approx(share, rel=1e-4)
    assert metrics["ratio_ess"].count == len(ratios)


def test_ratios_beyond_the_range_of_floats_are_compared_all_the_same(small_config):
    learner, record = behind(small_config(*SMALL, *STALE))
    arrays = {name: array for name, array in record.arrays().items() if "/" not in name}
    unlikely = record.behavior_logprobs.copy()
    unlikely[:3] = -500.0  # the first candidate of three tokens: its ratio would be exp(1500)
    metrics = learner.update(ScoredGroups(**{**arrays, "behavior_logprobs": unlikely}))
    assert metrics["ratio_ess"].value == pytest.approx(1 / record.scores.size)


def test_on_policy_the_effective_sample_size_is_all_of_it_exactly(small_config):
    learner, record = behind(small_config(*SMALL), ages=(0, 0, 0))
    metrics = learner.update(record)
    assert metrics["ratio_ess"].value == 1.0
    assert metrics["staleness_max"].value == 0


@pytest.mark.parametrize(("ages", "epochs", "passes"), [((0, 0, 0), 1, 1), ((2, 2, 2), 1, 1), ((2, 0, 1), 3, 3)])
def test_the_effective_sample_size_costs_no_pass_of_its_own(ages, epochs, passes, small_config, monkeypatch):
    learner, record = behind(small_config(*SMALL, f"learner.epochs={epochs}", "stream.max_staleness=2"), ages=ages)
    scored, scorer = [], learner.policy.scorer

    def counting(batch):
        score = scorer(batch)
        return lambda: scored.append(len(batch)) or score()

    monkeypatch.setattr(learner.policy, "scorer", counting)
    learner.update(record)
    assert scored == [len(record)] * passes
