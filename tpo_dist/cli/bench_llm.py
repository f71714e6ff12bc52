"""`tpo-dist bench llm`: language models, beside another trainer."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from tpo_dist.cli.bench import AsJson, Overrides, progress, show


def llm(
    overrides: Overrides = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a model; none: a tiny random Qwen3.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each program; medians are shown.")] = 3,
    steps: Annotated[int, typer.Option(min=3, help="Steps of a turn.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Samples per second beside TRL's GRPOTrainer: the same model, prompts, group size, lengths and cores.

    Needs pip install 'tpo-dist[bench]'. JSON keys: speedup_over_trl (the better of the two modes), speedup_synchronous,
    speedup_asynchronous, samples_per_second (trl, synchronous, asynchronous; generation and training alone), rounds,
    steps.
    """
    from tpo_dist.bench.llm import bench_llm
    from tpo_dist.policies.model_folders import make_tiny_qwen3

    with TemporaryDirectory(prefix="tpo-bench-") as folder:
        path = model or make_tiny_qwen3(Path(folder, "model"))
        result = bench_llm(path, tuple(overrides or ()), rounds, steps, progress(as_json))
    paces = result["samples_per_second"]
    rows = {
        "TRL": f"{paces['trl']:.0f} samples per second",
        "synchronous": f"{paces['synchronous']:.0f}, {result['speedup_synchronous']:.2f} x TRL",
        "asynchronous": f"{paces['asynchronous']:.0f}, {result['speedup_asynchronous']:.2f} x TRL",
        "generation alone": f"{paces['generation']:.0f}",
        "training alone": f"{paces['training']:.0f}",
    }
    show(f"language model (medians of {rounds} rounds of {steps} steps)", rows, result, as_json)


def register(bench: typer.Typer) -> None:
    """Add this command to the others."""
    bench.command()(llm)
