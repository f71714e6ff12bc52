"""Samplers, scorers and the worker that joins them. Never imports the learner. Adding a sampler is one line here."""

from typing import Any

from tpo_dist.rollout.torch_sampler import PolicySampling
from tpo_dist.rollout.transformers_sampler import TransformersSampling

SAMPLERS: dict[str, type[Any]] = {
    "policy": PolicySampling,
    "transformers": TransformersSampling,
}

__all__ = ["SAMPLERS"]
