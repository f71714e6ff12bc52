"""The list of metrics, and what is made of it: readings, the dashboard, the page."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.run_cli import call
from tpo_dist.metrics import Histogram, Max, Mean, Sum
from tpo_dist.watch.exported import EXPORTED
from tpo_dist.watch.grafana import dashboard
from tpo_dist.watch.readings import status_readings, step_readings

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "tpo_dist.json"

STATUS = {
    "status": "running",
    "step": 7,
    "steps": 20,
    "version": 6,
    "faults": {"rollout died": 2},
    "learner": {"restarts": 1},
    "stream": {
        "queued": 3, "in_flight": 2, "ready": 1, "trained": 40, "failed": 4, "reissued": 5, "dropped": 6,
        "failed_groups": {"scorer: ValueError": 8},
    },
    "rollouts": {
        "wanted": 3, "alive": 2, "workers": [{"state": "working"}, {"state": "working"}, {"state": "restarting"}]
    },
}  # fmt: skip


def test_the_names_are_those_that_dashboards_of_users_hang_on():
    """To rename one is to break them: it needs a word in the notes of the release, and a change here."""
    assert [each.name.removeprefix("tpo_dist_") for each in EXPORTED] == [
        "step", "steps", "reward", "error", "zero_variance", "all_fail", "target_distance", "target_kl", "loss",
        "grad_norm", "completion_length", "cut_off", "reference_kl", "mismatch_token", "ratio_ess", "step_seconds",
        "sample_seconds", "score_seconds", "wait_seconds", "train_seconds", "steps_trained_total",
        "groups_trained_total", "groups_per_second", "learner_idle_share", "rollout_idle_share", "staleness",
        "staleness_max", "version", "blocks", "blocks_reissued_total", "blocks_dropped_total", "blocks_failed_total",
        "groups_failed_total", "workers_wanted", "workers_alive", "workers", "faults_total", "learner_restarts_total",
        "status",
    ]  # fmt: skip


def test_every_metric_is_well_formed():
    assert len({each.name for each in EXPORTED}) == len(EXPORTED)
    for each in EXPORTED:
        assert re.fullmatch(r"tpo_dist_[a-z_]+", each.name)
        assert each.name.endswith("_total") == (each.kind == "counter"), each.name
        assert bool(each.bounds) == (each.kind == "histogram"), each.name
        assert each.meaning


def test_every_metric_is_read_from_something_and_nothing_else_is():
    rows = {each.row: Mean(0.5) for each in EXPORTED if each.row is not None}
    rows |= {"staleness": Histogram((0.0, 1.0, 1.0)), "groups_trained": Sum(64.0), "staleness_max": Max(1.0)}
    read = [*step_readings(rows, 0.25), *status_readings(STATUS)]
    known = {each.name: each for each in EXPORTED}
    assert {reading.name for reading in read} == set(known)
    for reading in read:
        assert tuple(reading.tags) == known[reading.name].tags
        assert not reading.so_far or known[reading.name].kind == "counter"
    values = {(reading.name, *reading.tags.values()): reading.values for reading in read}
    assert values["tpo_dist_staleness",] == (0.0, 1.0, 1.0)
    assert values["tpo_dist_groups_trained_total",] == (64.0,)
    assert values["tpo_dist_workers", "working"] == (2,)
    assert values["tpo_dist_workers", "loading"] == (0,)
    assert values["tpo_dist_status", "running"] == (1.0,)
    assert values["tpo_dist_groups_failed_total", "scorer: ValueError"] == (8,)
    assert values["tpo_dist_blocks", "in_flight"] == (2,)


def test_numbers_that_a_step_does_not_have_are_not_read():
    names = {reading.name for reading in step_readings({"reward": Mean(1.0), "of_nobody": Mean(1.0)}, 1.0)}
    assert names == {"tpo_dist_reward", "tpo_dist_step_seconds", "tpo_dist_steps_trained_total"}


def test_the_committed_dashboard_and_page_are_what_the_commands_print(monkeypatch, capsys):
    """`make dashboard` writes them anew."""
    for option, path in (("--grafana", DASHBOARD), ("--markdown", ROOT / "docs" / "metrics.md")):
        code, out, _ = call(monkeypatch, capsys, "metrics", option)
        assert (code, out) == (0, path.read_text())


def test_every_metric_has_its_place_on_the_dashboard():
    board = json.loads(DASHBOARD.read_text())
    assert board == dashboard()
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    asked = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    for each in EXPORTED:
        name = each.prometheus + ("_bucket" if each.kind == "histogram" else "")
        assert f"({name}{{" in asked, each.name
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "two panels overlap"
    assert max(x for x, _ in cells) == 23


@pytest.mark.parametrize("options", [("--json", "--grafana"), ("--json", "--markdown")])
def test_one_thing_is_printed_at_a_time(options, monkeypatch, capsys):
    code, _, said = call(monkeypatch, capsys, "metrics", *options)
    assert (code, "only one of them can be printed" in said) == (2, True)
