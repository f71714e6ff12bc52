"""Shared fixtures: golden arrays, a small run's configuration, and one Ray cluster for the whole session."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tpo_dist.config import RunConfig
from tpo_dist.programs.job import configure

DATA = Path(__file__).parent / "data"

SMALL = (
    "steps=20",
    "task.length=4",
    "rollout.groups_per_step=24",
    "rollout.block_size=4",
    "rollout.group_size=8",
    "rollout.workers=1",
    "stream.max_staleness=0",
    "log.sinks=[]",
    "log.plot=false",
)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Where tests run in two processes (`make test`), one has the cluster and all who ask for it, which take half the
    time; the other has the rest, engines first."""
    clusters = item.get_closest_marker("ray") or "ray_cluster" in getattr(item, "fixturenames", ())
    if clusters or item.get_closest_marker("vllm"):
        item.add_marker(pytest.mark.xdist_group("clusters" if clusters else "engines"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def losses() -> dict[str, np.ndarray]:
    """Every loss and its gradient on random inputs, computed by the author's code."""
    return dict(np.load(DATA / "losses.npz"))


@pytest.fixture(scope="session")
def golden_step() -> dict[str, np.ndarray]:
    """Parameters, log-probs and four epochs of the transformer, computed by the author's code."""
    return dict(np.load(DATA / "transformer_step.npz"))


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """A resolved configuration of seconds, with overrides."""

    def make(*overrides: str) -> RunConfig:
        return configure({}, (*SMALL, f"runs_dir={tmp_path / 'runs'}", *overrides))

    return make


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One real Ray cluster for every test that asks for it; starting one takes seconds."""
    import ray

    from tpo_dist.runtime.cluster import patiently

    start = partial(
        ray.init,
        address="local",
        num_cpus=4,
        object_store_memory=256 * 1024**2,
        include_dashboard=False,
        logging_level=40,
        _system_config={"metrics_report_interval_ms": 1000},  # what is exported is there to read within seconds
    )
    patiently(start, 180.0, "Ray")  # machines that test are often overrun
    yield
    ray.shutdown()
