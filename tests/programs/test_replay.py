"""A run is repeated bit for bit from its ledger, whatever happened to it; the first difference is named."""

import asyncio
import json
import random
import shutil
import sqlite3

import pytest

from tests.cli.run_cli import call
from tests.conftest import SMALL
from tests.programs.troubled import TroubledRun
from tpo_dist.audit import audit
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.learner.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from tpo_dist.ledger import Ledger
from tpo_dist.programs import local
from tpo_dist.programs.job import configure
from tpo_dist.programs.parts import make_learner
from tpo_dist.programs.replay import Diverged, Replay
from tpo_dist.programs.run import create_run, resume_run
from tpo_dist.schedule import schedule

TINY = (
    "steps=8",
    "task.length=3",
    "rollout.groups_per_step=12",
    "rollout.block_size=4",
    "rollout.group_size=4",
    "stream.max_staleness=2",
    "checkpoint.every_steps=3",
)
NARROW = ("policy.width=16", "policy.layers=1")
DENSE = ("task.reward=bag_of_tokens",)
JUDGED = ("task.name=judged_reversal", "task.seconds=0.0", "task.length=3", *DENSE)


@pytest.fixture
def trained(small_config):
    """A run of that configuration in one process, to its end or a step before it."""

    def make(*overrides, stop=None):
        run = create_run(small_config(*TINY, *NARROW, *overrides))
        for report in local.train(run):
            if report.step == stop:
                break
        return run

    return make


def repeat(run, until=None):
    """Replay it; the replay, and the steps it reported."""
    again = Replay(run.folder, until)
    steps = [report.step for report in again.train()]
    assert steps == list(range(1, again.steps + 1))
    return again


def plan_of(run):
    with Ledger.read(run.folder / "ledger.db") as ledger:
        return schedule(ledger)


def tamper(run, statement, *values):
    """Change the ledger behind its back; rows changed."""
    with sqlite3.connect(run.folder / "ledger.db") as connection:
        changed = connection.execute(statement, values).rowcount
    connection.close()
    return changed


def change_config(run, change):
    """Let the last session have had another configuration."""
    with Ledger.read(run.folder / "ledger.db") as ledger:
        *_, row = ledger.rows("kind = 'session'")
    detail = json.loads(row.event.detail)
    change(detail["config"])
    assert tamper(run, "UPDATE events SET detail = ? WHERE seq = ?", json.dumps(detail), row.seq) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("stream.max_staleness=0",),
        ("learner.publish_every=2", "learner.schedule.name=linear"),
        ("objective.name=tpo_token", *DENSE),
        ("objective.name=pmpo", "objective.beta=5.0", "learner.reference=initial", *DENSE),
        ("learner.correction.name=tis", "learner.correction.cap=1.0", "learner.optimizer.name=adamw", *DENSE),
        ("objective.name=grpo", "learner.micro_batch_candidates=5", "learner.early_stop.kl=1e-3", *DENSE),
    ],
    ids=["stale", "synchronous", "publish_every", "tokens", "reference", "tis", "early stop"],
)
def test_a_run_in_one_process_is_repeated(overrides, trained):
    run = trained(*overrides)
    again = repeat(run)
    assert again.steps == 8
    assert again.compared == (6 if "learner.publish_every=2" in overrides else 7)
    assert again.checkpoint == list_checkpoints(run.folder / "checkpoints")[-1]
    assert again.recovered == []


def test_a_bandit_s_run_is_repeated(tmp_path):
    settings = [each for each in (*SMALL, *TINY) if not each.startswith("task.")]
    others = ("task.name=tabular_bandit", "policy.name=tabular", f"runs_dir={tmp_path}")
    run = create_run(configure({}, (*settings, *others)))
    for _ in local.train(run):
        pass
    assert repeat(run).compared == 7


@pytest.mark.parametrize("seed", range(4))
def test_a_run_whose_workers_and_learner_died_is_repeated(seed, small_config):
    """Steps that were rolled back are not repeated; resumed sessions have their own settings."""
    dice = random.Random(seed)
    options = ("faults.attempts=100", "learner.schedule.name=cosine", f"learner.publish_every={1 + seed % 2}")
    run = create_run(small_config(*TINY, *NARROW, *options, "steps=12"))
    asyncio.run(TroubledRun(run, dice).train(7))
    changes = ("steps=15", "learner.optimizer.lr=3e-3", "rollout.group_size=6", "stream.max_staleness=1")
    shutil.rmtree(list_checkpoints(run.folder / "checkpoints")[-1])  # it goes on from an earlier one
    resumed = resume_run(str(run.folder), changes, "runs")
    assert 0 < resumed.first_step < 7
    asyncio.run(TroubledRun(resumed, dice).train(15))
    found = audit(run.folder / "ledger.db")
    assert found.clean
    assert len(found.rollbacks) > 1
    assert sum(count for times, count in found.attempts.items() if times > 1)
    plan = plan_of(run)
    assert [session.first_step for session in plan.sessions] == [0, resumed.first_step]
    assert [len(plan.steps), plan.begun] == [15, ()]
    assert any(each.version < step for step, blocks in enumerate(plan.steps) for each in blocks)
    again = repeat(run)
    assert again.checkpoint.name == "step-00000015"


def test_a_resumed_run_is_repeated_in_every_part(trained):
    run = trained("learner.publish_every=2", stop=4)  # its checkpoint is at step 3: it goes on from version 2
    resumed = resume_run(str(run.folder), ("learner.optimizer.lr=1e-2", "learner.epochs=2"), "runs")
    for _ in local.train(resumed):
        pass
    plan = plan_of(run)
    assert sorted(plan.digests) == [0, 2, 4, 6]
    assert {block.version for block in plan.steps[3]} == {2}
    assert [repeat(run, until).compared for until in (None, 2, 3, 4)] == [6, 2, 2, 4]

    def as_before(config):
        config["learner"]["optimizer"]["lr"] = 1e-3

    change_config(run, as_before)
    with pytest.raises(Diverged, match="version 4, after 4 steps, has digest .*; version 2 was the same") as caught:
        repeat(run)
    assert (caught.value.step, caught.value.version) == (3, 4)


def test_a_version_published_out_of_turn_is_compared(trained):
    """Where it goes on with more frequent publications, one is due at once."""
    run = trained("learner.publish_every=8", stop=4)
    for _ in local.train(resume_run(str(run.folder), ("learner.publish_every=2",), "runs")):
        pass
    assert sorted(plan_of(run).digests) == [0, 3, 4, 6]
    assert [repeat(run, until).compared for until in (None, 2, 3)] == [6, 0, 3]


def test_a_run_begun_again_before_its_first_checkpoint_is_repeated(trained):
    run = trained(stop=2)
    for _ in local.train(resume_run(str(run.folder), ("steps=5", "learner.optimizer.lr=1e-2"), "runs")):
        pass
    assert [session.first_step for session in plan_of(run).sessions] == [0]
    assert repeat(run).steps == 5


def test_snapshots_are_kept_only_as_long_as_blocks_need_them(trained):
    run = trained("steps=12")
    again = Replay(run.folder)
    kept = [set(again._kept) for _ in again.train()]
    assert max(map(len, kept)) == 3
    plan = plan_of(run)
    for step, versions in enumerate(kept):
        later = {each.version for blocks in plan.steps[step:] for each in blocks}
        assert versions <= later
    assert again._kept == {}


def test_groups_that_failed_fail_again(trained):
    run = trained(*JUDGED, "task.fail_every=7")
    assert any(each.failed_draws for blocks in plan_of(run).steps for each in blocks)
    assert repeat(run).recovered == []


def test_groups_that_fail_no_more_are_left_out_all_the_same(trained):
    run = trained(*JUDGED, "task.fail_every=7")
    failed = [draw for blocks in plan_of(run).steps for each in blocks for draw in each.failed_draws]
    change_config(run, lambda config: config["task"].update(fail_every=0))
    assert repeat(run).recovered == failed


def test_a_group_that_fails_only_now_ends_it_with_the_reason(trained):
    run = trained(*JUDGED)
    change_config(run, lambda config: config["task"].update(fail_every=20))
    with pytest.raises(RunFailed, match="draw 19 of step 1 was scored in the run, and cannot be scored now"):
        repeat(run)


def test_a_run_that_goes_on_is_repeated_as_far_as_it_is(small_config):
    run = create_run(small_config(*TINY, *NARROW))
    going = local.train(run)
    while next(going).step < 5:
        pass
    again = Replay(run.folder)
    for _ in going:
        pass  # takes the checkpoint at step 3 away
    assert not again.checkpoint.exists()
    assert [report.step for report in again.train()] == [1, 2, 3, 4, 5]
    assert again.compared == 4


def test_the_step_in_which_a_run_failed_fails_again(small_config):
    explodes = ("objective.name=ppo", "learner.epochs=1", "learner.optimizer.lr=1e18", "steps=3")
    run = create_run(small_config(*TINY, *NARROW, *DENSE, *explodes))
    with pytest.raises(FloatingPointError) as then:
        list(local.train(run))
    trained = len(plan_of(run).steps)
    assert trained == 1
    again = repeat(run)
    assert (again.steps, again.begun) == (trained, True)
    with pytest.raises(FloatingPointError) as now:
        repeat(run, trained + 1)
    assert str(now.value) == str(then.value)
    with pytest.raises(UsageError, match="--until 3: the run has trained 1 step, and begun one more. Fix: .* most 2"):
        Replay(run.folder, 3)


# What differs is named


def test_a_changed_digest_is_named(trained):
    run = trained()
    other = "0" * 32
    assert tamper(run, "UPDATE events SET detail = ? WHERE kind = 'published' AND version = 5", other) == 1
    with pytest.raises(
        Diverged, match=f"version 5, after 5 steps, .* was published with {other}; version 4 was the same"
    ) as caught:
        repeat(run)
    assert (caught.value.step, caught.value.version) == (4, 5)
    assert repeat(run, 4).compared == 4


def test_other_weights_to_begin_with_are_named(trained):
    run = trained()
    change_config(run, lambda config: config.update(seed=1))
    shutil.rmtree(run.folder / "checkpoints")
    with pytest.raises(
        Diverged, match="version 0, after 0 steps, has digest .*; none before it was compared"
    ) as caught:
        repeat(run)
    assert caught.value.step == -1


@pytest.mark.parametrize("kind", ["ready", "taken"])
def test_a_changed_version_is_named(kind, trained):
    run = trained()
    assert tamper(run, f"UPDATE events SET version = version + 1 WHERE kind = '{kind}' AND block = 9") == 1
    with pytest.raises(UsageError, match=f"contradicts itself in row .*block 9 is {kind} with version 2, and"):
        Replay(run.folder)


def test_a_version_changed_wherever_it_stands_is_named(trained):
    run = trained()
    assert tamper(run, "UPDATE events SET version = version + 1 WHERE block = 9") == 3
    with pytest.raises(UsageError, match="contradicts itself in row .*block 9 is leased at version 2"):
        Replay(run.folder)


def test_groups_left_out_that_were_not_show_in_the_next_version(trained):
    run = trained()
    failures = json.dumps({"groups": 3, "failures": [[37, "cause", "detail"]]})
    assert tamper(run, "UPDATE events SET detail = ? WHERE kind = 'ready' AND block = 9", failures) == 1
    again = Replay(run.folder)
    with pytest.raises(Diverged, match="version 4, after 4 steps"):
        list(again.train())
    assert again.recovered == [37]


@pytest.mark.parametrize("part", ["optimizer", "policy"])
def test_another_state_in_the_checkpoint_is_named(part, trained):
    run = trained()
    [*_, path] = list_checkpoints(run.folder / "checkpoints")
    learner = make_learner(run.config)
    load_checkpoint(path, learner)
    name, parameter = next(iter(learner.policy.named_parameters()))
    tensor = parameter.data
    if part == "optimizer":
        key, tensor = next(iter(learner.optimizer.state[parameter].items()))
        name = f"optimizer/{name}/{key}"
    tensor.view(-1)[0] += 1e-3
    save_checkpoint(path.parent, learner, keep=2)
    with pytest.raises(Diverged, match=f"version 8, after 8 steps, has another {name} than step-00000008"):
        repeat(run)
    assert repeat(run, 7).checkpoint.name == "step-00000006"


# What cannot be repeated is refused


def test_what_cannot_be_repeated_is_refused(trained, small_config):
    run = create_run(small_config(*TINY, *NARROW))
    with pytest.raises(UsageError, match="ledger.db: there is no ledger"):
        Replay(run.folder)
    Ledger.open(run.folder / "ledger.db").close()
    with pytest.raises(UsageError, match="ledger.db: says nothing of a run yet"):
        Replay(run.folder)
    with Ledger.open(run.folder / "ledger.db") as ledger:
        ledger.begin_session(run.config.model_dump(mode="json"), 0)
    with pytest.raises(UsageError, match="has no step yet that could be repeated"):
        Replay(run.folder)
    with pytest.raises(UsageError, match="--until 9: the run has trained 8 steps. Fix: give at most 8"):
        Replay(trained().folder, 9)


def test_steps_that_only_a_checkpoint_knows_are_refused(trained):
    run = trained(stop=4)
    (run.folder / "ledger.db").unlink()  # as after a loss of power, only worse
    for _ in local.train(resume_run(str(run.folder), (), "runs")):
        pass
    with pytest.raises(UsageError, match="begins at step 3: what was trained before, only a checkpoint knows"):
        Replay(run.folder)


# The command


def test_the_command_says_that_all_is_the_same(trained, monkeypatch, capsys):
    run = trained()
    code, out, err = call(monkeypatch, capsys, "replay", run.folder)
    assert (code, err) == (0, "")
    assert "8 of 8 steps repeated" in out
    assert "the same, bit for bit, up to version 7" in out
    assert "step-00000008: the same, optimizer included" in out
    code, out, err = call(monkeypatch, capsys, "replay", run.folder.name, "--runs-dir", run.folder.parent, "--json")
    found = json.loads(out)
    assert (code, err, found["identical"], found["divergence"], found["reason"]) == (0, "", True, None, None)
    assert (found["step"], found["steps"], found["trained"], found["compared"]) == (8, 8, 8, 7)
    assert found["checkpoint"] == str(run.folder / "checkpoints" / "step-00000008")


def test_the_command_writes_the_metrics_of_each_step(small_config, monkeypatch, capsys):
    run = create_run(small_config(*TINY, *NARROW))
    then = [{name: metric.value for name, metric in report.metrics.items()} for report in local.train(run)]
    call(monkeypatch, capsys, "replay", run.folder)
    call(monkeypatch, capsys, "replay", run.folder, "--until", 5)
    now = [json.loads(line) for line in (run.folder / "replay" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in now] == [1, 2, 3, 4, 5]
    for name in ("error", "staleness", "loss_first", "grad_norm_last", "learning_rate"):
        assert [row[name] for row in now] == [row[name] for row in then[:5]]


def test_the_command_names_the_first_difference(trained, monkeypatch, capsys):
    run = trained()
    tamper(run, "UPDATE events SET detail = ? WHERE kind = 'published' AND version = 5", "0" * 32)
    code, out, err = call(monkeypatch, capsys, "replay", run.folder)
    assert code == 1
    assert "5 of 8 steps repeated" in out
    assert "the same, bit for bit" not in out
    assert "error: version 5, after 5 steps, has digest" in err
    code, out, _ = call(monkeypatch, capsys, "replay", run.folder, "--json")
    found = json.loads(out)
    assert (code, found["identical"], found["step"], found["checkpoint"]) == (1, False, 5, None)
    assert (found["divergence"]["step"], found["divergence"]["version"], found["compared"]) == (4, 5, 4)


def test_the_command_refuses_in_one_line(small_config, monkeypatch, capsys):
    run = create_run(small_config(*TINY, *NARROW))
    code, out, err = call(monkeypatch, capsys, "replay", run.folder, "--json")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert call(monkeypatch, capsys, "replay", "nothing", "--runs-dir", run.folder.parent)[0] == 2
