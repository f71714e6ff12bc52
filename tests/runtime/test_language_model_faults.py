"""A language model that is trained while each kind of its processes is killed: it comes to the weights of a run in one
process without faults, bit for bit."""

import json
import os
import signal

import pytest

from tests.cli.test_killed import run_folder, start
from tests.processes import pids_running, wait_for
from tests.programs.test_local import assert_equal_runs
from tests.runtime.test_faults import strike
from tests.tiny import tiny_model
from tpo_dist.audit import audit
from tpo_dist.programs import local
from tpo_dist.programs.control import read_faults
from tpo_dist.programs.distributed import launch
from tpo_dist.programs.folder import LEDGER
from tpo_dist.programs.job import configure
from tpo_dist.programs.run import Run, create_run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

STEPS = 12
SCORER = """
def vowels(prompt, completion, answer):
    return sum(letter in "aeiou" for letter in completion) / (1 + len(completion))
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Overrides of a run of seconds."""
    folder = tmp_path_factory.mktemp("task")
    rows = "".join(json.dumps({"prompt": f"say {number}: ", "answer": ""}) + "\n" for number in range(20))
    (folder / "prompts.jsonl").write_text(rows)
    (folder / "scorer.py").write_text(SCORER)
    return (
        f"steps={STEPS}",
        "task.name=text",
        f"task.path={folder / 'prompts.jsonl'}",
        f"task.scorer={folder / 'scorer.py'}:vowels",
        "policy.name=causal_lm",
        f"policy.path={tiny_model(folder / 'model', spread=0.1)}",
        "sampler.name=transformers",
        "objective.group_distribution=ratio",
        "rollout.groups_per_step=4",
        "rollout.block_size=2",
        "rollout.group_size=8",
        "rollout.workers=1",
        "rollout.cpus=0.5",
        "learner.optimizer.name=adamw",
        "learner.optimizer.lr=3e-3",
        "learner.epochs=2",
        "scoring.processes=1",
        "stream.max_staleness=0",
        "text.max_prompt_tokens=32",
        "text.max_completion_tokens=12",
        "text.chat=false",
        "checkpoint.every_steps=4",
        "log.sinks=[]",
        "log.plot=false",
    )


@pytest.fixture(scope="module")
def straight(settings, tmp_path_factory):
    """The same training in one process."""
    run = create_run(configure({}, (*settings, f"runs_dir={tmp_path_factory.mktemp('straight')}")))
    for _ in local.train(run):
        pass
    return run


def kill_scorer(system):
    """The process that scores for the only worker."""
    (member,) = system.supervisor.fleet.members.values()
    (pid,) = pids_running("tpo_dist.tasks.scorer_process", below=member.where.pid)
    os.kill(pid, signal.SIGKILL)


def test_it_comes_to_the_same_weights_whatever_dies(settings, straight, tmp_path):
    run = create_run(configure({}, (*settings, f"runs_dir={tmp_path}")))
    steps = []
    with launch(run) as system:
        for report in system.train(STEPS):
            steps.append(report.step)
            if steps in ([1, 2], [1, 2, 3, 4]):
                kill_scorer(system)
            if len(steps) in (3, 6, 9):
                strike(system, {3: "worker", 6: "stream", 9: "learner"}[len(steps)])
    assert steps == [*range(1, 10), *range(9, 13)]  # the learner went on from its checkpoint of step 8
    assert_equal_runs(run, straight)
    account = audit(run.folder / LEDGER)
    assert account.complete
    assert account.draws["trained"] == STEPS * 4
    assert account.draws["failed"] == 0  # a scorer that was killed cost an attempt, and no group
    assert [(fault.role, fault.what) for fault in read_faults(run.folder)] == [
        ("rollout", "died"),
        ("stream", "died"),
        ("learner", "died"),
    ]


def test_it_goes_on_where_its_driver_was_killed(settings, straight, tmp_path):
    import ray

    (tmp_path / "job.yaml").write_text("name: words")
    folder, address = tmp_path / "runs", ray.get_runtime_context().gcs_address
    process = start(folder, tmp_path / "job.yaml", "--address", address, *settings)
    found = wait_for(
        lambda: list(folder.glob("*/checkpoints/step-*")) or process.poll() is not None, "a checkpoint", 240
    )
    assert found is not True, process.stderr.read()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    run = run_folder(folder)
    done = start(folder, "--resume", run.name, "--address", address)
    _, errors = done.communicate(timeout=240)
    assert done.returncode == 0 or f"has finished its {STEPS} steps" in errors, errors
    assert_equal_runs(Run(configure(json.loads((run / "config.json").read_text())), run), straight)
    assert audit(run / LEDGER).complete
