"""A language model trained through Ray: real vLLM samples, scorers score, new weights reach it on the way."""

import json
import os
import signal
import statistics

import pytest

from tests.processes import lives, pids_running, wait_for
from tests.tiny import tiny_model
from tpo_dist.audit import audit
from tpo_dist.programs.control import read_faults
from tpo_dist.programs.distributed import launch
from tpo_dist.programs.folder import EVALUATIONS, LEDGER
from tpo_dist.programs.job import configure
from tpo_dist.programs.run import create_run

pytest.importorskip("vllm")
from tests.runtime.test_faults import strike

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.usefixtures("ray_cluster")]

SCORER = """
def digits(prompt, completion, answer):
    text = completion.strip()
    return sum(letter.isdigit() for letter in text) / len(text) if text else 0.0
"""
SUMS = (
    "task.name=reasoning_gym",
    "task.dataset=chain_sum",
    "task.parameters={min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}",
    "task.answer_in=completion",
    "task.instructions=null",
    "policy.name=causal_lm",
    "sampler.name=vllm",
    "objective.group_distribution=ratio",
    "rollout.groups_per_step=8",
    "rollout.group_size=16",
    "rollout.workers=1",
    "rollout.cpus=0.5",
    "learner.optimizer.name=adamw",
    "learner.optimizer.lr=3e-3",
    "text.max_prompt_tokens=96",
    "text.max_completion_tokens=6",
    "text.chat=false",
    "stream.max_staleness=1",
    "deadlines.start_seconds=400",
    "log.sinks=[]",
    "log.plot=false",
)


@pytest.fixture
def sums(tmp_path):
    """A run of one-digit sums: half of the score is for digits, which even a random model can learn."""
    model = tiny_model(tmp_path / "model", spread=0.3)
    scorer = tmp_path / "scorer.py"
    scorer.write_text(SCORER)
    rewards = f'task.rewards={{task: 0.5, "{scorer}:digits": 0.5}}'

    def make(*overrides):
        return create_run(configure({}, (*SUMS, f"policy.path={model}", rewards, f"runs_dir={tmp_path}", *overrides)))

    return make


def test_it_learns_while_vllm_samples_ahead(sums):
    run = sums("steps=30", "evaluation.every_steps=15", "evaluation.questions=8")
    with launch(run) as system:
        rows = [report.metrics for report in system.train(30)]
    reward = [row["reward"].value for row in rows]
    assert statistics.fmean(reward[:3]) < 0.15
    assert statistics.fmean(reward[-5:]) > 0.4
    assert max(row["staleness_max"].value for row in rows) == 1
    gaps = [row["mismatch_max"].value for row in rows if "mismatch_max" in row]
    assert len(gaps) > 20  # of a step with some fresh groups, those alone are compared that have something to prefer
    assert max(gaps) < 1e-4  # vLLM computed with what the learner had published, update after update
    assert read_faults(run.folder) == []
    account = audit(run.folder / LEDGER)
    assert account.complete
    assert account.draws["trained"] == 30 * 8
    evaluated = [json.loads(line) for line in (run.folder / EVALUATIONS).read_text().splitlines()]
    assert [row["step"] for row in evaluated] == [0, 15, 30]
    assert evaluated[-1]["eval/score"] > evaluated[0]["eval/score"] + 0.2


def test_killed_engine_and_learner_come_back_and_meet_again_with_the_weights_of_now(sums):
    """The new engine samples the rest, from weights that the learner sent it: it refuses others. The new learner sends
    them to an engine that had them from another."""
    struck = {6: [], 12: []}
    run = sums("steps=16", "weights.transport=collective", "checkpoint.every_steps=5")
    with launch(run) as system:
        for report in system.train(16):
            if report.step in struck and not struck[report.step]:
                struck[report.step] = strike(system, "worker" if report.step == 6 else "learner")
            last = report
    assert struck == {6: ["rollout-0"], 12: ["learner"]}
    faults = [(fault.name, fault.what) for fault in read_faults(run.folder)]
    assert faults == [("rollout-0", "died"), ("learner", "died")]
    assert last.metrics["reward"].value > 0.2
    assert audit(run.folder / LEDGER).complete


def engine_of(system):
    """The process in which the only worker's vLLM works."""
    [worker] = [member.where.pid for member in system.supervisor.fleet.members.values()]
    [engine] = pids_running("EngineCore", below=worker)
    return engine


def test_a_killed_engine_comes_back_with_the_weights_of_now(sums):
    """And one whose worker is killed goes with it."""
    run, rows = sums("steps=16", "sampler.engine=async"), []
    with launch(run) as system:
        for report in system.train(16):
            rows.append(report.metrics)
            if report.step == 6:
                killed = engine_of(system)
                os.kill(killed, signal.SIGKILL)
        engine = engine_of(system)
        assert strike(system, "worker") == ["rollout-0"]
        wait_for(lambda: not lives(engine), "the end of vLLM's process")
    fault = read_faults(run.folder)[0]
    assert (fault.name, fault.what) == ("rollout-0", "died")
    assert f"vLLM's process {killed} died (killed by SIGKILL)" in fault.reason
    # While the new one came up, the learner used up what was there: what follows is sampled from its weights of then.
    gaps = [row["mismatch_max"].value for row in rows[6:] if "mismatch_max" in row]
    assert gaps
    assert max(gaps) < 1e-4
    assert rows[-1]["reward"].value > 0.2
    assert audit(run.folder / LEDGER).complete
