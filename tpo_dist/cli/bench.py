"""`tpo-dist bench`: benchmarks that a user can run on their own machine or cluster."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

bench = typer.Typer(no_args_is_help=True, help="Benchmarks to run on your own machine or cluster.")

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value of a job, such as rollout.group_size=32")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")]


def show(title: str, rows: Mapping[str, str], result: Mapping[str, Any], as_json: bool) -> None:
    """The result as one JSON value, or as a table."""
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title=title, title_justify="left", show_header=False)
    for name, text in rows.items():
        table.add_row(name, text)
    Console(markup=False).print(table)


def progress(as_json: bool) -> Callable[[str], None]:
    """A line on standard error as each repetition ends; silent with --json."""

    def tell(text: str) -> None:
        if not as_json:
            print(text, file=sys.stderr, flush=True)

    return tell


@bench.command()
def step(
    overrides: Overrides = None,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions; medians are shown.")] = 9,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = os.cpu_count() or 1,
    token_level: Annotated[
        bool, typer.Option("--token-level", help="Gradients of token-level groups, beside separate prefixes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """One TPO step at the paper's size (H=10, V=2, 100 prompts, 8 candidates, 4 epochs), beside plain torch.

    JSON keys: seconds_per_step, plain_torch_seconds_per_step, speedup_over_plain_torch, dense_speedup_over_plain_torch
    (the same with task.reward=bag_of_tokens), parts (seconds: snapshot, rollout, learner, of which optimizer), repeats,
    threads, task, groups_per_step, group_size, epochs.
    With --token-level: seconds_per_epoch, separate_prefixes_seconds_per_epoch, speedup, gradient_difference (relative).
    """
    if token_level:
        _token_level(tuple(overrides or ()), repeats, threads, as_json)
        return
    from tpo_dist.bench.step import bench_step

    result = bench_step(tuple(overrides or ()), repeats, threads, progress(as_json))
    rows = {"step": f"{result['seconds_per_step']:.3f} s"}
    rows |= {f"  {name}": f"{seconds:.3f} s" for name, seconds in result["parts"].items()}
    rows["plain torch, same step"] = f"{result['plain_torch_seconds_per_step']:.3f} s"
    rows["speed-up over plain torch"] = f"{result['speedup_over_plain_torch']:.2f} x"
    rows["the same with dense rewards"] = f"{result['dense_speedup_over_plain_torch']:.2f} x"
    show(f"one training step (median of {repeats}, {threads} threads)", rows, result, as_json)


def _token_level(overrides: tuple[str, ...], repeats: int, threads: int, as_json: bool) -> None:
    from tpo_dist.bench.token_level import bench_token_level

    result = bench_token_level(overrides, repeats, threads)
    rows = {
        "one pass over each trajectory": f"{result['seconds_per_epoch']:.4f} s",
        "a pass for each prefix": f"{result['separate_prefixes_seconds_per_epoch']:.4f} s",
        "speed-up": f"{result['speedup']:.2f} x",
        "difference of the gradients": f"{result['gradient_difference']:.1e}",
    }
    show(f"gradient of one epoch, token-level groups (median of {repeats}, {threads} threads)", rows, result, as_json)


@bench.command()
def ray(
    overrides: Overrides = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each program.")] = 20,
    steps: Annotated[int, typer.Option(min=3, help="Steps of a turn; its first and last are not counted.")] = 6,
    as_json: AsJson = False,
) -> None:
    """Step time through Ray over step time in one process: synchronous, one rollout worker, the paper's size.

    JSON keys: overhead (ray_seconds_per_step over local_seconds_per_step), paired_overhead (median of the ratios of
    neighbouring turns, which the machine's drift disturbs less), local_seconds_per_step and ray_seconds_per_step, both
    medians, steps, rounds.
    """
    from tpo_dist.bench.ray_tax import bench_ray

    result = bench_ray(tuple(overrides or ()), rounds, steps, progress(as_json))
    rows = {
        "one process": f"{result['local_seconds_per_step']:.3f} s per step",
        "through Ray": f"{result['ray_seconds_per_step']:.3f} s per step",
        "overhead, ratio of these medians": f"{result['overhead']:.3f}",
        "median of the ratios turn by turn": f"{result['paired_overhead']:.3f}",
    }
    show(f"Ray tax (medians of {rounds} turns of {steps} steps)", rows, result, as_json)
