"""The benchmark of weight updates, tiny, through real Ray and real vLLM: what it gives, not how fast."""

import json

import pytest

from tests.tiny import tiny_model
from tpo_dist.bench.weight_sync import bench_sync

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]


@pytest.mark.usefixtures("ray_cluster")
def test_weights_and_adapters_arrive_and_every_part_is_counted(tmp_path):
    pytest.importorskip("vllm")
    told = []
    result = bench_sync(str(tiny_model(tmp_path / "model", spread=0.1)), rank=2, rounds=2, tell=told.append)
    json.dumps(result, allow_nan=False)
    assert told[0].startswith("all weights, warm-up")
    assert told[0].endswith("by a process group")
    assert len(told) == 6
    assert result["full_megabytes"] == pytest.approx(0.46, abs=0.01)
    for seconds, parts in (("full_seconds", "parts"), ("adapter_seconds", "adapter_parts")):
        assert list(result[parts]) == ["put", "get", "check", "load", "probe"]
        assert all(part > 0 for part in result[parts].values())
        assert sum(result[parts].values()) <= 1.5 * result[seconds]  # medians of parts do not quite add up
    assert list(result["collective_parts"]) == ["transfer", "load", "probe"]
    assert all(part > 0 for part in result["collective_parts"].values())
    pace = result["full_megabytes"] / result["collective_seconds"]
    assert result["collective_megabytes_per_second"] == pytest.approx(pace)
    pace = result["full_megabytes"] / result["full_seconds"]
    assert result["full_megabytes_per_second"] == pytest.approx(pace)
    assert result["bandwidth_ratio"] == pytest.approx(pace / result["copy_megabytes_per_second"])
