"""What a run exports is there for Prometheus to read: a run for real, and a look at what Ray serves."""

import time
import urllib.request

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from tpo_dist.programs import distributed
from tpo_dist.programs.run import create_run
from tpo_dist.watch.exported import EXPORTED, TAGS

DEADLINE = 60.0


def served(run):
    """Samples of one run by name and further tags, as this node serves them."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}", timeout=10) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    known = {tag for each in EXPORTED for tag in each.tags} | {"le"}
    found = {}
    for sample in (sample for family in families for sample in family.samples if sample.labels.get("run") == run):
        further = tuple(value for name, value in sorted(sample.labels.items()) if name in known)
        found[sample.name, *further] = (sample.value, sample.labels["role"])
    return found


@pytest.mark.ray
def test_prometheus_finds_the_numbers_of_a_run(ray_cluster, small_config):
    run = create_run(small_config("steps=6", "stream.max_staleness=1"))
    reports = list(distributed.train(run))
    last, deadline, found = reports[-1].metrics, time.monotonic() + DEADLINE, {}
    while found.get(("ray_tpo_dist_steps_trained_total",), (0, ""))[0] < 6 and time.monotonic() < deadline:
        time.sleep(0.5)
        found = served(run.folder.name)
    assert found["ray_tpo_dist_steps_trained_total",] == (6, "learner")
    assert found["ray_tpo_dist_reward",] == (pytest.approx(last["reward"].value), "learner")
    assert found["ray_tpo_dist_groups_trained_total",] == (6 * 24, "learner")
    assert found["ray_tpo_dist_step_seconds_count",] == (6, "learner")
    assert found["ray_tpo_dist_staleness_count",] == (6 * 24, "stream")
    assert found["ray_tpo_dist_staleness_bucket", "1.5"] == (6 * 24, "stream")
    assert found["ray_tpo_dist_steps",] == (6, "driver")
    assert found["ray_tpo_dist_workers_wanted",] == (1, "rollout")
    assert ("ray_tpo_dist_blocks", "in_flight") in found
    exported = {each.prometheus for each in EXPORTED}
    parts = ("_bucket", "_count", "_sum")
    names = {name.removesuffix(next((p for p in parts if name.endswith(p)), "")) for name, *_ in found}
    assert names <= exported
    assert TAGS == ("run", "role")
