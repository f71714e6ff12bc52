"""Checkpoints are whole or absent, checked before use, and continue a run exactly."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tpo_dist.errors import UsageError
from tpo_dist.learner.checkpoint import (
    Checkpointer,
    Saved,
    list_checkpoints,
    load_checkpoint,
    read_rows,
    read_state,
    save_checkpoint,
)
from tpo_dist.policies.weights import export_weights
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.records import weights_digest


def advance(config, learner, steps):
    worker, count = make_worker(config), config.rollout.groups_per_step
    for _ in range(steps):
        worker.load(learner.snapshot())
        learner.update(worker.roll(np.arange(learner.version * count, (learner.version + 1) * count)).groups)


def assert_same_weights(one, other):
    for name, array in export_weights(one.policy).items():
        np.testing.assert_array_equal(array, export_weights(other.policy)[name])


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_restored_learner_goes_on_bit_for_bit(optimizer, small_config, tmp_path):
    config = small_config(f"learner.optimizer.name={optimizer}", "learner.schedule.name=cosine")
    straight = make_learner(config)
    advance(config, straight, 3)
    folder = save_checkpoint(tmp_path, straight, keep=2)
    advance(config, straight, 3)
    resumed = make_learner(config)
    load_checkpoint(folder, resumed)
    assert (resumed.version, resumed.draws_trained) == (3, 3 * config.rollout.groups_per_step)
    advance(config, resumed, 3)
    assert_same_weights(straight, resumed)


def test_a_restored_learner_knows_what_was_published_and_which_blocks_are_settled(small_config, tmp_path):
    """Groups sampled before the checkpoint are welcome after it, by version and digest."""
    config = small_config("stream.max_staleness=2", "learner.publish_every=2")
    learner, worker = make_learner(config), make_worker(config)
    assert learner.settled == {"below": 0, "beyond": []}
    worker.load(learner.snapshot())
    old = worker.roll(np.arange(4)).whole()
    advance(config, learner, 4)
    learner.settled = {"below": 22, "beyond": [24, 25, 27]}
    resumed = make_learner(config)
    load_checkpoint(save_checkpoint(tmp_path, learner, keep=2), resumed)
    assert resumed.published == learner.published
    assert set(resumed.published) == {0, 1, 2, 3}
    assert resumed.settled == learner.settled
    assert resumed.refusal(old) is None
    assert "version 0 " in make_learner(config).refusal(old)
    resumed.update(old)


@pytest.mark.parametrize("version", [4, 6, 7])
def test_a_checkpoint_between_two_publications_keeps_what_workers_sample_from(version, small_config, tmp_path):
    config = small_config("learner.publish_every=4")
    learner = make_learner(config)
    for _ in range(version):
        worker = make_worker(config)
        worker.load(learner.current())
        learner.update(worker.roll(np.arange(8)).groups)
    folder = save_checkpoint(tmp_path, learner, keep=2)
    resumed = make_learner(config)
    load_checkpoint(folder, resumed)
    assert (folder / "published.safetensors").exists() == (version != 4)
    again = resumed.current()
    assert (again.version, again.digest) == (4, learner.current().digest)
    assert again.digest == weights_digest(again.arrays)
    assert resumed.published == learner.published
    other = make_learner(small_config("learner.publish_every=3"))  # its versions 6 and 7 are of another publication
    load_checkpoint(folder, other)
    assert other.current().version == version


def test_a_snapshot_of_every_version_is_not_kept_twice(small_config):
    """Nobody asks for the weights at hand again."""
    learner = make_learner(small_config())
    advance(small_config(), learner, 2)
    assert learner.newest is None


def test_rows_are_kept_by_the_next_checkpoint_and_by_no_later_one(small_config, tmp_path):
    learner, checkpointer = make_learner(small_config()), Checkpointer(tmp_path / "runs", every_steps=2, keep=2)
    (tmp_path / "runs").write_text("in the way")  # so that the first cannot be written
    saved = []
    for version in range(1, 7):
        learner.version = version
        learner.rows.append({"step": version, "error": 0.5, "step_seconds": 1.0})
        saved.append(checkpointer.after_step(learner, last=False).path)
        if version == 2:
            (tmp_path / "runs").unlink()
    rows = [[row["step"] for row in read_rows(Path(path))] for path in saved if path is not None]
    assert rows == [[1, 2, 3, 4], [5, 6]]
    assert read_rows(tmp_path / "nowhere") == []


def test_a_run_draws_nothing_from_torchs_global_generator(small_config):
    """So it needs no seed and no place in a checkpoint, in one process as on Ray."""
    learners = []
    for seed in (4, 5):
        torch.manual_seed(seed)
        learners.append(make_learner(small_config()))
        advance(small_config(), learners[-1], 2)
    assert_same_weights(*learners)


def test_the_newest_are_kept(small_config, tmp_path):
    learner = make_learner(small_config())
    for version in (1, 2, 3, 10):
        learner.version = version
        save_checkpoint(tmp_path, learner, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000010"]
    save_checkpoint(tmp_path, learner, keep=2)  # the same step again replaces it
    assert int(read_state(list_checkpoints(tmp_path)[-1])["step"]) == 10


def test_saving_happens_on_time_and_at_the_end(small_config, tmp_path):
    learner = make_learner(small_config())
    checkpointer = Checkpointer(tmp_path, every_steps=4, keep=9)
    for version in range(1, 10):
        learner.version = version
        saved = checkpointer.after_step(learner, last=version == 9)
        assert saved == Saved(str(tmp_path / f"step-{version:08d}") if version in (4, 8, 9) else None)
    assert [int(path.name[5:]) for path in list_checkpoints(tmp_path)] == [4, 8, 9]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "rows.jsonl").unlink(), "rows.jsonl: the checkpoint lacks this file"),
        (lambda folder: list_file(folder, "published.safetensors"), "published.safetensors: the checkpoint lacks this"),
        (lambda folder: list_file(folder, "others.safetensors"), "state.json: is damaged .*files has to list"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: the checkpoint lacks this file"),
        (lambda folder: (folder / "state.json").unlink(), "state.json: the checkpoint lacks this file"),
        (lambda folder: os.truncate(folder / "optimizer.safetensors", 100), "has 100 bytes where"),
        (lambda folder: flip(folder / "model.safetensors"), "its checksum is not the one that was written"),
        (lambda folder: (folder / "state.json").write_text('{"format": 5, "st'), "state.json: is damaged"),
        (lambda folder: (folder / "state.json").write_text("[]"), "state.json: is damaged"),
        (lambda folder: rewrite(folder, files={}), "state.json: is damaged .*files has to list"),
        (lambda folder: rewrite(folder, files=[1]), "state.json: is damaged .*files has to list"),
        (
            lambda folder: rewrite(folder, files={"model.safetensors": 1, "optimizer.safetensors": 2, "rows.jsonl": 3}),
            "size and its check",
        ),
        (lambda folder: rewrite(folder, step=-1), "state.json: is damaged .*step is -1"),
        (lambda folder: rewrite(folder, step="5"), "state.json: is damaged .*step is '5'"),
        (lambda folder: rewrite(folder, step=6), "says step 6 where model.safetensors was written with 5"),
        (lambda folder: rewrite(folder, draws_trained=8), "says draws_trained 8 where"),
        (lambda folder: rewrite(folder, format=99), "has format 99; this version reads 5"),
        (lambda folder: rewrite(folder, format=4), "has format 4; this version reads 5. Fix: use the version that"),
        (lambda folder: rewrite(folder, published={}), "says published {} where model.safetensors was written with"),
        (lambda folder: rewrite(folder, published=None), "damaged .*published is None"),
        (lambda folder: rewrite(folder, published=["0"]), "damaged .*published is "),
        (lambda folder: rewrite(folder, published={"05": "a" * 32}), "damaged .*published holds version '05'"),
        (lambda folder: rewrite(folder, published={"-1": "a" * 32}), "damaged .*published holds version '-1'"),
        (lambda folder: rewrite(folder, published={"6": "a" * 32}), "damaged .*version '6', and the step is 5"),
        (lambda folder: rewrite(folder, published={"0": 5}), "damaged .*published holds 5 for version 0"),
        (lambda folder: rewrite(folder, published={"0": "A" * 32}), "damaged .*for version 0, not 32 hexadecimal"),
        (lambda folder: drop(folder, "settled"), "state.json: is damaged .*settled"),
        (lambda folder: rewrite(folder, settled=[1]), r"state.json: is damaged .*settled is \[1\]"),
        (lambda folder: rewrite(folder, settled={"below": 1}), "damaged .*settled is {'below': 1}"),
        (lambda folder: settle(folder, True, []), "damaged .*settled.below is True"),
        (lambda folder: settle(folder, -1, []), "damaged .*settled.below is -1"),
        (lambda folder: settle(folder, 0, "34"), "damaged .*settled.beyond is '34'"),
        (lambda folder: settle(folder, 0, [3, 4.0]), "damaged .*settled.beyond is .*not a list of numbers"),
        (lambda folder: settle(folder, 3, [5, 4]), "damaged .*settled.beyond is .*not rising numbers from 3"),
        (lambda folder: settle(folder, 3, [4, 4]), "damaged .*settled.beyond is .*not rising numbers from 3"),
        (lambda folder: settle(folder, 3, [2, 4]), "damaged .*settled.beyond is .*not rising numbers from 3"),
        (lambda folder: settle(folder, 3, [4, 5]), "says settled .* where model.safetensors was written with"),
    ],
)
def test_damage_is_seen_before_anything_is_used(damage, message, small_config, tmp_path):
    learner = make_learner(small_config())
    older = save_checkpoint(tmp_path, learner, keep=2)
    learner.snapshot()
    learner.version = 5
    folder = save_checkpoint(tmp_path, learner, keep=2)
    before = export_weights(learner.policy)
    damage(folder)
    with pytest.raises(UsageError, match=message) as caught:
        load_checkpoint(folder, learner)
    if "format" not in message:
        assert f"remove the folder {folder.name} to go on from {older.name}" in str(caught.value)
    assert all((export_weights(learner.policy)[name] == array).all() for name, array in before.items())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rewrite(folder, **changes):
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def list_file(folder, name):
    files = json.loads((folder / "state.json").read_text())["files"]
    rewrite(folder, files={**files, name: files["rows.jsonl"]})


def drop(folder, name):
    path = folder / "state.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != name}))


def settle(folder, below, beyond):
    rewrite(folder, settled={"below": below, "beyond": beyond})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.width=32", "holds another model: parameter"),
        ("policy.layers=3", "holds another model: the weights lack parameter 'blocks.2"),
        ("task.length=6", "holds another model: parameter 'positions'"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(override, message, small_config, tmp_path):
    learner = make_learner(small_config())
    advance(small_config(), learner, 1)
    folder = save_checkpoint(tmp_path, learner, keep=1)
    with pytest.raises(UsageError, match=message):
        load_checkpoint(folder, make_learner(small_config(override)))


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize(("wrote", "reads"), [("muon", "adamw"), ("adamw", "muon")])
def test_the_state_of_another_optimizer_is_refused_by_one_that_has_not_stepped(
    wrote, reads, steps, small_config, tmp_path
):
    config = small_config(f"learner.optimizer.name={wrote}")
    learner = make_learner(config)
    advance(config, learner, steps)
    folder = save_checkpoint(tmp_path, learner, keep=1)
    with pytest.raises(UsageError, match="it is the state of another optimizer"):
        load_checkpoint(folder, make_learner(small_config(f"learner.optimizer.name={reads}")))


def test_other_folders_beside_the_checkpoints_are_left_alone(small_config, tmp_path):
    for name in ("step-zzz", "step-1", "step-00000009.old"):
        (tmp_path / name).mkdir()
    learner = make_learner(small_config())
    learner.version = 4
    assert list_checkpoints(tmp_path) == []
    folder = save_checkpoint(tmp_path, learner, keep=1)
    assert list_checkpoints(tmp_path) == [folder]
    assert (tmp_path / "step-zzz").is_dir()


def test_a_checkpoint_under_the_name_of_another_step_is_refused(small_config, tmp_path):
    folder = save_checkpoint(tmp_path, make_learner(small_config()), keep=1)
    with pytest.raises(UsageError, match="holds step 0, which another folder name belongs to"):
        read_state(folder.rename(tmp_path / "step-00000007"))


def test_what_a_crash_left_of_the_same_checkpoint_is_not_mixed_in(small_config, tmp_path):
    left = tmp_path / ".step-00000000.partial"
    left.mkdir()
    (left / "model.safetensors.old").write_text("half a file")
    folder = save_checkpoint(tmp_path, make_learner(small_config()), keep=1)
    assert len(list(folder.iterdir())) == 4
    assert not left.exists()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tpo_dist.learner.checkpoint import save_checkpoint
from tpo_dist.programs.job import configure
from tpo_dist.programs.parts import make_learner
learner = make_learner(configure({}))
folder = Path(sys.argv[1])
save_checkpoint(folder, learner, keep=3)
learner.version = 7
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file may grow beyond this, as on a full disk
try:
    save_checkpoint(folder, learner, keep=3)
except Exception as error:
    print(type(error).__name__)
"""


def test_a_full_disk_leaves_the_older_checkpoint_valid(tmp_path, small_config):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Error" in done.stdout
    (survivor,) = list_checkpoints(tmp_path)
    assert read_state(survivor)["step"] == 0
    assert [path.name for path in tmp_path.iterdir()] == [survivor.name]


def test_no_pickle_is_written(small_config, tmp_path):
    folder = save_checkpoint(tmp_path, make_learner(small_config()), keep=1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "rows.jsonl",
        "state.json",
    ]
    for path in folder.iterdir():
        assert b"\x80\x04\x95" not in path.read_bytes()[:64]
