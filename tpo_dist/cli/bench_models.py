"""`tpo-dist bench sync`: what new weights of a language model take on their way to vLLM."""

from typing import Annotated

import typer

from tpo_dist.cli.bench import AsJson, progress, show


def sync(
    model: Annotated[str | None, typer.Option(help="Model folder; none: random, in the shape of SmolLM2-135M.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Updates of each kind; medians are shown.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of each process.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Seconds of a full weight update in float32 into vLLM, through the object store and by a process group (gloo), and
    of one with adapters only.

    From the weights in the learner's process, their checksum taken, until vLLM has computed a probe with them.
    JSON keys: bandwidth_ratio (bytes per second of a full update over those of a plain copy in memory), full_seconds,
    full_megabytes, full_megabytes_per_second, copy_megabytes_per_second, parts and adapter_parts (seconds: put and get
    of the object store, check of the digest, load, probe), adapter_seconds, adapter_rank, rounds, threads, and of the
    group collective_seconds, collective_megabytes_per_second, collective_parts (transfer with its check, load, probe).
    """
    from tpo_dist.bench.weight_sync import bench_sync

    result = bench_sync(model, rank, rounds, threads, progress(as_json))
    rows = {"all weights": f"{result['full_seconds']:.3f} s for {result['full_megabytes']:.0f} MB"}
    rows |= {f"  {name}": f"{seconds:.3f} s" for name, seconds in result["parts"].items()}
    pace, copied = result["full_megabytes_per_second"], result["copy_megabytes_per_second"]
    rows["bandwidth over that of a copy"] = f"{result['bandwidth_ratio']:.3f} ({pace:.0f} over {copied:.0f} MB/s)"
    rows["all weights by a process group"] = f"{result['collective_seconds']:.3f} s"
    rows |= {f"  {name}  ": f"{seconds:.3f} s" for name, seconds in result["collective_parts"].items()}
    rows[f"adapters of rank {rank}"] = f"{result['adapter_seconds']:.3f} s"
    rows |= {f"  {name} ": f"{seconds:.3f} s" for name, seconds in result["adapter_parts"].items()}
    show(f"weights into vLLM (medians of {rounds} updates, {threads} threads)", rows, result, as_json)


def register(bench: typer.Typer) -> None:
    """Add these commands to the others."""
    bench.command()(sync)
