"""Scorers in processes of their own: whatever one does costs its group, is counted by cause, and is never a score."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tpo_dist.config import ScoringConfig
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.rollout.scorer_pool import ScorerPool
from tpo_dist.tasks.contract import Defect

SCORERS = Path(__file__).parents[1] / "tasks" / "scorers.py"
WAIT = 120


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}?", "answer": str(n)}) + "\n" for n in range(3)))
    return path


def pool_of(rows, scorer, **limits):
    options = {"path": str(rows), "scorer": f"{SCORERS}:{scorer}"}
    return ScorerPool("text", options, 0, ScoringConfig(**{"seconds": 1.0, "memory_mb": 1024, "retries": 0, **limits}))


@pytest.fixture(scope="module")
def troubled(rows):
    pool = pool_of(rows, "troubled")
    yield pool
    pool.close()


def answer(pool, draw=0):
    """The right answer of a draw: the first of the three for which there is a score."""
    found = pool.submit(draw, ["0", "1", "2"]).result(WAIT)
    return str(found.scores.index(1.0))


CAUSES = {
    "hang": "scorer took too long",
    "spin": "scorer took too long",
    "regex": "scorer took too long",
    "die": "scorer process died, exit code 3",
    "segfault": "scorer process died, killed by SIGSEGV",
    "memory": "scorer ran out of memory",
    "raise": "scorer raised KeyError",
    "exit": "scorer raised SystemExit",
    "interrupt": "scorer raised KeyboardInterrupt",
    "recursion": "scorer raised RecursionError",
    "nan": "score is not finite",
    "inf": "score is not finite",
    "huge": "score is not finite",
    "wide": "score is not finite",  # where scores travel, in float32
    "none": "scorer returned NoneType",
    "text": "scorer returned str",
    "complex": "scorer returned complex",
}


@pytest.mark.parametrize(("completion", "cause"), CAUSES.items())
def test_whatever_a_scorer_does_fails_its_group_by_cause(troubled, completion, cause):
    right = answer(troubled)
    spoilt, whole = troubled.submit(0, [right, completion, right]), troubled.submit(0, [right, "wrong"])
    found = spoilt.result(WAIT)
    assert isinstance(found, Defect)
    assert found.cause == cause
    assert found.detail.startswith("candidate 1, attempt 1: ")
    assert len(found.detail) < 5000
    assert whole.result(WAIT).scores == (1.0, 0.0)


def test_true_is_a_score_and_odd_texts_arrive_whole(troubled):
    assert troubled.submit(0, ["true", "", "\x00", "\ud800", "ü\u2028\n", "x" * 3_000_000]).result(WAIT).scores == (
        1.0,
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
    )
    assert troubled.submit(0, []).result(WAIT).scores == ()


def test_a_scorer_that_forks_answers_once(troubled):
    """Its copy comes back too, and would answer as well."""
    right = answer(troubled)
    assert troubled.submit(0, ["fork", right]).result(WAIT).scores == (0.25, 1.0)
    assert troubled.submit(0, ["fork", "fork"]).result(WAIT).scores == (0.25, 0.25)


def test_groups_come_back_as_they_were_asked_for(rows):
    pool = pool_of(rows, "troubled", processes=2)
    right = [answer(pool, draw) for draw in range(3)]
    assert sorted(right) == ["0", "1", "2"]
    completions = [[right[n % 3] if (n + k) % 2 else "no" for k in range(5)] for n in range(40)]
    pending = [pool.submit(n % 3, each) for n, each in enumerate(completions)]
    for n, each in enumerate(pending):
        assert each.result(WAIT).scores == tuple(float((n + k) % 2) for k in range(5))
    assert len(pool.pids) == 2
    pool.close()


def test_what_hung_or_crashed_is_tried_again(rows, tmp_path):
    pool = pool_of(rows, "troubled", retries=2)
    trace = tmp_path / "trace"
    found = pool.submit(0, [f"mark {trace}"]).result(WAIT)
    assert found.cause == "scorer raised OSError"
    assert len(trace.read_text().splitlines()) == 3
    assert pool.failures == 3
    assert pool.submit(0, ["nan"]).result(WAIT).detail.startswith("candidate 0, attempt 1")  # it would not change
    pool.close()


def test_a_group_that_has_failed_is_not_scored_on(rows, tmp_path):
    pool = pool_of(rows, "troubled")
    traces = [tmp_path / f"trace{n}" for n in range(3)]
    assert isinstance(pool.submit(0, [f"mark {trace}" for trace in traces]).result(WAIT), Defect)
    pool.submit(0, ["1"]).result(WAIT)
    assert [trace.exists() for trace in traces] == [True, False, False]
    pool.close()


def test_processes_are_started_once_and_replaced(rows):
    pool = pool_of(rows, "troubled")
    pool.start()
    [first] = pool.pids
    for _ in range(3):
        pool.submit(0, ["1", "raise"]).result(WAIT)
    assert pool.pids == [first]
    pool.submit(0, ["die"]).result(WAIT)
    pool.submit(0, ["1"]).result(WAIT)
    [second] = pool.pids
    assert second != first
    os.kill(second, signal.SIGKILL)  # somebody else's doing, while it is idle
    _until(lambda: not pool.pids)
    assert pool.submit(0, ["1", "2"]).result(WAIT).scores
    pool.close()
    assert pool.pids == []


def test_memory_that_one_has_left_behind_does_not_fail_the_next(rows):
    pool = pool_of(rows, "troubled")
    pool.start()
    [first] = pool.pids
    assert pool.submit(0, ["memory"]).result(WAIT).cause == "scorer ran out of memory"
    assert pool.submit(0, ["1"]).result(WAIT).scores
    assert pool.pids != [first]
    pool.close()


def test_a_judge_that_waits_is_asked_for_many_at_once(rows):
    pool = pool_of(rows, "together", processes=1, seconds=60.0)
    pending = [pool.submit(draw, ["0", "1", "2"]) for draw in range(32)]
    assert {sum(each.result(WAIT).scores) for each in pending} == {1.0}
    pool.close()


@pytest.mark.parametrize(
    ("completion", "cause"),
    [
        ("hang", "scorer took too long"),
        ("block", "scorer took too long"),
        ("die", "scorer process died, exit code 3"),
        ("timeout", "scorer raised TimeoutError"),
    ],
)
def test_of_many_that_are_under_way_the_guilty_one_is_found(rows, completion, cause):
    pool = pool_of(rows, "judge", seconds=3.0)
    pending = [pool.submit(draw, ["0", "1", "2"]) for draw in range(6)]
    guilty = pool.submit(0, ["0", completion])
    assert guilty.result(WAIT).cause == cause
    assert [sum(each.result(WAIT).scores) for each in pending] == [1.0] * 6
    pool.close()


def test_a_task_that_is_refused_there_is_refused_here(rows):
    pool = pool_of(rows, "no_such_scorer")
    with pytest.raises(UsageError, match="there is no no_such_scorer in"):
        pool.start()
    assert pool.pids == []


def test_a_scorer_that_cannot_start_is_no_group_s_fault(rows, tmp_path):
    scorer = tmp_path / "fragile.py"
    scorer.write_text("import os\ndef score(prompt, completion, answer):\n    os._exit(1)\n")
    options = {"path": str(rows), "scorer": f"{scorer}:score"}
    pool = ScorerPool("text", options, 0, ScoringConfig(seconds=2.0, retries=3))
    pool.start()
    scorer.write_text("import os\nos._exit(5)\n")
    with pytest.raises(RunFailed, match="no scorer of text could be started: it ended while it started, exit code 5"):
        pool.submit(0, ["1"]).result(WAIT)
    pool.close()


def test_closing_cancels_what_waits_and_leaves_no_process(rows):
    pool = pool_of(rows, "troubled", seconds=600.0)
    pending = [pool.submit(0, ["hang"]), pool.submit(0, ["1"])]
    _until(lambda: pool.pids)
    [pid] = pool.pids
    pool.close()
    assert all(each.cancelled() for each in pending)
    _until(lambda: not _alive(pid))
    pool.close()
    assert pool.submit(0, ["1"]).result(WAIT).scores is not None  # it may be started again
    pool.close()


CHILD = """
import sys, time
from tpo_dist.config import ScoringConfig
from tpo_dist.rollout.scorer_pool import ScorerPool
pool = ScorerPool("text", {"path": sys.argv[1], "scorer": sys.argv[2]}, 0, ScoringConfig(seconds=2.0))
pool.start()
print(*pool.pids, flush=True)
pool.submit(0, [sys.argv[3]])
time.sleep(1000)
"""


@pytest.mark.parametrize("completion", ["1", "spin"])
def test_a_scorer_does_not_outlive_who_started_it(rows, completion):
    """Also where it hangs and nobody is left to kill it: the kernel's alarm does."""
    arguments = [sys.executable, "-c", CHILD, str(rows), f"{SCORERS}:troubled", completion]
    parent = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.kill()
    parent.communicate()
    _until(lambda: not _alive(pid))


def test_what_a_scorer_has_started_ends_with_who_started_the_scorer(rows, tmp_path):
    """Also while it waits for a process of its own, and does not see that the socket has ended."""
    trace = tmp_path / "children"
    trace.touch()
    child = CHILD.replace("seconds=2.0", "seconds=600.0")  # not by the alarm
    arguments = [sys.executable, "-c", child, str(rows), f"{SCORERS}:troubled", f"children {trace}"]
    parent = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    scorer = int(parent.stdout.readline())
    _until(lambda: len(trace.read_text().splitlines()) == 2)
    parent.kill()
    parent.communicate()
    for pid in (scorer, *map(int, trace.read_text().split())):
        _until(lambda pid=pid: not _alive(pid))


def test_what_a_scorer_prints_does_not_reach_standard_output(rows, tmp_path):
    scorer = tmp_path / "loud.py"
    scorer.write_text("def score(prompt, completion, answer):\n    print('loud')\n    return 1\n")
    child = CHILD.replace("time.sleep(1000)", "pool.close()").replace("pool.submit(0, [", "pool.submit(0, ['1',")
    child = child.replace("[3]])", "[3]]).result()")
    arguments = [sys.executable, "-c", child, str(rows), f"{scorer}:score", "1"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=WAIT, check=True)
    assert "loud" not in done.stdout
    assert done.stderr.count("loud") == 2


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
