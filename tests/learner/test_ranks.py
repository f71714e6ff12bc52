"""Several ranks of a learner, gloo on this machine: the same as one, on disk too; a failure says which rank it was."""

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.learner import ranked
from tests.learner.test_language_model import configured, roll
from tests.tiny import tiny_model
from tpo_dist.errors import UsageError
from tpo_dist.learner.checkpoint import load_checkpoint, load_weights, read_state, save_checkpoint, state_digests
from tpo_dist.learner.checkpoint_tensors import _write_shards
from tpo_dist.learner.micro_batches import split
from tpo_dist.learner.team import ALONE, RankLost, Team
from tpo_dist.policies.causal_lm import CausalLMOptions
from tpo_dist.policies.contract import CandidateBatch

pytestmark = pytest.mark.xdist_group("ranks")  # of which a process has one team at a time

TOLERANCE = 1e-5
"""Of weights after three steps of two epochs, which have moved by 1e-2: sums over ranks are other roundings, of 1e-7
relative to the gradient, and Adam divides by the gradient's size."""

STALE = "log-probs of groups that older weights sampled"
CASES = {
    "all weights": ({}, {}),
    "micro-batches, a reference and a bound of the gradient": (
        {},
        {"micro_batch_tokens": 40, "reference": "initial", "reference_kl": 0.1, "max_grad_norm": 0.5},
    ),
    "adapters, with their base as reference": (
        {"lora_rank": 4},
        {"micro_batch_candidates": 5, "reference": "initial", "reference_kl": 0.1, "max_grad_norm": 0.5},
    ),
    "layers computed twice": ({"gradient_checkpointing": True}, {"old_logprobs": "recompute"}),
    STALE: ({}, {"old_logprobs": "recompute", "micro_batch_tokens": 40}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("model"), spread=0.2))


@pytest.fixture(scope="module")
def shared(folder):
    """A learner of two ranks."""
    make = partial(ranked.make, folder, configured())
    team = ranked.lead(120.0, make)
    learner = make(team)
    team.ready()
    yield learner
    learner.close()


def begin(learner, folder, config, options):
    learner.team.run(ranked.begin, learner, folder, config, options)
    return learner


def alone(folder, config, options):
    return ranked.make(folder, config, ALONE) if not options else begin(_bare(), folder, config, options)


def _bare():
    learner = object.__new__(ranked.Learner)
    learner.team = ALONE
    return learner


def assert_alike(shared, one):
    ours, theirs = shared.snapshot(), one.snapshot()
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in ours.arrays.items():
        np.testing.assert_allclose(array, theirs.arrays[name], rtol=0, atol=TOLERANCE, err_msg=name)
    np.testing.assert_allclose(ours.probe_logps, theirs.probe_logps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_come_to_what_one_comes_to(shared, folder, case):
    options, changes = CASES[case]
    config = configured(epochs=2, **changes)
    one = alone(folder, config, options)
    begin(shared, folder, config, options)
    first, newest = shared.snapshot(), None
    for seed in range(3):
        before, newest = newest, roll(one, seed)
        record = newest if case != STALE or before is None else before
        shared.snapshot()
        shared.published = dict(one.published)  # the same but for rounding, which a digest does not forgive
        found, expected = shared.update(record), one.update(record)
        for name in ("grad_norm_first", "grad_norm_last", "loss_first", "loss_last", "ratio_ess", "mismatch_token"):
            assert found[name].value == pytest.approx(expected[name].value, rel=1e-4, abs=1e-6), name
    assert_alike(shared, one)
    moved = [np.abs(array - first.arrays[name]).max() for name, array in shared.snapshot().arrays.items()]
    assert min(moved) > 100 * TOLERANCE


def test_each_rank_has_half_of_everything(shared, folder):
    for options in ({}, {"lora_rank": 4}):
        begin(shared, folder, configured(), options)
        mine, whole = shared.team.run(ranked.divided, shared)
        assert mine == pytest.approx(whole / 2, rel=0.02)


def test_a_checkpoint_of_ranks_is_read_by_any_number(shared, folder, tmp_path):
    config = configured(epochs=1)
    one, sender = alone(folder, config, {}), begin(shared, folder, config, {})
    for seed in range(2):
        record = roll(one, seed)
        sender.published = dict(one.published)
        one.update(record), sender.update(record)
    path = save_checkpoint(tmp_path / "two", sender, keep=1)
    digests = state_digests(sender)
    files = set(read_state(path)["files"])
    assert files == {
        "header.safetensors",
        "rows.jsonl",
        *(f"shards/{name.name}" for name in (path / "shards").iterdir()),
    }
    assert len(list((path / "shards").iterdir())) == 2
    single = alone(folder, config, {})
    load_checkpoint(path, single)
    assert (single.version, state_digests(single)) == (2, digests)

    plain = save_checkpoint(tmp_path / "one", single, keep=1)
    begin(shared, folder, config, {})
    load_checkpoint(plain, shared)
    assert (shared.version, state_digests(shared)) == (2, digests)
    record = roll(single, 2)
    shared.published = dict(single.published)
    shared.update(record), single.update(record)
    assert_alike(shared, single)
    begin(shared, folder, config, {})
    load_checkpoint(path, shared)
    assert state_digests(shared) == digests

    with pytest.raises(UsageError, match="holds another model: the weights lack parameter .*lora"):
        load_checkpoint(path, alone(folder, config, {"lora_rank": 4}))
    damaged = next((path / "shards").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with pytest.raises(UsageError, match=r"shards/.*: its checksum is not the one that was written"):
        load_checkpoint(path, single)


def test_its_weights_are_exported_as_a_model_folder(shared, folder, tmp_path):
    from transformers import AutoModelForCausalLM

    begin(shared, folder, configured(), {"lora_rank": 4})
    record = roll(alone(folder, configured(), {"lora_rank": 4}), 0)
    shared.published = {0: record.snapshot_digests[0].decode()}
    shared.update(record)
    policy = CausalLMOptions(path=folder, lora_rank=4).load(1.0, 0)
    load_weights(save_checkpoint(tmp_path, shared, keep=1), policy)
    policy.save_pretrained(str(tmp_path / "exported"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    snapshot = shared.snapshot()
    tokens = torch.from_numpy(snapshot.probe_tokens).long()
    logps = model(tokens[None]).logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None]).squeeze(1)
    np.testing.assert_allclose(logps.detach(), snapshot.probe_logps, atol=1e-5)


def test_what_no_rank_can_write_is_said_and_the_team_goes_on(shared):
    with pytest.raises(OSError, match="/proc/nowhere"):
        shared.team.run(_write_shards, shared, Path("/proc/nowhere"))
    assert shared.snapshot().digest == shared.snapshot().digest


class OneOf(Team):
    """A rank that hears nothing of the others."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


@pytest.mark.parametrize("ranks", [2, 3, 30])
@pytest.mark.parametrize("limits", [(None, None), (4, None), (None, 20)])
def test_every_candidate_is_scored_by_one_rank(folder, ranks, limits):
    """Some are empty, one is long, and of thirty ranks some have nothing to do."""
    policy = CausalLMOptions(path=folder).load(1.0, 0)
    lengths = torch.tensor([[3, 0, 12], [1, 2, 3], [0, 0, 0], [4, 4, 1]])
    batch = CandidateBatch(
        prompts_GP=torch.arange(20).view(4, 5),
        tokens_GKT=torch.arange(4 * 3 * 12).view(4, 3, 12),
        mask_GKT=torch.arange(12) < lengths.unsqueeze(-1),
    )
    shares = [split(policy, batch, *limits, OneOf(rank, ranks)) for rank in range(ranks)]
    assert len({len(parts) for parts in shares}) == 1
    found, passes = torch.zeros(4, 3, 12), torch.zeros(4, 3)
    for parts in shares:
        for part in parts:
            logps = part.score().detach()
            found[part.groups, part.candidates] += logps
            passes[part.groups, part.candidates] += (logps != 0).any(-1)
    assert torch.equal(passes, (lengths > 0).float())
    torch.testing.assert_close(found, policy.scorer(batch)().detach(), rtol=0, atol=1e-5)


def test_a_group_may_span_ranks_and_tokens_are_balanced(folder):
    policy = CausalLMOptions(path=folder).load(1.0, 0)
    batch = CandidateBatch(
        prompts_GP=torch.arange(8).view(1, 8),
        tokens_GKT=torch.arange(64).view(1, 8, 8),
        mask_GKT=torch.ones(1, 8, 8, dtype=torch.bool),
    )
    for rank in range(2):
        (part,) = split(policy, batch, None, None, OneOf(rank, 2))
        assert (part.score() != 0).any(-1)[0].tolist() == [rank == 0] * 4 + [rank == 1] * 4


def test_a_killed_rank_ends_the_step(shared, folder):
    """The last of these tests: nothing is left of the team."""
    record = roll(alone(folder, configured(), {}), 0)
    begin(shared, folder, configured(), {})
    shared.published = {0: record.snapshot_digests[0].decode()}
    os.kill(shared.team.pids[1], signal.SIGKILL)
    with pytest.raises(RankLost, match="rank 1 of the learner was killed by SIGKILL during update"):
        shared.update(record)
