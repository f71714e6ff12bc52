"""Who holds which blocks, and since when."""

from tpo_dist.blocks import Lease
from tpo_dist.leases import Leases


def lease(worker, block, version=0):
    return Lease(block=block, first_draw=2 * block, draws=2, worker=worker, attempt=1, version=version, digest="d")


def test_each_worker_holds_its_leases_in_order_until_they_end():
    leases = Leases(lambda: 0.0)
    first, second, other = lease("a", 4), lease("a", 1), lease("b", 2)
    leases.give([first, second, other])
    assert leases.of("a") == [first, second]
    assert leases.of("nobody") == []
    leases.end(first)
    assert first not in leases
    assert second in leases
    leases.end(second)
    assert leases.of("a") == []
    assert leases.seconds().keys() == {"b"}


def test_a_lease_holds_only_as_it_was_given():
    leases = Leases(lambda: 0.0)
    leases.give([lease("a", 1, version=3)])
    assert lease("a", 1, version=2) not in leases
    assert lease("b", 1, version=3) not in leases


def test_the_clock_starts_with_the_first_and_again_with_each_that_ends():
    now = [5.0]
    leases = Leases(lambda: now[0])
    held = [lease("a", block) for block in range(3)]
    leases.give(held[:1])
    now[0] = 7.0
    leases.give(held[1:])
    assert leases.seconds() == {"a": ([0, 1, 2], 2.0)}
    leases.end(held[0])
    now[0] = 8.0
    assert leases.seconds() == {"a": ([1, 2], 1.0)}


def test_what_is_not_kept_no_longer_holds():
    leases = Leases(lambda: 0.0)
    leases.give([lease("a", 0), lease("a", 1), lease("b", 2)])
    leases.keep({1})
    assert {worker: blocks for worker, (blocks, _) in leases.seconds().items()} == {"a": [1]}
