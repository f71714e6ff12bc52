"""How many groups per second pass from workers to learner, ledger included, and how near that is to Ray's own pace."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tpo_dist.config import ClusterConfig
from tpo_dist.runtime.cluster import cluster
from tpo_dist.runtime.transfer import RawLine, StreamLine

SMALL, LARGE = 1024, 1024**2
_BLOCKS = 64  # of a step, small groups
_LARGE_GROUPS, _LEAST_BLOCKS = 64, 8  # of a step, large groups: so many, in so many blocks at least
_WARM_UP = 4  # steps of each turn that are not counted: two were made ready in the pause, as others' after their turn
_START_SECONDS = 120.0
_STORE_MB = 1024


def bench_stream(
    block_sizes: Sequence[int] = (1, 16),
    workers: int = 2,
    rounds: int = 3,
    steps: int = 30,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Groups of 1 KB per second, and the bandwidth of 1 MB groups over that of Ray's put and get of the same blocks.

    `StreamLine` and `RawLine` say what each does. Plain Ray runs in two ways: each block an object, and all that a
    process has of a step as one; `bandwidth_ratio` is over the better of them, `bandwidth_ratio_by_block` over the
    first. The latter may well be above 1: the stream puts what a worker makes in a turn as one object.
    Measured for each number of groups in a block; the last one's figures are the result, all are in `by_block_size`.
    Medians over rounds, after one that does not count: it touches the memory of the object store for the first time.
    All stand all the time; in each round small groups, large ones and both of plain Ray take turns of that many steps.
    """
    by_size: dict[str, Any] = {}
    with TemporaryDirectory(prefix="tpo-bench-") as folder, cluster(ClusterConfig(object_store_mb=_STORE_MB), 30.0):
        for size in block_sizes:
            by_size[str(size)] = _measure(Path(folder, str(size)), size, workers, rounds, steps + _WARM_UP, tell)
    last = block_sizes[-1]
    shape = {"block_size": last, "workers": workers, "rounds": rounds, "steps": steps}
    return {**by_size[str(last)], **shape, "by_block_size": by_size}


def _measure(
    folder: Path, size: int, workers: int, rounds: int, steps: int, tell: Callable[[str], None]
) -> dict[str, float]:
    large_blocks = workers * -(-max(_LEAST_BLOCKS, _LARGE_GROUPS // size) // workers)
    lines: dict[str, StreamLine | RawLine] = {}
    paces: dict[str, list[float]] = {}
    with ExitStack() as ends:
        lines["small"] = StreamLine(folder / "small", SMALL, size, _BLOCKS, (rounds + 1) * steps, workers)
        lines["large"] = StreamLine(folder / "large", LARGE, size, large_blocks, (rounds + 1) * steps, workers)
        lines["ray_by_block"] = RawLine(LARGE, size, large_blocks, workers)
        lines["ray_together"] = RawLine(LARGE, size, large_blocks, workers, together=True)
        for line in lines.values():
            ends.callback(line.close)
        for line in lines.values():
            line.stand(_START_SECONDS)
        groups = dict.fromkeys(lines, large_blocks * size) | {"small": _BLOCKS * size}
        for index in range(rounds + 1):
            for name, line in lines.items():
                paces.setdefault(name, []).append(groups[name] * _steps_per_second(line.turn(steps)))
            small, large, by_block, together = (pace[-1] for pace in paces.values())
            tell(
                f"blocks of {size}, {f'round {index} of {rounds}' if index else 'warm-up'}: {small:.0f} small groups "
                f"per second; large ones at {_megabytes(large):.0f} MB/s, plain Ray {_megabytes(by_block):.0f} MB/s "
                f"block by block and {_megabytes(together):.0f} MB/s together"
            )
    counted = {name: pace[1:] for name, pace in paces.items()}
    best = [max(pair) for pair in zip(counted["ray_by_block"], counted["ray_together"], strict=True)]
    return {
        "groups_per_second": statistics.median(counted["small"]),
        "bandwidth_ratio": _ratio(counted["large"], best),
        "bandwidth_ratio_by_block": _ratio(counted["large"], counted["ray_by_block"]),
        "stream_megabytes_per_second": _megabytes(statistics.median(counted["large"])),
        "ray_megabytes_per_second": _megabytes(statistics.median(best)),
    }


def _ratio(mine: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(mine, others, strict=True))


def _megabytes(groups: float) -> float:
    return groups * LARGE / 1e6


def _steps_per_second(clock: Iterator[float]) -> float:
    times = list(clock)[_WARM_UP - 1 :]
    return (len(times) - 1) / (times[-1] - times[0])
