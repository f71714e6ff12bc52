"""Job files and overrides: what you wrote is what runs, or you are told in one line why not."""

import json
from pathlib import Path

import pytest

from tpo_dist.cli.keys import describe_keys
from tpo_dist.config import RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.programs.job import configure, load_job

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_in_the_repository_is_valid(path):
    load_job(path)


def test_defaults_are_spelled_out():
    config = configure({})
    assert config.task.options == {"variant": "reverse_copy", "reward": "terminal", "length": 10, "vocab": 2}
    assert config.objective.options["eta"] == 1.0
    assert config.objective.options["group_distribution"] == "sequence"
    assert config.learner.epochs == 4
    assert config.rollout.block_size == 16


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
        ("log.tensorboard=false", lambda c: c.log.tensorboard is False),
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


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml")), ids=lambda path: path.name
)
def test_every_job_is_valid_and_named_after_its_file(path):
    assert load_job(path).name == path.stem
