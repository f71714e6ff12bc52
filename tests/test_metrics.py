"""Metrics merge by their own rule."""

import math

import pytest

from tpo_dist.metrics import Histogram, Max, Mean, Sum, merge, values


def test_each_kind_has_its_reduction():
    merged = merge(
        [
            {"score": Mean(3.0, 2), "seconds": Sum(1.0), "lag": Max(1.0), "ages": Histogram((0.0, 1.0))},
            {"score": Mean(9.0, 4), "seconds": Sum(2.0), "lag": Max(3.0), "ages": Histogram((5.0,)), "only": Sum(7.0)},
        ]
    )
    assert values(merged) == {"score": 2.0, "seconds": 3.0, "lag": 3.0, "ages": 2.0, "only": 7.0}
    assert merged["ages"] == Histogram((0.0, 1.0, 5.0))


def test_no_observations_is_not_a_number():
    assert math.isnan(Mean(0.0, 0).value)
    assert math.isnan(Histogram().value)


def test_one_name_has_one_kind():
    with pytest.raises(TypeError, match="'x' is a Mean here and a Sum there"):
        merge([{"x": Mean(1.0)}, {"x": Sum(1.0)}])
