"""What is decided about dead and silent processes: budgets, pauses, deadlines."""

import pytest

from tpo_dist.supervision import GiveUp, Kill, Limits, Restart, Wait, Warn, Watched, decide, watch

LIMITS = Limits(restarts=3, window_seconds=600.0, backoff_seconds=1.0, backoff_limit_seconds=5.0, quiet_seconds=60.0)
PLENTY = Limits(restarts=99, window_seconds=600.0, backoff_seconds=1.0, backoff_limit_seconds=5.0, quiet_seconds=60.0)


def test_the_first_death_costs_no_time():
    assert decide([100.0], LIMITS, 100.0) == Restart()


def test_pauses_double_up_to_their_limit():
    """A process that dies as soon as it is started: the pauses are 0, 1, 2, 4, 5, 5."""
    died, now, pauses = [0.0], 0.0, []
    for _ in range(6):
        decision = decide(died, PLENTY, now)
        until = decision.until if isinstance(decision, Wait) else now
        assert decide(died, PLENTY, until) == Restart()
        pauses.append(until - now)
        now = until + 0.25
        died.append(now)
    assert pauses == [0.0, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_pause_ends_exactly_when_it_said():
    assert decide([0.0, 10.0], LIMITS, 10.0) == Wait(11.0)
    assert decide([0.0, 10.0], LIMITS, 10.999) == Wait(11.0)
    assert decide([0.0, 10.0], LIMITS, 11.0) == Restart()


def test_a_long_life_ends_the_row_but_a_long_pause_does_not():
    assert decide([0.0, 1.0, 61.999], PLENTY, 61.999) == Wait(63.999)  # started at 2.0: lived 59.999 s
    assert decide([0.0, 1.0, 62.0], PLENTY, 62.0) == Restart()


def test_the_budget_counts_what_lies_in_the_window():
    assert decide([0.0, 100.0, 200.0, 700.0], LIMITS, 700.0) == Restart()  # 0 and 100 are out of it
    decision = decide([0.0, 100.0, 200.0, 300.0], LIMITS, 300.0)
    assert decision == GiveUp("it died 4 times within 300.0 s, and 3 restarts in 600 s are allowed")


def test_giving_up_does_not_become_a_restart_by_waiting():
    died = [0.0, 100.0, 200.0, 300.0]
    assert decide(died, LIMITS, 300.0) == decide(died, LIMITS, 10_000.0)


def test_a_budget_for_the_whole_run():
    whole = Limits(restarts=1, window_seconds=float("inf"), backoff_seconds=1.0, backoff_limit_seconds=5.0)
    assert decide([0.0], whole, 0.0) == Restart()
    decision = decide([0.0, 1e6], whole, 1e6)
    assert isinstance(decision, GiveUp)
    assert "1 restart in the whole run" in decision.reason


def test_no_restarts_means_none():
    never = Limits(restarts=0, window_seconds=600.0, backoff_seconds=1.0, backoff_limit_seconds=5.0)
    assert decide([5.0], never, 5.0) == GiveUp("it died, and 0 restarts in 600 s are allowed")


def test_others_of_the_role_count_for_the_budget_and_not_for_the_pause():
    assert decide([100.0], LIMITS, 100.0, others_died_at=[100.0, 100.0]) == Restart()
    assert isinstance(decide([100.0], LIMITS, 100.0, others_died_at=[99.0, 99.5, 100.0]), GiveUp)
    assert decide([700.0], LIMITS, 700.0, others_died_at=[10.0, 20.0, 30.0]) == Restart()


def test_a_process_that_cannot_start_ends_the_run_even_where_pauses_outlast_the_window():
    limits = Limits(restarts=5, window_seconds=20.0, backoff_seconds=1.0, backoff_limit_seconds=30.0)
    died, now = [0.0], 0.0
    for _ in range(20):
        decision = decide(died, limits, now)
        if isinstance(decision, GiveUp):
            break
        now = (decision.until if isinstance(decision, Wait) else now) + 10.0
        died.append(now)
    assert len(died) == 6
    assert decision == GiveUp(
        "it died 6 times within 65.0 s, one soon after the other, and 5 restarts in 20 s are allowed"
    )


def test_a_thousand_deaths_do_not_overflow():
    endless = Limits(restarts=10**6, window_seconds=1e9, backoff_seconds=1.0, backoff_limit_seconds=5.0)
    died = [0.1 * number for number in range(3000)]
    assert decide(died, endless, died[-1]) == Wait(died[-1] + 5.0)


WORKER = Watched(name="rollout-3", state="working", since=100.0, block=17, deadline_seconds=50.0, key="deadlines.x")


def test_a_worker_within_its_time_is_left_alone():
    assert watch(WORKER, 139.9) is None


def test_it_is_warned_of_once_and_then_killed():
    looks = [101.0, 139.0, 140.5, 141.5, 149.9, 150.0, 151.0]
    actions = [watch(WORKER, now, before) for before, now in zip([0.0, *looks], looks, strict=False)]
    assert [type(action) for action in actions] == [type(None), type(None), Warn, type(None), type(None), Kill, Kill]
    warning, killing = actions[2], actions[5]
    assert warning.reason == "rollout-3 has been at work on block 17 for 40.5 s, and is killed after 50 s (deadlines.x)"
    assert (
        killing.reason == "rollout-3 has been at work on block 17 for 50.0 s, longer than the 50 s it may (deadlines.x)"
    )


def test_a_first_look_that_comes_late_still_warns():
    assert isinstance(watch(WORKER, 145.0), Warn)


def test_who_has_no_deadline_waits_as_long_as_it_likes():
    idle = Watched(name="rollout-0", state="idle", since=0.0)
    assert watch(idle, 1e9) is None


@pytest.mark.parametrize("state", ["starting", "loading", "idle", "working", "retiring", "restarting"])
def test_every_state_has_its_words(state):
    action = watch(Watched(name="w", state=state, since=0.0, deadline_seconds=1.0), 2.0)
    assert isinstance(action, Kill)
    assert action.reason.startswith("w has been ")
    assert action.reason.endswith(" for 2.0 s, longer than the 1 s it may")
