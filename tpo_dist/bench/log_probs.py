"""What log-probs over a large vocabulary cost: memory, time and gradients beside the plain formula.

Each way runs in a process of its own, so that the high-water mark of its memory is its own too.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tpo_dist.policies.chunked_logps import chunked_logps

Way = Literal["chunked", "naive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much; the default is Qwen3-0.6B's output layer at 4k tokens."""

    tokens: int = 4096
    width: int = 1024
    vocabulary: int = 151_936
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True, slots=True)
class _Measured:
    """One way: bytes beyond inputs and what the process had before, seconds, gradients."""

    peak_bytes: int
    seconds: float
    hidden_gradient: np.ndarray[Any, np.dtype[np.float32]]
    weight_gradient: np.ndarray[Any, np.dtype[np.float32]]
    """Of every 64th token of the vocabulary."""


def bench_log_probs(sizes: Sizes, tell: Callable[[str], None]) -> dict[str, Any]:
    """Peak memory, gradients and tokens per second of log-probs and their gradients, in chunks and plainly."""
    found: dict[Way, _Measured] = {}
    ways: tuple[Way, Way] = ("chunked", "naive")
    for way in ways:
        found[way] = _in_process(way, sizes)
        tell(f"{way}: {found[way].peak_bytes / 2**20:,.0f} MB, {found[way].seconds:.2f} s")
    ours, naive = found["chunked"], found["naive"]
    return {
        "memory_ratio": ours.peak_bytes / naive.peak_bytes,
        "peak_bytes": ours.peak_bytes,
        "naive_peak_bytes": naive.peak_bytes,
        "weight_gradient_bytes": 4 * sizes.vocabulary * sizes.width,
        "gradient_difference": max(
            _difference(ours.hidden_gradient, naive.hidden_gradient),
            _difference(ours.weight_gradient, naive.weight_gradient),
        ),
        "tokens_per_second": sizes.tokens / ours.seconds,
        "naive_tokens_per_second": sizes.tokens / naive.seconds,
        **asdict(sizes),
    }


def _difference(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _in_process(way: Way, sizes: Sizes) -> _Measured:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (way, sizes))


def _measure(way: Way, sizes: Sizes) -> _Measured:
    torch.set_num_threads(sizes.threads)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.empty(n, sizes.width) for n in (sizes.tokens, sizes.vocabulary))
    hidden.normal_(generator=generator)
    weight.normal_(0.0, sizes.width**-0.5, generator=generator)
    targets = torch.randint(0, sizes.vocabulary, (sizes.tokens,), generator=generator).to(sizes.device)
    pull = torch.randn(sizes.tokens, generator=generator).to(sizes.device)
    hidden, weight = (each.to(sizes.device).requires_grad_(True) for each in (hidden, weight))
    score = _naive if way == "naive" else chunked_logps
    warm = hidden[:8].detach().requires_grad_(True)  # what a first call allocates for good is nobody's step
    score(warm, weight.detach()[:64], None, targets[:8] % 64).sum().backward()  # type: ignore[no-untyped-call]
    before, started = _reset_peak(hidden), time.perf_counter()
    (score(hidden, weight, None, targets) * pull).sum().backward()  # type: ignore[no-untyped-call]
    peak = _peak(hidden) - before  # waits for a GPU
    seconds = time.perf_counter() - started
    assert hidden.grad is not None
    assert weight.grad is not None
    return _Measured(peak, seconds, hidden.grad.cpu().numpy(), weight.grad[::64].cpu().numpy())


def _naive(hidden_ND: Tensor, weight_VD: Tensor, bias: None, targets_N: Tensor) -> Tensor:
    """As it is usually written: all logits, and the log of their softmax."""
    logps_NV = torch.nn.functional.linear(hidden_ND, weight_VD, bias).log_softmax(dim=-1)
    return logps_NV.gather(1, targets_N.unsqueeze(-1)).squeeze(-1)


def _reset_peak(like: Tensor) -> int:
    """Bytes in use now; the high-water mark begins anew."""
    if like.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak(like: Tensor) -> int:
    """The high-water mark since then, in bytes."""
    if like.is_cuda:
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
