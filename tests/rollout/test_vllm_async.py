"""vLLM in a process of its own: it samples whatever its worker does, takes weights on the way, and ends with it."""

import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from tests.processes import wait_for
from tests.rollout.language_models import about, all_plain_logps, assert_own_version, finish, questions
from tpo_dist.errors import UsageError
from tpo_dist.rollout.contract import WrongWeights
from tpo_dist.rollout.vllm.contract import EngineDied
from tpo_dist.rollout.vllm.owner import OWNER
from tpo_dist.rollout.vllm_sampler import VLLMSampler, VLLMSampling

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.vllm]

LONG = 448


@pytest.fixture(scope="module")
def engine(folder):
    """One for all tests; the last kills it."""
    pytest.importorskip("vllm")
    torch.set_num_threads(1)  # vLLM's process has as many
    sampler = VLLMSampling(engine="async", max_sequences=16).build(about(folder, max_tokens=LONG))
    yield sampler.engine
    sampler.close()


@pytest.fixture
def make(engine, folder, models):
    """A sampler over the engine, with version 1 loaded; its completions are long until `shorten` is called."""

    def make(**options):
        options = VLLMSampling(engine="async", **options)
        engine._about = about(folder, max_tokens=LONG, end_tokens=())
        sampler = VLLMSampler(engine, engine._about, options)
        sampler.load(models[1][1])
        return sampler

    return make


def shorten(engine, tokens):
    """Completions that begin from now on are no longer than this."""
    engine._about = dataclasses.replace(engine._about, max_tokens=tokens)


def until(sampler, key):
    """This block; those under way before it are longer."""
    while True:
        for ended, candidates in sampler.step():
            assert ended == key
            return candidates


def test_tokens_are_those_of_the_engine_in_this_process(make, engine, folder, models):
    inproc = VLLMSampling(max_sequences=8).build(about(folder, max_tokens=24))
    inproc.load(models[1][1])
    prompts = questions([5, 40, 64, 1], first=7)
    expected = inproc.sample(prompts, 5)
    inproc.close()
    sampler = make()
    engine._about = about(folder, max_tokens=24)
    drawn = sampler.sample(prompts, 5)
    np.testing.assert_array_equal(drawn.tokens_GKT, expected.tokens_GKT)
    np.testing.assert_array_equal(drawn.stop_reasons_GK, expected.stop_reasons_GK)
    np.testing.assert_allclose(drawn.logps_GKT, expected.logps_GKT, atol=1e-5)


def test_it_samples_while_nobody_asks(make, engine):
    make()
    shorten(engine, 16)
    for number in range(40):  # more than there is room for at a time
        engine.add(str(number), [65, 66, 67], 1.0, number)
    wait_for(lambda: engine._ended.qsize() == 40, "completions that nobody takes")
    ended = engine.step()
    assert {name for name, _ in ended} == set(map(str, range(40)))
    assert {len(completion.tokens) for _, completion in ended} == {16}
    assert engine.step() == []


def test_weights_change_on_the_way_and_every_token_knows_its_own(make, engine, models):
    sampler, prompts = make(), questions([5, 40], first=3)
    sampler.submit(1, prompts, 2)
    assert sampler.step() == []
    shorten(engine, 8)
    for key, version in ((2, 2), (3, 3)):
        sampler.submit(key, questions([5], first=key), 2)
        until(sampler, key)  # so the long ones have some tokens of this version
        sampler.load(models[version][1])
        assert (sampler.version, sampler.digest) == (version, models[version][1].digest)
    candidates = finish(sampler)[1]
    versions = candidates.versions_GKT
    assert (candidates.lengths_GK == LONG).all()
    assert (np.diff(versions, axis=-1) >= 0).all()
    assert {1, 2, 3} == set(versions.ravel().tolist())
    assert_own_version(candidates, prompts, models)  # what came before is computed anew, so this holds for all


def test_kept_caches_are_of_old_weights_and_only_for_what_was_under_way(make, engine, models):
    sampler, prompts = make(keep_cache=True), questions([40, 64], first=3)
    sampler.submit(1, prompts, 2)
    assert sampler.step() == []
    shorten(engine, 8)
    sampler.submit(9, questions([5]), 1)
    until(sampler, 9)
    sampler.load(models[2][1])
    sampler.submit(2, prompts, 2)
    found = finish(sampler)
    assert_own_version(found[1], prompts, models, only=(1,))
    new = found[1].versions_GKT == 2
    exact = all_plain_logps(models[2][0], prompts, found[1], 1.0)
    assert np.abs(found[1].logps_GKT - exact)[new].max() > 0.01  # new weights over old keys and values
    assert found[2].versions_GKT is None  # the same prompts, asked anew, find nothing of the old
    expected = all_plain_logps(models[2][0], prompts, found[2], 1.0)
    np.testing.assert_allclose(found[2].logps_GKT, expected, atol=1e-4, rtol=0)


def test_a_wrong_probe_is_found_while_candidates_are_under_way(make, engine, models):
    sampler = make()
    shorten(engine, 24)
    sampler.submit(1, questions([5] * 4), 5)  # more than there are places: the probe has its own
    sampler.step()
    odd = dataclasses.replace(models[2][1], probe_logps=models[1][1].probe_logps)
    with pytest.raises(WrongWeights, match="after loading snapshot 2"):
        sampler.load(odd)
    sampler.load(models[2][1])
    finish(sampler)


def test_what_vllm_refuses_is_raised_where_it_is_waited_for(make, engine, folder):
    sampler = make()
    sampler.submit(1, questions([5]), 1)
    engine._about = about(folder, max_tokens=LONG, end_tokens=(10**6,))
    with pytest.raises(Exception, match="1000000.* out-of-vocab"):
        finish(sampler)


def test_an_engine_that_is_silent_is_named(make, engine, models, monkeypatch):
    sampler = make()
    monkeypatch.setattr("tpo_dist.rollout.vllm.async_engine._ANSWER_SECONDS", 0.5)
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        with pytest.raises(
            TimeoutError, match=f"waited 0.5 s for .* snapshot 2, which vLLM's process {engine.pid} owes"
        ):
            sampler.load(models[2][1])
    finally:
        os.kill(engine.pid, signal.SIGCONT)


def test_an_engine_that_dies_is_named_at_once_whatever_is_waited_for(make, engine, models):
    """The last test: there is no engine afterwards."""
    sampler = make()
    sampler.submit(1, questions([5] * 4), 2)
    sampler.step()
    os.kill(engine.pid, signal.SIGSTOP)  # so that it dies with a question
    threading.Timer(0.5, os.kill, (engine.pid, signal.SIGKILL)).start()
    started = time.monotonic()
    died = f"vLLM's process {engine.pid} died \\(killed by SIGKILL\\)"
    with pytest.raises(EngineDied, match=died):
        sampler.load(models[2][1])
    with pytest.raises(EngineDied, match=died):
        finish(sampler)
    with pytest.raises(EngineDied, match=died):
        engine.logps([1, 2, 3])
    assert time.monotonic() - started < 60  # its deadline is 300 s


def test_a_script_that_vllm_s_process_runs_again_is_told_what_it_lacks(monkeypatch, tmp_path):
    monkeypatch.setenv(OWNER, "1")
    with pytest.raises(UsageError, match=r"sampler.engine = 'async': .*the script anew.*__name__ == '__main__'"):
        VLLMSampling(engine="async").build(about(tmp_path))


def test_a_daemon_cannot_have_it(monkeypatch, tmp_path):
    import multiprocessing

    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(UsageError, match="sampler.engine = 'async': .* may start none.*sampler.engine=inproc"):
        VLLMSampling(engine="async").build(about(tmp_path))


def test_other_systems_cannot_have_it(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(UsageError, match="sampler.engine = 'async': only on Linux"):
        VLLMSampling(engine="async").build(about(tmp_path))
