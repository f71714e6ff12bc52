"""Numbers belong to draws: the same whoever asks, in whichever order and company."""

import numpy as np

from tpo_dist.randomness import draw_uniforms, draw_words


def test_draws_do_not_depend_on_their_company():
    together = draw_words(3, "prompt", np.arange(20), 5)
    alone = [draw_words(3, "prompt", np.array([i]), 5)[0] for i in range(20)]
    np.testing.assert_array_equal(together, alone)
    mixed = np.array([7, 3, 4, 19, 0])
    np.testing.assert_array_equal(draw_words(3, "prompt", mixed, 5), together[mixed])


def test_seed_purpose_and_draw_all_matter():
    base = draw_words(3, "prompt", np.arange(50), 4)
    assert not (base == draw_words(4, "prompt", np.arange(50), 4)).any()
    assert not (base == draw_words(3, "sample", np.arange(50), 4)).any()
    assert len(np.unique(base)) == base.size


def test_far_draws_and_odd_counts():
    far = np.array([10**12, 10**12 + 1])
    np.testing.assert_array_equal(draw_words(0, "sample", far, 7)[1], draw_words(0, "sample", far[1:], 7)[0])
    assert draw_words(0, "sample", far, 7).shape == (2, 7)
    assert draw_words(0, "sample", far[:0], 7).shape == (0, 7)


def test_uniforms_are_uniform_on_the_half_open_interval():
    numbers = draw_uniforms(1, "sample", np.arange(2000), 50)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    expected = numbers.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-squared, 19 degrees of freedom, p = 0.001
