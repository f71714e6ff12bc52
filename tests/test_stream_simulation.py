"""Hundreds of random runs with everything going wrong: nothing lost, nothing twice, nothing too old, no batch short."""

import asyncio
import dataclasses
import random

import pytest

from tests.stream_simulation import Simulation, Sizes
from tpo_dist.ledger import Ledger
from tpo_dist.schedule import schedule

FAULTS = ("worker_dies", "hand_in_twice", "refuse_some", "take_again", "learner_dies", "stream_dies", "everything_dies")


@pytest.mark.parametrize("seed", range(300))
def test_whatever_happens_every_draw_is_trained_once_or_failed(seed, tmp_path):
    dice = random.Random(seed)
    sizes = Sizes.at_random(dice)
    faults = tuple(dice.sample(FAULTS, dice.randint(0, len(FAULTS))))
    bad = dice.choice([0, 0, 7, 3])
    simulation = Simulation(
        tmp_path / "ledger.db", sizes, dice, fails=lambda block: bad and block % bad == 1, faults=faults
    )
    asyncio.run(simulation.run(dice.randint(20, 200)))
    with Ledger.read(simulation.path) as ledger:
        plan = schedule(ledger)
    assert {each.block: step for step, blocks in enumerate(plan.steps) for each in blocks} == simulation.trained
    made = {each.block: each.version for blocks in plan.steps for each in blocks}
    assert made == {block: simulation.versions[block] for block in made}
    assert set(made.values()) <= set(plan.digests)
    simulation.ledger.close()


@pytest.mark.parametrize("seed", range(40))
def test_synchronous_training_takes_the_same_blocks_whatever_happens(seed, tmp_path):
    dice = random.Random(seed)
    sizes = Sizes(steps=6, blocks_per_step=dice.randint(1, 4), max_staleness=0, publish_every=1, attempts=10**6)
    sizes.workers = dice.randint(1, 6)
    trained = []
    for faults in ((), FAULTS):
        path = tmp_path / f"ledger-{len(faults)}.db"
        simulation = Simulation(path, sizes, dice, fails=lambda block: block % 5 == 3, faults=faults)
        asyncio.run(simulation.run(150))
        trained.append((simulation.trained, {b: simulation.versions[b] for b in simulation.trained}))
        simulation.ledger.close()
    assert trained[0] == trained[1]


@pytest.mark.parametrize("seed", range(60))
def test_a_ledger_that_lost_its_end_learns_the_rest_from_the_checkpoint(seed, tmp_path):
    dice = random.Random(seed)
    sizes = dataclasses.replace(Sizes.at_random(dice), attempts=10**6, drop_older_than=None)  # nothing fails
    simulation = Simulation(
        tmp_path / "ledger.db", sizes, dice, faults=("power_fails", "everything_dies", "learner_dies")
    )
    asyncio.run(simulation.run(150))
    simulation.ledger.close()
