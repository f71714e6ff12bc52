"""Held-out questions, answered by one snapshot."""

from tpo_dist.evaluation.evaluate import Answered, Evaluation, evaluate, pass_at

__all__ = ["Answered", "Evaluation", "evaluate", "pass_at"]
