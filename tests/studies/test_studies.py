"""Every study, small, through the command that users run; interrupted, killed, spread over Ray, told wrong things."""

import json
import os
import re
import signal
import time
from dataclasses import replace

import polars as pl
import pytest

from tests.cli.run_cli import call, spawn
from tests.processes import pids_running, wait_for
from tests.tasks.test_digit_data import write_folder
from tpo_dist.config import ClusterConfig
from tpo_dist.errors import RunFailed
from tpo_dist.runtime.fan_out import fan_out
from tpo_dist.studies.catalogue import STUDIES
from tpo_dist.studies.definition import within_budget
from tpo_dist.studies.execute import execute, missing
from tpo_dist.studies.narrow import narrowed
from tpo_dist.studies.runs import fingerprint, run_files

REHEARSAL = ("--seeds", 2, "--budget", 0.02, "--local", "--json")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One folder for all: studies share runs of equal settings."""
    return tmp_path_factory.mktemp("studies")


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_every_study_runs(name, out, monkeypatch, capsys):
    code, told, _ = call(monkeypatch, capsys, "study", name, *REHEARSAL, "--out", out)
    assert code == 0
    summary = json.loads(told)
    study = STUDIES[name]
    assert summary["finished"] == summary["runs"] == 2 * len(study.settings)
    results = pl.read_csv(out / name / "results.csv")
    assert len(results) == 2 * len(study.settings) * len(study.reported)
    table = (out / name / "table.md").read_text()
    assert "rehearsal" in table
    for setting in study.settings:
        assert str(setting.labels["method"]) in table
    assert len(summary["figures"]) == len(study.figures)
    for figure in summary["figures"]:
        with open(figure, "rb") as file:
            assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    assert json.loads((out / name / "study.json").read_text())["commit"]


def test_finished_runs_are_not_repeated_whoever_asks(out, monkeypatch, capsys):
    """`ablations` finds what `terminal` has run."""
    call(monkeypatch, capsys, "study", "terminal", *REHEARSAL, "--only", "tpo", "--out", out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*.parquet")}
    arguments = ("study", "ablations", *REHEARSAL, "--only", "tpo", "--out", out)
    assert json.loads(call(monkeypatch, capsys, *arguments)[1])["finished"] == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before


def few_runs(tmp_path, name="vocabulary", seeds=2):
    study = STUDIES[name]
    settings = [within_budget(setting, 0.02) for setting in study.settings[:2]]
    return run_files(tmp_path, settings, range(seeds))


def curves(files):
    return [file.read() for file in files]


def test_ray_gives_what_one_process_gives(ray_cluster, tmp_path):
    here, there = few_runs(tmp_path / "here"), few_runs(tmp_path / "there")
    execute(missing(here), None, lambda progress: None)
    seen = []
    execute(missing(there), ClusterConfig(), seen.append)
    assert seen[-1].finished == 4
    assert seen[-1].done == seen[-1].total
    for mine, theirs in zip(curves(here), curves(there), strict=True):
        assert mine.equals(theirs)


def kill_the_board(test, report):
    """Work during which the process that collects progress dies; `test` started it."""
    while True:  # it may not stand yet
        for pid in pids_running("ray::_Board", below=test):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def test_lost_progress_ends_with_its_reason(ray_cluster):
    with pytest.raises(RunFailed, match="the process that collects progress failed: its process died"):
        list(fan_out(kill_the_board, [os.getpid()], ["the first"]))


def die_once(marker, report):
    """Work whose process is killed the first time."""
    report(1.0)
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.name


def fail(item, report):
    raise ValueError(f"item {item} is no good")


def test_work_whose_process_is_killed_begins_again(ray_cluster, tmp_path):
    items = [tmp_path / name for name in ("a", "b")]
    found = {event.index: event.result for event in fan_out(die_once, items, ["a", "b"]) if event.result is not None}
    assert found == {0: "a", 1: "b"}


def test_work_that_raises_is_named(ray_cluster):
    with pytest.raises(RunFailed, match="the second failed: ValueError: item 7 is no good"):
        list(fan_out(fail, [7], ["the second"]))


def test_gpus_that_a_run_needs_are_reserved(ray_cluster, tmp_path):
    """With a job's own keys; where the cluster has none, that is said at once."""
    (file,) = few_runs(tmp_path, seeds=1)[:1]
    options = {**file.setting.options, "learner.gpus": 1, "rollout.gpus": 0.5}
    (batch,) = missing([replace(file, setting=replace(file.setting, options=options))])
    assert batch.gpus == 1.0
    assert missing([file])[0].gpus == 0.0
    with pytest.raises(RunFailed, match=r"tpo_token 2 seed 0 asks for 1 of 0 GPUs of the cluster"):
        execute([batch], ClusterConfig(), lambda progress: None)


def test_a_study_killed_half_way_goes_on_and_ends_with_the_same_table(tmp_path, monkeypatch, capsys):
    arguments = ("study", "vocabulary", "--only", "dg", "--where", "vocab=2", "--seeds", 8, "--budget", 0.05)
    small = ("rollout.groups_per_step=4", "rollout.block_size=4", "task.length=4", "--local", "--json")
    process = spawn(*arguments, *small, "--out", tmp_path / "killed")

    def finished():
        return list((tmp_path / "killed").glob("runs/*/*.parquet"))

    wait_for(lambda: len(finished()) >= 3, "three finished runs")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in finished()}
    assert 3 <= len(before) < 8
    assert call(monkeypatch, capsys, *arguments, *small, "--out", tmp_path / "killed")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert call(monkeypatch, capsys, *arguments, *small, "--out", tmp_path / "whole")[0] == 0
    for name in ("results.csv", "estimates.csv"):
        texts = [(tmp_path / folder / "vocabulary" / name).read_text() for folder in ("killed", "whole")]
        assert texts[0] == texts[1]


def test_the_time_left_is_that_of_the_pace_so_far(tmp_path):
    files, seen = few_runs(tmp_path, "one_context", seeds=3), []
    execute(missing(files), None, seen.append)
    assert seen[0].seconds_left is None
    for each in seen[1:]:
        assert each.total == 2 * 3 * 2  # settings, seeds, steps
        assert each.seconds_left == pytest.approx(each.seconds * (each.total - each.done) / each.done)
    assert (seen[-1].done, seen[-1].seconds_left, seen[-1].running) == (seen[-1].total, 0.0, ())


def test_a_study_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    """In lines on standard error, where that is no terminal."""
    monkeypatch.setattr("tpo_dist.cli.study._SAY_SECONDS", 0.0)
    arguments = ("study", "one_context", "--seeds", 2, "--budget", 0.02, "--local", "--out", tmp_path)
    code, out, err = call(monkeypatch, capsys, *arguments)
    lines = err.splitlines()
    assert code == 0
    assert lines[0] == "0 of 8 runs, 0%"
    assert re.fullmatch(r"\d of 8 runs, 50%, about \d+ s left", lines[len(lines) // 2])
    assert lines[-1] == "8 of 8 runs, 100%, about 0 s left"
    assert "8 of 8 runs finished" in out


def test_a_folder_in_brackets_is_shown(tmp_path, monkeypatch, capsys):
    """Which rich would take for a style, and polars for a pattern: its runs would count as damaged."""
    arguments = ("study", "one_context", "--only", "tpo", *REHEARSAL[:-1], "--out", tmp_path / "with[out]")
    for _ in range(2):
        code, out, err = call(monkeypatch, capsys, *arguments)
        assert (code, err) == (0, "")
        assert "with[out]/one_context/one_context.png" in "".join(out.split())


def test_a_failing_run_is_named_and_the_others_stay(tmp_path, monkeypatch, capsys):
    from tpo_dist.studies.engines import ENGINES

    def broken(options, seeds, steps, report):
        raise FloatingPointError("the gradient of step 3 is nan")

    monkeypatch.setitem(ENGINES, "one_context", broken)
    code, out, err = call(monkeypatch, capsys, "study", "one_context", *REHEARSAL, "--out", tmp_path)
    assert code == 1
    assert json.loads(out)["finished"] == 0
    assert "tpo seeds 0 to 1 failed: FloatingPointError: the gradient of step 3 is nan" in err


def test_the_fingerprint_is_of_what_is_run():
    setting = STUDIES["terminal"].settings[0]
    same = replace(setting, labels={"method": "renamed"}, paper={}, options={**setting.options, "learner.epochs": None})
    assert fingerprint(same) == fingerprint(setting)
    assert fingerprint(replace(setting, steps=7)) != fingerprint(setting)
    assert fingerprint(replace(setting, options={**setting.options, "seed_of": 1})) != fingerprint(setting)


def test_a_budget_is_a_share_of_the_steps():
    setting = STUDIES["terminal"].settings[0]
    assert within_budget(setting, 0.5).steps == 1000
    assert within_budget(setting, 0.5).options == setting.options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["terminl"], "did you mean 'terminal'"),
        ([], "name one of one_context"),
        (["terminal", "--only", "tpoo"], "--only tpoo: study 'terminal' has no such setting. Fix: did you mean 'tpo'?"),
        (["terminal", "--only", ""], "--only '': it names nothing. Fix: leave it out"),
        (["terminal", "--where", " ,"], "--where ' ,': it names nothing. Fix: leave it out"),
        (["terminal", "--where", "size=7"], "has no such label"),
        (["terminal", "--where", "length=11"], "--where length=11: study 'terminal' has no such setting"),
        (["terminal", "--where", "length"], "length=7"),
        (["terminal", "learner.lr=3"], "there is no such key"),
        (["terminal", "learner.epochs=-1"], "greater than or equal to 1"),
        (["terminal", "--address", "auto"], "--local runs in one process"),
        (["terminal", "steps=7"], "steps: the study says it. Fix: give --budget"),
        (["terminal", "seed=7"], "seed: the study says it. Fix: give --seeds"),
        (["terminal", "--only", "tpo", "objective.name=grpo"], "choose among the study's methods with --only"),
        (["vocabulary", "--where", "vocab=2", "task.vocab=4"], "with --where vocab=VALUE"),
        (["group_sizes", "rollout.group_size=4"], "with --where group size=VALUE"),
        (["vocabulary", "rollout.group_size=4"], "settings of study 'vocabulary' differ in it"),
        (["digits", "learner.device=cuda"], "setting.learner.device: there is no such key"),
        (["digits", "source=minst"], "setting.source = 'minst'"),
        (["digits", "method=pg"], "choose among the study's methods with --only"),
        (["digits", "source=folder", "path=/nowhere"], "path = '/nowhere': there is no such folder. Fix: give one"),
        (["terminal", "--out", "/proc/nowhere"], "--out /proc/nowhere: cannot be written"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "study", "--local", "--out", tmp_path, *arguments)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_options_of_a_bandit_reach_its_runs(tmp_path, monkeypatch, capsys):
    """Images of another size, in a folder of the kind that MNIST comes in."""
    write_folder(tmp_path)
    arguments = ("study", "digits", "--only", "tpo, pg", *REHEARSAL, "--out", tmp_path / "out")
    code, told, _ = call(monkeypatch, capsys, *arguments, "source=folder", f"path={tmp_path}")
    assert code == 0
    assert json.loads(told)["finished"] == 4
    described = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("runs/*/setting.json")]
    assert [setting["options"]["source"] for setting in described] == ["folder", "folder"]


def test_images_that_cannot_be_read_are_refused_before_anything_starts(tmp_path, monkeypatch, capsys):
    write_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"<html>not found</html>")
    arguments = ("study", "digits", "--only", "tpo", *REHEARSAL, "--out", tmp_path / "out")
    code, out, err = call(monkeypatch, capsys, *arguments, "source=folder", f"path={tmp_path}")
    assert (code, out) == (2, "")
    assert "t10k-labels-idx1-ubyte: starts with 0x3c68746d" in err
    assert not (tmp_path / "out" / "digits").exists()


def test_every_setting_can_be_named(tmp_path, monkeypatch, capsys):
    _, told, _ = call(monkeypatch, capsys, "study", "--list", "--json")
    for study in json.loads(told):
        for label, found in study["labels"].items():
            for value in found:
                assert narrowed(STUDIES[study["name"]], None, f"{label}={value}", [], 1.0).settings


def test_a_damaged_run_is_set_aside_and_run_again(tmp_path, monkeypatch, capsys):
    arguments = ("study", "one_context", "--only", "tpo", "--out", tmp_path, *REHEARSAL)
    call(monkeypatch, capsys, *arguments)
    (first, second) = sorted(tmp_path.glob("runs/*/*.parquet"))
    whole = first.read_bytes()
    first.write_bytes(whole[:100])
    pl.DataFrame({"other": [1]}).write_parquet(second)
    code, told, err = call(monkeypatch, capsys, *arguments, "--report")
    assert (code, json.loads(told)["finished"]) == (0, 0)
    assert [line.split(" could")[0] for line in err.splitlines()] == [f"warning: {path}" for path in (first, second)]
    code, told, err = call(monkeypatch, capsys, *arguments)
    assert (code, json.loads(told)["finished"], err) == (0, 2, "")
    assert first.read_bytes() == whole
    assert first.with_name(f"{first.name}.damaged").exists()


def test_results_that_cannot_be_written_are_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "one_context").touch()
    arguments = ("study", "one_context", "--only", "tpo", *REHEARSAL, "--out", tmp_path)
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: --out {tmp_path}: {tmp_path / 'one_context'} cannot be written")
    assert len(list(tmp_path.glob("runs/*/*.parquet"))) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_study_told_to_stop_keeps_what_is_finished(number, tmp_path):
    small = ("rollout.groups_per_step=4", "rollout.block_size=4", "task.length=4", "--local", "--json")
    arguments = ("study", "vocabulary", "--only", "dg", "--where", "vocab=2", "--seeds", 30, "--budget", 0.05)
    process = spawn(*arguments, *small, "--out", tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/*/*.parquet")), "a finished run")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 1 <= json.loads(out)["finished"] < 30
    assert err.strip().splitlines() == ["error: interrupted; the same command goes on from here"]


def test_the_list_names_every_study(monkeypatch, capsys):
    code, told, _ = call(monkeypatch, capsys, "study", "--list", "--json")
    assert code == 0
    assert [study["name"] for study in json.loads(told)] == list(STUDIES)
    assert call(monkeypatch, capsys, "study", "--list")[0] == 0
