"""How many rollout workers keep the learner fed: the rule behind `rollout.workers: auto`, a pure function.

The busy workers, over the share of its time that the learner was fed, are the workers that would feed it always. The
rule goes there in few steps, growing fast and shrinking slowly, and leaves small differences alone: between the sizes
at which it would grow and those at which it would shrink lie several, so that it does not swing. Where both sides are
idle, each waits for the other or for the slowest block, and that number says so: more workers would wait too.
"""

import math

STARVING = 0.10
"""Idle share of the learner above which there may be too few workers."""
FED = 0.05
"""Idle share of the learner up to which there may be too many."""
IDLE = 0.22
"""Idle share of the workers above which there are too many, if that leaves more than one idle."""
MOSTLY_IDLE = 0.50
"""Idle share of the workers above which even a single idle one is too many, though the learner may wait a little."""
PART = 0.25
"""A part of a worker that is not worth one."""
SPARE = 0.25
"""Spare workers, over the root of the busy ones, that stay where others leave: blocks differ in their length."""
FAR = 1.5
"""A fleet that should be this many times larger grows soon."""
SOON_SECONDS, SOON_STEPS = 15.0, 1
LATER_SECONDS, LATER_STEPS = 60.0, 4
"""From one change to the next. Smaller changes, and every shrinking, come later, when the shares are no chance."""


def next_size(
    current: int,
    learner_idle_share: float,
    worker_idle_share: float,
    floor: int,
    ceiling: int,
    seconds_since_change: float,
    steps_since_change: float = math.inf,
) -> int:
    """Workers that there should be: at most twice as many as now, and at least three quarters.

    Shares (0 to 1) are means over the last minute or so, several steps at least, but not from before the newcomers of
    the last change were at work: that is when seconds and steps `since_change` begin. The same numbers always give the
    same size.
    """
    if not floor <= current <= ceiling:
        return max(floor, min(current, ceiling))
    busy = current * (1.0 - worker_idle_share)
    needed = math.ceil(busy / max(1.0 - learner_idle_share, 0.01) - PART)
    soon = needed >= FAR * current
    seconds, steps = (SOON_SECONDS, SOON_STEPS) if soon else (LATER_SECONDS, LATER_STEPS)
    if seconds_since_change < seconds or steps_since_change < steps:
        return current
    if learner_idle_share > STARVING and needed > current:
        return min(needed, 2 * current, ceiling)
    mostly_idle = learner_idle_share <= STARVING and worker_idle_share > MOSTLY_IDLE
    some_idle = learner_idle_share <= FED and worker_idle_share > IDLE and current - math.ceil(busy) > 1
    if mostly_idle or some_idle:
        enough = math.ceil(busy + SPARE * math.sqrt(busy))
        return max(min(enough, current), current - max(1, current // 4), floor)
    return current
