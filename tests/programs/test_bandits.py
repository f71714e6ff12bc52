"""The bandits as jobs: every policy learns its task with TPO, and what does not fit is refused before it starts."""

import numpy as np
import pytest

from tpo_dist.errors import UsageError
from tpo_dist.programs import local
from tpo_dist.programs.job import configure
from tpo_dist.programs.run import create_run

LOGS = ("log.sinks=[]", "log.plot=false", "rollout.workers=1")
TABULAR = ("task.name=tabular_bandit", "task.contexts=12", "task.arms=4", "policy.name=tabular")
DIGITS = ("task.name=digit_bandit", "policy.name=mlp", "learner.optimizer.lr=3e-3")
JOBS = {
    "tabular": (*TABULAR, "steps=40", "learner.optimizer.lr=0.1"),
    "tabular with adamw": (*TABULAR, "steps=40", "learner.optimizer.name=adamw", "learner.optimizer.lr=0.1"),
    "digits": (*DIGITS, "steps=80", "rollout.groups_per_step=100"),
    "digits in a table": ("task.name=digit_bandit", "policy.name=tabular", "steps=80", "learner.optimizer.lr=0.3"),
}
BOUNDS = {"tabular": 0.1, "tabular with adamw": 0.1, "digits": 0.25, "digits in a table": 0.8}


@pytest.mark.parametrize("name", JOBS)
def test_it_learns(name, tmp_path):
    sizes = ("rollout.groups_per_step=48", "rollout.group_size=8")
    run = create_run(configure({}, (*sizes, *LOGS, f"runs_dir={tmp_path}", *JOBS[name])))
    errors = [report.metrics["error"].value for report in local.train(run)]
    start = 1 - 1 / (4 if name.startswith("tabular") else 10)
    assert errors[0] == pytest.approx(start, abs=0.1)
    assert np.mean(errors[-5:]) < BOUNDS[name]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("policy.name=tabular",), "policy.name = 'tabular': it reads the number of a context, and task 'token_rev"),
        (("policy.name=mlp",), "policy.name = 'mlp': .* Fix: give transformer"),
        (("task.name=tabular_bandit",), "policy.name = 'transformer': .* Fix: give tabular or mlp"),
        (("task.name=digit_bandit",), "policy.name = 'transformer': .*task 'digit_bandit'"),
        (("task.name=tabular_bandit", "policy.name=mlp"), "policy.name = 'mlp': it reads features"),
        (("task.name=digit_bandit", "policy.name=mlp", "policy.width=0"), "policy.width = 0"),
        (("task.name=digit_bandit", "policy.name=mlp", "task.source=folder"), "task.source = 'folder'"),
        (
            ("task.name=digit_bandit", "policy.name=mlp", "task.source=folder", "task.path=/nowhere"),
            "path = '/nowhere': there is no such folder",
        ),
    ],
)
def test_what_does_not_fit_is_refused(overrides, words):
    with pytest.raises(UsageError, match=words):
        configure({}, overrides)
