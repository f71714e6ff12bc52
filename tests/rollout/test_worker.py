"""Rollout workers: groups belong to their draws, weights are what they claim to be."""

import numpy as np
import pytest
import torch

from tpo_dist.programs import parts
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.records import Snapshot, StopReason, concatenate
from tpo_dist.rollout.contract import WrongWeights


def test_a_block_is_the_same_whoever_rolls_it(small_config):
    config = small_config()
    snapshot = make_learner(config).snapshot()
    rolled = []
    for before in ([], [3], [1, 2]):
        worker = make_worker(config)
        worker.load(snapshot)
        for block in before:
            worker.roll(np.arange(4 * block, 4 * block + 4))
        rolled.append(worker.roll(np.arange(20, 24)).groups)
    for groups in rolled[1:]:
        for name, array in rolled[0].arrays().items():
            if not name.startswith("info/"):
                np.testing.assert_array_equal(groups.arrays()[name], array)


def test_groups_carry_version_digest_and_behaviour_log_probs(small_config):
    config = small_config("task.reward=bag_of_tokens")
    learner, worker = make_learner(config), make_worker(config)
    learner.version = 9
    snapshot = learner.snapshot()
    worker.load(snapshot)
    groups = concatenate([worker.roll(np.arange(4)).groups, worker.roll(np.arange(4, 8)).groups])
    assert groups.group_ids.tolist() == list(range(8))
    assert set(groups.snapshot_versions.tolist()) == {9}
    assert set(groups.snapshot_digests.tolist()) == {snapshot.digest.encode()}
    assert (groups.stop_reasons == StopReason.FIXED).all()
    assert (groups.lengths == config.task.options["length"]).all()
    np.testing.assert_allclose(groups.token_rewards.reshape(8, 8, -1).mean(-1), groups.scores, rtol=1e-6)
    from tpo_dist.learner.batch import to_tensors

    batch = to_tensors(groups, learner.device)
    np.testing.assert_allclose(
        learner.policy.scorer(batch.candidates)().detach(), batch.groups.old_logps_GKT, rtol=1e-4, atol=1e-5
    )


def test_sampling_without_weights_is_refused(small_config):
    with pytest.raises(RuntimeError, match="no weights yet"):
        make_worker(small_config()).roll(np.arange(4))


def test_corrupted_weights_are_caught_at_loading(small_config):
    config = small_config()
    snapshot = make_learner(config).snapshot()
    arrays = {name: array.copy() for name, array in snapshot.arrays.items()}
    arrays["head.bias"][0] += 1e-6
    with pytest.raises(WrongWeights, match="snapshot 0 was published with digest"):
        make_worker(config).load(Snapshot(version=0, arrays=arrays, digest=snapshot.digest))


def test_weights_of_another_policy_are_refused(small_config):
    with pytest.raises(ValueError, match="parameter .* has shape"):
        make_worker(small_config()).load(make_learner(small_config("policy.width=32")).snapshot())


@torch.no_grad()
def corrupt(worker):
    """One bit of one weight turns in the memory of the process."""
    weight = worker._sampler._policy.head.weight
    weight.view(torch.int32)[1, 2] ^= 1


@pytest.mark.parametrize("choice", ["block", "null"])
def test_weights_corrupted_in_memory_after_loading_are_caught_by_the_learner(choice, small_config):
    config = small_config(f"rollout.verify_weights={choice}")
    learner, worker = make_learner(config), make_worker(config)
    snapshot = learner.snapshot()
    worker.load(snapshot)
    before = worker.roll(np.arange(24)).groups
    assert set(before.snapshot_digests.tolist()) == {snapshot.digest.encode()}
    corrupt(worker)
    groups = worker.roll(np.arange(24, 48)).groups
    [digest] = set(groups.snapshot_digests.tolist())
    assert digest != snapshot.digest.encode()
    with pytest.raises(ValueError, match=f"digest {digest.decode()}"):
        learner.update(groups)
    learner.update(before)  # what it sampled before is welcome
    worker.load(learner.snapshot())
    learner.update(worker.roll(np.arange(48, 72)).groups)  # and loading mends it


def test_a_failed_group_tells_the_digest_that_was_found(small_config, monkeypatch):
    config = small_config()
    worker, snapshot = make_worker(config), make_learner(config).snapshot()
    worker.load(snapshot)
    corrupt(worker)
    monkeypatch.setattr(type(worker._task), "score", lambda *_: None)
    digests = {failure.record["snapshot_digest"] for failure in worker.roll(np.arange(4)).failures}
    assert len(digests) == 1
    assert digests != {snapshot.digest}


@pytest.mark.parametrize("choice", ["load", "null"])
def test_hashing_at_loading_only_is_what_large_weights_get(choice, small_config, monkeypatch):
    config = small_config(f"rollout.verify_weights={choice}")
    size = sum(array.nbytes for array in make_learner(config).snapshot().arrays.values())
    for limit, caught in ((size - 1, False), (size, choice == "null")):
        monkeypatch.setattr(parts, "_HASHED_BYTES", limit)
        worker, snapshot = make_worker(config), make_learner(config).snapshot()
        worker.load(snapshot)
        corrupt(worker)
        digests = set(worker.roll(np.arange(4)).groups.snapshot_digests.tolist())
        assert (digests != {snapshot.digest.encode()}) == caught
