"""The benchmarks of asynchrony, scaling and the stream, tiny, through real Ray: what they give, not how fast."""

import json
import math

import pytest

from tpo_dist.bench.async_mode import Measured, bench_async, summary
from tpo_dist.bench.scaling import bench_scaling
from tpo_dist.bench.stream_rate import bench_stream

real_ray = pytest.mark.usefixtures("ray_cluster")

TINY = ("task.length=2", "rollout.groups_per_step=8", "rollout.group_size=4", "rollout.block_size=4")


@pytest.mark.ray
@real_ray
def test_async_gives_both_modes_throughput_and_reward():
    told = []
    result = bench_async((*TINY, "rollout.workers=1", "learner.epochs=1"), seeds=1, steps=8, tell=told.append)
    json.dumps(result, allow_nan=False)
    assert (result["seeds"], result["steps"], len(result["scorer_seconds"])) == (1, 8, 1)
    assert result["speedups"] == [result["speedup"]]
    assert result["scorer_seconds"][0] >= 0
    assert result["sampling_over_training"] > 0
    for mode in ("synchronous", "asynchronous"):
        of = result[mode]
        assert of["groups_per_second"] > 0
        assert 0 <= of["reward"] <= 1
        assert of["reward_standard_error"] is None, "one seed has none"
        assert of["training_seconds"] > 0
    assert len(told) == 1 + 2


def test_async_takes_the_median_speedup_of_pairs_and_the_mean_reward_of_seeds():
    def measured(pace, reward):
        return Measured(groups_per_second=pace, reward=reward, waiting=pace, training=100.0)

    pairs = [(10.0, 20.0), (20.0, 30.0), (40.0, 76.0)]
    result = summary(
        {
            "synchronous": [measured(slow, reward) for (slow, _), reward in zip(pairs, (0.8, 0.9, 1.0), strict=True)],
            "asynchronous": [measured(fast, 0.7) for _, fast in pairs],
        }
    )
    assert result["speedups"] == [2.0, 1.5, 1.9]
    assert result["speedup"] == 1.9
    assert result["sampling_over_training"] == 0.2
    assert result["synchronous"]["groups_per_second"] == 20.0
    assert result["synchronous"]["reward"] == pytest.approx(0.9)
    assert result["synchronous"]["reward_standard_error"] == pytest.approx(0.1 / math.sqrt(3))
    assert result["asynchronous"]["reward_standard_error"] == pytest.approx(0.0)


@pytest.mark.ray
@real_ray
def test_scaling_measures_each_number_of_workers_and_draws_it(tmp_path):
    plot = tmp_path / "scaling.png"
    tiny = ("task.seconds=0.05", "task.length=2", "rollout.group_size=2")
    result = bench_scaling(tiny, counts=(1, 2), window_seconds=0.1, plot=plot)
    json.dumps(result, allow_nan=False)
    assert result["efficiency"]["1"] == 1
    assert result["efficiency"]["2"] > 0
    pace = result["groups_per_second"]
    assert result["efficiency"]["2"] == pytest.approx(pace["2"] / (2 * pace["1"]))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert result["plot"] == str(plot)


@pytest.mark.ray
@real_ray
def test_the_stream_is_measured_for_each_block_size_beside_plain_ray():
    told = []
    result = bench_stream((1, 2), workers=1, rounds=1, steps=3, tell=told.append)
    json.dumps(result, allow_nan=False)
    assert list(result["by_block_size"]) == ["1", "2"]
    ratios = ("bandwidth_ratio", "bandwidth_ratio_by_block")
    figures = ("groups_per_second", *ratios, "stream_megabytes_per_second", "ray_megabytes_per_second")
    for of in result["by_block_size"].values():
        assert set(of) == set(figures)
        assert all(0 < value < math.inf for value in of.values())
        assert of["bandwidth_ratio"] <= of["bandwidth_ratio_by_block"]  # the better of two ways is the yardstick
    assert {name: result[name] for name in figures} == result["by_block_size"]["2"]
    assert (result["block_size"], result["workers"], result["rounds"], result["steps"]) == (2, 1, 1, 3)
    assert len(told) == 4  # with the warm-up of each
