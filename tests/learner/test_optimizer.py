"""The learning rate over the steps."""

import pytest

from tpo_dist.config import OptimizerConfig, ScheduleConfig
from tpo_dist.learner.optimizer import LearningRate, make_optimizer
from tpo_dist.policies.transformer import TransformerOptions


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ScheduleConfig(), [1.0, 1.0, 1.0, 1.0]),
        (ScheduleConfig(name="linear"), [1.0, 0.75, 0.5, 0.25]),
        (ScheduleConfig(name="linear", final_fraction=0.2), [1.0, 0.8, 0.6, 0.4]),
        (ScheduleConfig(name="cosine"), [1.0, 0.8535533905932737, 0.5, 0.14644660940672627]),
        (ScheduleConfig(name="constant", warmup_steps=3), [0.25, 0.5, 0.75, 1.0]),
        (ScheduleConfig(name="linear", warmup_steps=2), [1 / 3, 2 / 3, 1.0, 0.5]),
    ],
)
def test_rates_of_four_steps(schedule, expected):
    rate = LearningRate(1.0, schedule, 4)
    assert [rate.at(step) for step in range(4)] == pytest.approx(expected)


def test_rates_beyond_the_end_stay_at_the_final_one():
    assert LearningRate(1.0, ScheduleConfig(name="cosine", final_fraction=0.1), 4).at(9) == pytest.approx(0.1)


def test_adamw_takes_everything_with_the_options_given():
    policy = TransformerOptions().build(2, 4, 0)
    optimizer = make_optimizer(OptimizerConfig(name="adamw", lr=0.1, beta1=0.8, weight_decay=0.3), policy)
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(policy.parameters()))
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.1, (0.8, 0.999), 0.3)
