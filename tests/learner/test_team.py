"""Processes that do everything together, without a learner: what becomes of a call when one of them does not."""

import os
import signal

import pytest

from tests.learner import ranked
from tests.rollout.language_models import about
from tpo_dist.errors import UsageError
from tpo_dist.learner.team import RankLost
from tpo_dist.rollout.vllm_sampler import VLLMSampling

pytestmark = pytest.mark.xdist_group("ranks")


def start(seconds=60.0):
    team = ranked.lead(seconds, ranked.nothing)
    team.ready()
    return team


def test_a_rank_that_is_killed_or_fails_alone_ends_the_call_with_its_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("FAILING_RANK", "1")
    with pytest.raises(
        RankLost, match="rank 1 .* failed during building its learner: ValueError: no room for the weigh"
    ):
        start()
    monkeypatch.delenv("FAILING_RANK")
    team = start()
    assert team.run(ranked.count, team) == 2
    with pytest.raises(UsageError, match="sampler.name = 'vllm': .*this one is a rank of the learner.*without --local"):
        VLLMSampling().build(about(tmp_path))
    with pytest.raises(RankLost, match="rank 1 of the learner failed during fail: ValueError: the weights are gone"):
        team.run(ranked.fail, team)
    with pytest.raises(RankLost, match="have been ended"):
        team.run(ranked.count, team)


def test_a_rank_that_hangs_is_named_after_its_time():
    team = start(seconds=8.0)
    os.kill(team.pids[1], signal.SIGSTOP)
    with pytest.raises(RankLost, match="waited 8 s for rank 1 of the learner in count"):
        team.run(ranked.count, team)
