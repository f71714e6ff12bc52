"""A tiny language model, its weights changed so that loading shows, and its log-probs by a plain forward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tpo_dist.ragged import pad
from tpo_dist.records import Prompts, Snapshot, weights_digest
from tpo_dist.rollout.contract import Candidates
from tpo_dist.rollout.generation import Generation

END = 258
VOCAB = 272


@cache
def load(folder: Path) -> Any:
    """The model of a folder, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def about(folder: Path, **changes: Any) -> Generation:
    """Prompts up to 64 tokens and completions up to 8."""
    settings = Generation(path=str(folder), max_prompt_tokens=64, max_tokens=8, end_tokens=(END,), seed=3)
    return replace(settings, **changes)


def changed(folder: Path, version: int, names: Sequence[str] | None = None) -> tuple[Any, Snapshot]:
    """A model with noise in these weights (in all of them), and the snapshot that has its weights and a probe."""
    import copy

    model = copy.deepcopy(load(folder))
    generator = torch.Generator().manual_seed(version)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if names is None or name in names:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model, snapshot_of(model, version, {n: p.detach().numpy() for n, p in model.named_parameters()})


def snapshot_of(model: Any, version: int, arrays: dict[str, np.ndarray]) -> Snapshot:
    """A snapshot of these arrays with the model's log-probs of a probe."""
    tokens = np.arange(40, 60, dtype=np.int32)
    return Snapshot(
        version=version,
        arrays=arrays,
        digest=weights_digest(arrays),
        probe_tokens=tokens,
        probe_logps=plain_logps(model, tokens.tolist()[:1], tokens.tolist()[1:], 1.0).astype(np.float32),
    )


def questions(lengths: Sequence[int], first: int = 0) -> Prompts:
    """Prompts of these lengths, draws counted from `first`."""
    rng = np.random.default_rng(first)
    return Prompts(
        ids=np.arange(first, first + len(lengths)),
        tokens=rng.integers(0, 256, sum(lengths)).astype(np.int32),
        lengths=np.array(lengths, dtype=np.int32),
    )


@torch.no_grad()
def plain_logps(model: Any, prompt: Sequence[int], completion: Sequence[int], temperature: float) -> np.ndarray:
    """Log-probs of a completion's tokens: one sequence, one pass, the whole softmax."""
    row = torch.tensor([[*prompt, *completion]])
    logps = (model(row).logits[0].double() / temperature).log_softmax(-1)[len(prompt) - 1 : -1]
    return logps.gather(1, row[0, len(prompt) :, None]).squeeze(1).numpy()


def all_plain_logps(model: Any, prompts: Prompts, drawn: Candidates, temperature: float) -> np.ndarray:
    """Those of every candidate [G, K, T], 0 on padding."""
    prompt_rows = np.split(prompts.tokens, np.cumsum(prompts.lengths)[:-1])
    flat = [
        plain_logps(model, prompt.tolist(), drawn.tokens_GKT[g, k, :length].tolist(), temperature)
        for g, prompt in enumerate(prompt_rows)
        for k, length in enumerate(drawn.lengths_GK[g])
    ]
    return pad(np.concatenate(flat), drawn.lengths_GK)


def finish(sampler: Any) -> dict[int, Candidates]:
    """All blocks that are under way, in the order in which they end."""
    found: dict[int, Candidates] = {}
    while sampler.pending:
        found.update(sampler.step())
    return found


def assert_own_version(
    candidates: Candidates,
    prompts: Prompts,
    models: Mapping[int, tuple[Any, Snapshot]],
    only: Sequence[int] = (1, 2, 3),
) -> None:
    """Every token of these versions has the log-prob that the model of its own version gives it."""
    for version in only:
        expected = all_plain_logps(models[version][0], prompts, candidates, 1.0)
        drawn_by = candidates.versions_GKT == version
        np.testing.assert_allclose(candidates.logps_GKT[drawn_by], expected[drawn_by], atol=1e-4, rtol=0)
