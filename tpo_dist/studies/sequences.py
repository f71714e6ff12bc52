"""What the sequence studies share: the paper's sizes, and a method as keys of a job."""

from typing import Any, Literal

Match = Literal["prompts", "interactions"]

SINGLE_SAMPLE = ("ppo", "dg", "reinforce")
PROMPTS, GROUP_SIZE, LEARNING_RATE = 100, 8, 1e-3
"""B, K and the learning rate that the author's code runs (its config says 1e-4 and its optimizer multiplies by 10)."""

OWN_EPOCHS = {"tpo": 4, "grpo": 4, "dg": 1}
"""What the methods whose epochs are varied do by themselves."""


def epochs_key(method: str, epochs: int | None) -> int | None:
    """A method's own epochs as None, so that the run is that of the studies which leave them to the method."""
    return None if epochs == OWN_EPOCHS.get(method) else epochs


def sequence_options(
    method: str,
    *,
    length: int,
    vocab: int = 2,
    reward: str = "terminal",
    variant: str = "reverse_copy",
    prompts: int = PROMPTS,
    group_size: int = GROUP_SIZE,
    match: Match = "prompts",
) -> dict[str, Any]:
    """Dotted keys of a job for one method on token reversal.

    Single-sample methods draw one candidate for each prompt. With `match="interactions"` they get as many prompts as
    the grouped methods draw candidates, and a learning rate multiplied by the root of K (section 3.6).
    """
    single = method in SINGLE_SAMPLE
    matched = single and match == "interactions"
    return {
        "task.name": "token_reversal",
        "task.length": length,
        "task.vocab": vocab,
        "task.reward": reward,
        "task.variant": variant,
        "objective.name": method,
        "rollout.groups_per_step": prompts * group_size if matched else prompts,
        "rollout.group_size": 1 if single else group_size,
        "learner.optimizer.lr": LEARNING_RATE * group_size**0.5 if matched else LEARNING_RATE,
    }
