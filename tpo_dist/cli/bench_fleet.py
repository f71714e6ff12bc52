"""`tpo-dist bench async|scaling|stream`: what asynchrony, more workers and the stream itself are worth."""

from pathlib import Path
from typing import Annotated

import typer

from tpo_dist.cli.bench import AsJson, Overrides, progress, show


def async_mode(
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds; each runs in both modes.")] = 3,
    steps: Annotated[int, typer.Option(min=30, help="Steps of each run.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Asynchronous (max_staleness=1) over synchronous training where the scorer waits as long as a step trains.

    JSON keys: speedup (throughput, median over seeds), speedups, sampling_over_training (seconds of a synchronous step
    over each other), synchronous and asynchronous (each groups_per_second, reward: mean of the last 20 steps over
    seeds, reward_standard_error, waiting_seconds and training_seconds of a step, medians), scorer_seconds (by seed),
    seeds, steps.
    """
    from tpo_dist.bench.async_mode import bench_async

    result = bench_async(tuple(overrides or ()), seeds, steps, progress(as_json))
    rows = {"speed-up": f"{result['speedup']:.2f} x"}
    rows["sampling over training, synchronous"] = f"{result['sampling_over_training']:.2f}"
    for mode in ("synchronous", "asynchronous"):
        of = result[mode]
        error = "" if of["reward_standard_error"] is None else f" ± {of['reward_standard_error']:.4f}"
        rows[mode] = f"{of['groups_per_second']:.1f} groups per second"
        rows[f"  final reward, {mode}"] = f"{of['reward']:.4f}{error}"
    show(f"asynchronous training (medians of {seeds} seeds, {steps} steps)", rows, result, as_json)


def scaling(
    overrides: Overrides = None,
    counts: Annotated[str, typer.Option(help="Numbers of workers, rising from 1.")] = "1,2,4,8,16",
    window: Annotated[float, typer.Option(min=1.0, help="Seconds for which each number is measured.")] = 30.0,
    plot: Annotated[Path, typer.Option(help="Where to draw it.")] = Path("scaling.png"),
    as_json: AsJson = False,
) -> None:
    """Throughput over the number of rollout workers, on a task whose scorer waits a second for each block.

    One run, whose fleet is scaled while it trains. JSON keys: efficiency and groups_per_second, each by worker count,
    window_seconds, plot.
    """
    from tpo_dist.bench.scaling import bench_scaling
    from tpo_dist.errors import UsageError

    numbers = [int(text) if text.strip().isdigit() else 0 for text in counts.split(",")]
    if numbers[0] != 1 or numbers != sorted(set(numbers)):
        raise UsageError(f"--counts {counts}", "is no rising list of numbers that begins with 1", "give 1,2,4,8,16")
    result = bench_scaling(tuple(overrides or ()), numbers, window, plot, progress(as_json))
    rows = {
        f"{count} workers": f"{result['groups_per_second'][count]:8.2f} groups per second, efficiency {value:.1%}"
        for count, value in result["efficiency"].items()
    }
    rows["plot"] = str(plot)
    show(f"scaling (windows of {window:g} s or three steps)", rows, result, as_json)


def stream(
    block_sizes: Annotated[str, typer.Option(help="Groups in a block; the result is the last one's.")] = "1,16",
    workers: Annotated[int, typer.Option(min=1, help="Processes that hand in groups.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each; medians are shown.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Groups per second from workers to learner, ledger included, and bandwidth beside Ray's own put and get.

    JSON keys: groups_per_second (groups of 1 KB), bandwidth_ratio (groups of 1 MB, over ray.put and ray.get of the same
    between as many processes: the better of each block as an object and of a process's part of a step as one),
    bandwidth_ratio_by_block (over the first of those alone), stream_megabytes_per_second, ray_megabytes_per_second,
    block_size, workers, rounds, steps (of a turn), by_block_size (the first five, for each size).
    """
    from tpo_dist.bench.stream_rate import bench_stream
    from tpo_dist.errors import UsageError

    sizes = [int(text) if text.strip().isdigit() else 0 for text in block_sizes.split(",")]
    if min(sizes) < 1 or len(set(sizes)) != len(sizes):
        raise UsageError(f"--block-sizes {block_sizes}", "is no list of different numbers above 0", "give 1,16")
    result = bench_stream(sizes, workers, rounds, tell=progress(as_json))
    rows = {
        f"blocks of {size}": f"{of['groups_per_second']:.0f} groups of 1 KB per second; groups of 1 MB at "
        f"{of['stream_megabytes_per_second']:.0f} MB/s, plain Ray {of['ray_megabytes_per_second']:.0f} MB/s, "
        f"ratio {of['bandwidth_ratio']:.2f} ({of['bandwidth_ratio_by_block']:.2f} where Ray puts block by block)"
        for size, of in result["by_block_size"].items()
    }
    show(f"the stream (medians of {rounds} rounds, {workers} workers)", rows, result, as_json)


def soak(
    overrides: Overrides = None,
    minutes: Annotated[float, typer.Option(min=1.0, help="How long.")] = 60.0,
    folder: Annotated[Path, typer.Option(help="A new folder for the run.")] = Path("runs/soak"),
    as_json: AsJson = False,
) -> None:
    """Train for an hour on a task that mostly waits, and see what grows.

    JSON keys: minutes, steps, resident_mb (by process: after the warm-up and at the end), resident_mb_per_hour (slope
    of a straight line), objects (in the object store: least, most, last), file_bytes_per_step (files that grew), files
    (number: after the warm-up and at the end), ledger_clean.
    """
    from tpo_dist.bench.soak import bench_soak

    result = bench_soak(folder.absolute(), minutes, tuple(overrides or ()), progress(as_json))
    rows = {name: f"{a} -> {b} MB" for name, (a, b) in result["resident_mb"].items()}
    rows["objects in the store"] = str(result["objects"])
    rows["bytes per step"] = ", ".join(f"{name} {size}" for name, size in result["file_bytes_per_step"].items())
    rows["ledger"] = "clean" if result["ledger_clean"] else "not clean"
    show(f"{result['minutes']} minutes, {result['steps']} steps", rows, result, as_json)


def chaos(
    overrides: Overrides = None,
    minutes: Annotated[float, typer.Option(min=0.2, help="About how long the kills go on.")] = 3.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the kills, and of the run.")] = 0,
    sync: Annotated[bool, typer.Option("--sync", help="Synchronous; the weights are compared, bit for bit.")] = False,
    folder: Annotated[Path, typer.Option(help="A new folder for the run.")] = Path("runs/chaos"),
    as_json: AsJson = False,
) -> None:
    """Train on three Ray nodes of this machine while workers, stream, learner and nodes are killed at random.

    JSON keys: kills (by kind), unnoticed (kills that no fault was logged for), detection_seconds and recovery_seconds
    (median, worst, count), blocks_reissued, learner_idle_share, steps, steps_made (those made again included),
    ledger_complete (every draw trained once or failed with a reason), draws (by state), reward_first and reward_last
    (means of 20 steps), and with --sync equal (to a run of one process without faults).
    Exit code: 0 where the ledger is complete and, with --sync, the weights are equal; else 1.
    """
    from tpo_dist.bench.chaos import bench_chaos

    result = bench_chaos(folder.absolute(), minutes, seed, tuple(overrides or ()), sync=sync, tell=progress(as_json))
    rows = {name.replace("_", " "): str(value) for name, value in result.items()}
    show(f"chaos (seed {seed}, {minutes:g} minutes)", rows, result, as_json)
    raise typer.Exit(0 if result["ledger_complete"] and result.get("equal", True) else 1)


def register(bench: typer.Typer) -> None:
    """Add these commands to the others."""
    bench.command(name="async")(async_mode)
    bench.command()(scaling)
    bench.command()(stream)
    bench.command()(soak)
    bench.command()(chaos)
