"""`tpo-dist bench learner`: what the learner of language models costs."""

import os
from typing import Annotated, Any, Literal

import typer

from tpo_dist.cli.bench import AsJson, progress, show


def learner(
    tokens: Annotated[int, typer.Option(min=1, help="Tokens whose log-probs are found.")] = 4096,
    vocabulary: Annotated[int, typer.Option(min=64, help="Tokens that there are.")] = 151_936,
    width: Annotated[int, typer.Option(min=1, help="Width of the hidden states.")] = 1024,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = os.cpu_count() or 1,
    model: Annotated[
        str | None, typer.Option(help="Time a pass of this model folder instead; qwen3-0.6b: of that shape.")
    ] = None,
    model_tokens: Annotated[int, typer.Option(min=1, help="--model: tokens of a pass.")] = 16_384,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="--model: precision.")] = "float32",
    repeats: Annotated[int, typer.Option(min=1, help="--model: repetitions; the median is shown.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Log-probs over a large vocabulary with their gradients, beside all logits at once: memory, equality, speed.

    Peak memory is what a process needs beyond inputs, gradients included. The default takes about 8 GB and minutes.

    JSON keys: memory_ratio (peak_bytes over naive_peak_bytes), peak_bytes, naive_peak_bytes, weight_gradient_bytes (in
    both), gradient_difference (relative), tokens_per_second, naive_tokens_per_second, and the sizes.
    With --model: seconds, tokens, tokens_per_second, tflops_per_second, mfu and gpu_peak_bytes (null without a GPU).
    """
    if model is not None:
        _model(model, model_tokens, dtype, device, threads, repeats, as_json)
        return
    from tpo_dist.bench.log_probs import Sizes, bench_log_probs

    sizes = Sizes(tokens=tokens, width=width, vocabulary=vocabulary, device=device, threads=threads)
    result = bench_log_probs(sizes, progress(as_json))
    rows = {
        name: f"{result[f'{key}peak_bytes'] / 2**20:,.0f} MB, {result[f'{key}tokens_per_second']:,.0f} tokens/s"
        for name, key in (("in chunks", ""), ("all logits", "naive_"))
    }
    rows |= {
        "memory, ratio": f"1/{1 / result['memory_ratio']:.1f}",
        "of both, the gradient of the weights": f"{result['weight_gradient_bytes'] / 2**20:,.0f} MB",
        "difference of the gradients": f"{result['gradient_difference']:.1e}",
    }
    show(f"log-probs of {tokens:,} tokens of {vocabulary:,}, forward and backward", rows, result, as_json)


def _model(path: str, tokens: int, dtype: str, device: str, threads: int, repeats: int, as_json: bool) -> None:
    from tpo_dist.bench.model_step import Load, bench_model

    result: dict[str, Any] = bench_model(path, Load(tokens=tokens), dtype, device, threads, repeats)
    rows = {
        "pass": f"{result['seconds']:.3f} s",
        "speed": f"{result['tokens_per_second']:,.0f} tokens/s, {result['tflops_per_second']:.2f} TFLOP/s",
    }
    if result["mfu"] is not None:
        rows["MFU"] = f"{result['mfu']:.1%}"
    show(f"{path}: {result['tokens']:,} tokens, forward and backward (median of {repeats})", rows, result, as_json)


def register(bench: typer.Typer) -> None:
    """Make it a subcommand."""
    bench.command()(learner)
