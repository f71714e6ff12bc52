"""The same training on a GPU; skipped where there is none."""

import numpy as np
import pytest
import torch

from tpo_dist.programs import local
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.programs.run import create_run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

CUDA = ("learner.device=cuda", "learner.gpus=1", "rollout.device=cuda", "rollout.gpus=1")


def test_gradients_equal_those_of_the_cpu(small_config):
    learners = []
    for overrides in ((), CUDA):
        config = small_config("task.reward=bag_of_tokens", "learner.epochs=1", *overrides)
        learner, worker = make_learner(config), make_worker(small_config("task.reward=bag_of_tokens"))
        worker.load(learner.snapshot())
        learner.update(worker.roll(np.arange(24)).groups)
        learners.append({name: p.grad.cpu() for name, p in learner.policy.named_parameters()})
    for name, on_cpu in learners[0].items():
        torch.testing.assert_close(learners[1][name], on_cpu, rtol=1e-3, atol=1e-6)


def test_it_learns(small_config):
    run = create_run(small_config("steps=60", "task.length=3", "rollout.group_size=16", *CUDA))
    errors = [report.metrics["error"].value for report in local.train(run)]
    assert np.mean(errors[-10:]) < 0.15 < errors[0]
