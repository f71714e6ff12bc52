"""What the metrics say of a batch in words: each source of a mixture, each part of a reward, and what was cut off."""

import numpy as np
import pytest

from tpo_dist.learner.batch import to_tensors
from tpo_dist.learner.measures import score_metrics
from tpo_dist.metrics import merge, values
from tpo_dist.records import ScoredGroups, StopReason

SCORES = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]], dtype=np.float32)
LENGTHS = np.array([[3, 1], [2, 2], [1, 4]], dtype=np.int32)


def metrics(stop=StopReason.STOP, **fields):
    stops = np.full((3, 2), stop, dtype=np.int8)
    if stop == StopReason.STOP:
        stops[0, 0] = stops[2, 1] = StopReason.LENGTH
    count = int(LENGTHS.sum())
    record = ScoredGroups(
        group_ids=np.arange(3),
        prompt_tokens=np.zeros(3, np.int32),
        prompt_lengths=np.ones(3, np.int32),
        tokens=np.zeros(count, np.int32),
        lengths=LENGTHS,
        behavior_logprobs=np.full(count, -1.0, np.float32),
        scores=SCORES,
        snapshot_versions=np.zeros(3, np.int64),
        snapshot_digests=np.full(3, b"d" * 32, "S32"),
        stop_reasons=stops,
        **fields,
    )
    return score_metrics(record, to_tensors(record, "cpu").groups)


def test_completions_that_reached_the_limit_are_counted():
    found = values(metrics())
    assert found["cut_off"] == pytest.approx(2 / 6)
    assert found["completion_length_max"] == 4
    assert found["completion_length"] == pytest.approx(13 / 6)
    assert "cut_off" not in metrics(StopReason.FIXED)


def test_each_source_has_its_reward_and_each_part_its_mean():
    sources = np.array([b"sums", b"maze", b"sums"], "S64")
    parts = {"task": np.array([0.5, 0.25, 0.0]), "form": np.array([np.nan, 1.0, np.nan]), "none": np.full(3, np.nan)}
    found = metrics(sources=sources, parts=parts)
    assert values(found)["reward/sums"] == pytest.approx(0.25)
    assert values(found)["reward/maze"] == 0.5
    assert values(found)["part/task"] == 0.25
    assert values(found)["part/form"] == 1.0
    assert np.isnan(values(found)["part/none"])
    both = values(merge([found, metrics(sources=sources[::-1].copy(), parts={"form": np.array([0.0, 0.0, 0.0])})]))
    assert both["part/form"] == 0.25
    assert not [name for name in metrics() if "/" in name]
