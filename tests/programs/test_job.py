"""Job files and overrides: what you wrote is what runs, or you are told in one line why not."""

import json
import re

import pytest

from tpo_dist.cli.keys import describe_keys
from tpo_dist.config import RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.programs.job import configure, load_job, read_job


def test_defaults_are_spelled_out():
    config = configure({})
    assert config.task.options == {"variant": "reverse_copy", "reward": "terminal", "length": 10, "vocab": 2}
    assert config.objective.options["eta"] == 1.0
    assert config.objective.options["group_distribution"] == "sequence"
    assert config.learner.epochs == 4
    assert config.rollout.block_size == 16


def test_overrides_do_not_reach_inside_options():
    with pytest.raises(UsageError, match=r"task.tasks.sums.weight: an override reaches the options .* 'task.tasks=\{"):
        configure({"task": {"name": "mixture", "tasks": {"sums": {"name": "gsm8k"}}}}, ["task.tasks.sums.weight=8"])


@pytest.mark.parametrize(
    ("overrides", "chosen"),
    [
        (["task.length=10"], "sequence"),
        (["task.length=11"], "ratio"),
        (["task.length=11", "objective.name=tpo_no_anchor"], "ratio"),
        (["task.length=11", "objective.name=tpo_steady"], "length_mean"),
        (["task.length=11", "objective.group_distribution=sequence"], "sequence"),
        (["task.length=48", "task.reward=bag_of_tokens", "objective.name=tpo_token"], "sequence"),
    ],
)
def test_the_group_distribution_follows_the_length_of_outputs(overrides, chosen):
    assert configure({}, overrides).objective.options["group_distribution"] == chosen


def test_presets_differ_from_their_class_where_they_say_so():
    assert configure({}, ["objective.name=grpo_no_kl"]).objective.options["beta"] == 0.0
    assert configure({}, ["objective.name=dg"]).learner.epochs == 1
    assert configure({}, ["objective.name=grpo_no_kl", "objective.beta=0.1"]).objective.options["beta"] == 0.1


def test_resolved_settings_resolve_to_themselves():
    config = configure({"task": {"name": "token_reversal", "length": 4}}, ["objective.name=grpo", "seed=3"])
    assert configure(config.model_dump(mode="json")) == config
    assert configure(json.loads(config.model_dump_json())) == config


def test_files_read_as_yaml_1_2(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("learner:\n  optimizer: {lr: 3e-4}\nname: no\n")
    config = load_job(path)
    assert config.learner.optimizer.lr == 3e-4
    assert config.name == "no"


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("learner.optimizer.lr=3e-4", lambda c: c.learner.optimizer.lr == 3e-4),
        ("learner.optimizer.lr=1", lambda c: c.learner.optimizer.lr == 1.0),
        ("learner.max_grad_norm=null", lambda c: c.learner.max_grad_norm is None),
        ("log.sinks=[]", lambda c: c.log.sinks == []),
        ("task.variant=flip", lambda c: c.task.options["variant"] == "flip"),
        ("name=a-b.c", lambda c: c.name == "a-b.c"),
        ("seed=9007199254740993", lambda c: c.seed == 9007199254740993),
    ],
)
def test_overrides_have_the_type_they_look_like(override, read):
    assert read(configure({}, [override]))


def test_the_last_override_wins_and_another_component_starts_afresh():
    assert configure({}, ["steps=5", "steps=7"]).steps == 7
    settings = {"objective": {"name": "tpo", "eta": 0.5}}
    assert configure(settings, ["objective.name=ppo"]).objective.options == {"clip": 0.2}
    assert configure(settings, ["objective.eta=2.0"]).objective.options["eta"] == 2.0


def test_options_stand_whatever_the_order_of_the_overrides():
    settings = {"objective": {"name": "grpo", "clip": 0.1}, "learner": {"optimizer": {"lr": 0.1}}}
    for overrides in (
        ["objective.eta=3.0", "objective.name=tpo"],
        ["objective.name=tpo", "objective.eta=3.0"],
        ["objective.eta=3.0", "objective={name: tpo}"],
        ["objective.name=ppo", "objective.eta=3.0", "objective.name=tpo"],
    ):
        assert configure(settings, overrides).objective.options["eta"] == 3.0
    assert configure(settings, ["learner.optimizer.lr=0.5", "learner={threads: 2}"]).learner.optimizer.lr == 0.5
    assert configure(settings, ["objective.name=grpo"]).objective.options["clip"] == 0.1  # the same one keeps its own


def test_overrides_do_not_change_what_they_were_given():
    settings = {"learner": {"optimizer": {"lr": 0.1}}}
    configure(settings, ["learner.optimizer.lr=0.2"])
    assert settings == {"learner": {"optimizer": {"lr": 0.1}}}


def test_configurations_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        configure({}).learner.threads = 3


def test_every_key_is_documented_and_there_are_not_too_many():
    entries = describe_keys()
    assert all(entry["meaning"] for entry in entries)
    assert len({entry["key"] for entry in entries}) == len(entries) < 200
    sections = set(RunConfig.model_fields)
    assert {entry["key"].split(".")[0] for entry in entries} == sections


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "3\n"])
def test_a_file_without_keys_is_refused(text, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="not keys with values"):
        load_job(path)


def test_an_empty_file_is_all_defaults(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("# nothing\n")
    assert load_job(path) == configure({})


def write(folder, **files):
    for name, content in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return folder / "job.yaml"


def test_a_job_builds_on_other_files(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/sizes.yaml").write_text("base: seed.yaml\nrollout: {groups_per_step: 8, group_size: 4}\n")
    (tmp_path / "parts/seed.yaml").write_text("seed: 7\nsteps: 5\nname: below\n")
    (tmp_path / "rates.yaml").write_text("rollout: {group_size: 16}\nlearner: {optimizer: {lr: 0.5}}\n")
    job = write(
        tmp_path, job="base: [parts/sizes.yaml, rates.yaml]\nname: above\nlearner: {optimizer: {name: adamw}}\n"
    )
    config = load_job(job, ["steps=6"])
    assert (config.seed, config.steps, config.name) == (7, 6, "above")
    assert (config.rollout.groups_per_step, config.rollout.group_size) == (8, 16)  # later files over earlier ones
    assert (config.learner.optimizer.name, config.learner.optimizer.lr) == ("adamw", 0.5)


def test_a_base_alone_may_be_a_name(tmp_path):
    assert load_job(write(tmp_path, job="base: other.yaml\n", other="seed: 9\n")).seed == 9


def test_options_go_over_those_of_the_same_component_and_not_to_another(tmp_path):
    base = "objective: {name: tpo, eta: 2.0}\ntask: {name: token_reversal, length: 4, vocab: 3}\n"
    job = write(tmp_path, job="base: base.yaml\nobjective: {name: grpo}\ntask: {length: 5}\n", base=base)
    config = load_job(job)
    assert config.objective.options["clip"] == 0.2
    assert "eta" not in config.objective.options
    assert (config.task.options["length"], config.task.options["vocab"]) == (5, 3)


def test_an_option_that_is_a_mapping_is_replaced_whole(tmp_path):
    base = "task: {name: reasoning_gym, parameters: {a: 1}}\ntext: {chat_options: {b: 2}}\n"
    job = write(tmp_path, job="base: b.yaml\ntask: {parameters: {c: 3}}\ntext: {chat_options: {d: 4}}\n", b=base)
    settings = read_job(job)
    assert settings["task"] == {"name": "reasoning_gym", "parameters": {"c": 3}}
    assert settings["text"] == {"chat_options": {"d": 4}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("base: nowhere.yaml\n", "base = 'nowhere.yaml': there is no file"),
        ("base: job.yaml\n", "base = 'job.yaml': that file builds on this one"),
        ("base: [round.yaml]\n", "base = 'job.yaml': that file builds on this one"),
        ("base: 3\n", "base = 3: is not the name of a file"),
        ("base: [[a]]\n", "is not the name of a file"),
        ("base: {a: b}\n", "is not the name of a file"),
        ("base: list.yaml\n", "holds a list, not keys with values"),
    ],
)
def test_a_base_that_cannot_be_built_on_is_refused(content, reason, tmp_path):
    with pytest.raises(UsageError, match=re.escape(reason)):
        load_job(write(tmp_path, job=content, round="base: job.yaml\n", list="- 1\n"))
