"""Random numbers that belong to a prompt draw, not to whoever draws it.

A counter-based generator gives draw `i` the same numbers whichever worker asks, in whichever order and block.
"""

import itertools
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Purpose = Literal["prompt", "sample", "wait", "order", "mixture"]
_PURPOSES: dict[Purpose, int] = {"prompt": 1, "sample": 2, "wait": 3, "order": 4, "mixture": 5}
_WORDS_PER_COUNT = 4  # Philox4x64 makes four 64-bit words for each value of its counter


def draw_words(seed: int, purpose: Purpose, draw_ids: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """`count` random 64-bit words for each draw: [len(draw_ids), count].

    A pure function of (seed, purpose, draw id, count).
    """
    stride = -(-count // _WORDS_PER_COUNT)
    out = np.empty((len(draw_ids), stride * _WORDS_PER_COUNT), dtype=np.uint64)
    for start, stop in _consecutive_runs(draw_ids):
        generator = np.random.Philox(key=[seed & (2**64 - 1), _PURPOSES[purpose]])
        generator.advance(int(draw_ids[start]) * stride)
        out[start:stop] = generator.random_raw((stop - start) * stride * _WORDS_PER_COUNT).reshape(stop - start, -1)
    return out[:, :count]


def draw_uniforms(seed: int, purpose: Purpose, draw_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """`count` uniforms in [0, 1) for each draw: [len(draw_ids), count]."""
    words = draw_words(seed, purpose, draw_ids, count)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _consecutive_runs(ids: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Index ranges over which the ids count up by one: usually a single one, since blocks are consecutive draws."""
    if len(ids) == 0:
        return []
    cuts = np.flatnonzero(np.diff(ids) != 1) + 1
    edges = [0, *cuts.tolist(), len(ids)]
    return list(itertools.pairwise(edges))
