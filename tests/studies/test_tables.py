"""Numbers from curves, by hand."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tpo_dist.studies.definition import Figure, Reported, Setting, Study
from tpo_dist.studies.report import write_report
from tpo_dist.studies.runs import run_files
from tpo_dist.studies.tables import estimates, markdown, mean_curve, measure

CURVE = pl.DataFrame({"step": [1.0, 2.0, 3.0, 4.0], "error": [0.5, 0.009, 0.3, 0.001]})


@pytest.mark.parametrize(
    ("reported", "number"),
    [
        (Reported(name="final", last=2), 0.1505),
        (Reported(name="final", last=1, scale=100), 0.1),
        (Reported(name="steps", kind="steps_to", threshold=0.01), 2.0),
        (Reported(name="steps", kind="steps_to", threshold=1e-4), math.inf),
        (Reported(name="steps", kind="steps_to", threshold=0.009), 4.0),  # under it, not at it
        (Reported(name="spike", kind="highest_after", threshold=0.01), 0.3),
        (Reported(name="solved", kind="reached", threshold=0.2, last=2), 1.0),
        (Reported(name="solved", kind="reached", threshold=0.1, last=2), 0.0),
        (Reported(name="there", kind="at", step=3), 0.3),
    ],
)
def test_numbers_of_one_curve(reported, number):
    assert measure(CURVE, reported) == pytest.approx(number)


def test_a_final_value_is_of_the_last_20_steps():
    curve = pl.DataFrame({"step": np.arange(1.0, 31.0), "error": np.arange(30.0)})
    assert measure(curve, Reported(name="final")) == np.mean(range(10, 30))


def test_what_is_not_there_is_not_a_number():
    assert math.isnan(measure(CURVE, Reported(name="x", curve="reward")))
    assert math.isnan(measure(CURVE, Reported(name="x", kind="at", step=9)))
    assert math.isnan(measure(CURVE, Reported(name="x", kind="highest_after", threshold=1e-4)))


def small_study(paper):
    final = Reported(name="final", last=1, scale=100, unit="%")
    steps = Reported(name="steps", kind="steps_to", threshold=0.1)
    setting = Setting(labels={"method": "tpo", "size": 4}, engine="one_context", options={}, steps=2, paper=paper)
    return Study(
        name="s", title="S", source="here", seeds=3, settings=(setting,), reported=(final, steps), figures=(Figure(),)
    )


def test_mean_standard_error_and_distance_from_the_paper(tmp_path):
    study = small_study({"final": 5.0, "steps": math.inf})
    files = run_files(tmp_path, study.settings, range(4))
    for file, last in zip(files[:3], (0.02, 0.04, 0.09), strict=True):  # the fourth is not finished
        file.write({"step": np.array([1.0, 2.0]), "error": np.array([1.0, last])})
    final, steps = estimates(study, files)
    assert final.mean == pytest.approx(5.0)
    error = math.sqrt((9 + 1 + 16) / 2 / 3)
    assert final.standard_error == pytest.approx(error)
    assert final.deviation == pytest.approx(0.0)
    above = replace(final, setting=replace(final.setting, paper={"final": 3.0}))
    assert above.deviation == pytest.approx(2.0 / error)
    assert final.seeds == 3
    assert steps.mean == 2.0
    assert steps.deviation is None
    table = markdown(study, [final, steps])
    assert "| tpo | 5.00 ± 2.08 (paper 5.00) |" in table
    assert "(paper never)" in table


def test_steps_are_those_of_the_mean_curve(tmp_path):
    """As in the paper: one seed that never gets there keeps the mean above the threshold."""
    study = small_study({})
    files = run_files(tmp_path, study.settings, range(2))
    for file, last in zip(files, (0.0, 0.5), strict=True):
        file.write({"step": np.array([1.0, 2.0]), "error": np.array([1.0, last])})
    steps = estimates(study, files)[1]
    assert math.isinf(steps.mean)
    assert steps.reaching == 1
    assert math.isnan(steps.standard_error)
    assert "| tpo | never, 1 of 2 seeds |" in markdown(study, [steps])


def test_a_run_without_a_curve_counts_for_nothing(tmp_path):
    """As one of an older version may be, whose metrics had other names."""
    study = small_study({})
    files = run_files(tmp_path, study.settings, range(2))
    files[0].write({"step": np.array([1.0, 2.0]), "failures": np.array([1.0, 1.0])})
    files[1].write({"step": np.array([1.0, 2.0]), "error": np.array([1.0, 0.02])})
    final, steps = estimates(study, files)
    assert (final.mean, final.reaching, final.seeds) == (pytest.approx(2.0), 1, 2)
    assert (steps.mean, steps.reaching, steps.seeds) == (2.0, 1, 2)
    assert "2.00, 1 of 2 seeds" in markdown(study, [final])


def test_a_mean_curve_is_of_the_seeds_that_have_a_number():
    """Metrics such as the signal on winners are absent where a seed has no winner at that step."""
    nan = math.nan
    seeds = [[1.0, nan, nan], [3.0, 5.0, nan], [8.0, 6.0, nan]]
    runs = [pl.DataFrame({"step": [1.0, 2.0, 3.0], "x": values}) for values in seeds]
    curve = mean_curve(runs, "x")
    assert curve["x"].to_list() == pytest.approx([4.0, 5.5, nan], nan_ok=True)
    assert curve["standard_error"].to_list()[:2] == pytest.approx([math.sqrt((9 + 1 + 16) / 2 / 3), 0.5])


def test_a_mean_curve_of_one_run_has_no_band():
    assert mean_curve([CURVE], "error")["standard_error"].to_list() == [0.0] * 4


def test_a_share_of_the_steps_is_said(tmp_path):
    study = small_study({})
    files = run_files(tmp_path, study.settings, range(1))
    files[0].write({"step": np.array([1.0]), "error": np.array([0.5])})
    for budget, words in ((0.02, "mean nothing"), (0.36, "Runs of 0.36 of the study's steps"), (1.0, None)):
        write_report(study, files, tmp_path / "out", "command", budget)
        table = (tmp_path / "out" / "table.md").read_text()
        assert words in table if words else "Runs of" not in table


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    (file,) = run_files(tmp_path, small_study({}).settings, range(1))
    monkeypatch.setattr(pl.DataFrame, "write_parquet", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        file.write({"step": np.array([1.0])})
    assert not file.finished
    assert not list(file.path.parent.glob("*.partial"))
