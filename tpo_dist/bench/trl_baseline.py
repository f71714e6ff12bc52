"""The yardstick of `tpo-dist bench llm`: TRL's GRPOTrainer on the same prompts, in a process of its own.

Run as `python -m tpo_dist.bench.trl_baseline`, with a `Plan` as JSON on standard input; one JSON value comes back.
"""

import json
import sys
import time
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is trained, and how much of it."""

    model: str
    """Folder of the model."""
    prompts: tuple[str, ...]
    """One for each group of each step, in turn."""
    groups: int
    """Of a step."""
    group_size: int
    completion_tokens: int
    steps: int
    warm_up: int
    """Steps that are not counted, before the others."""
    threads: int


def samples_per_second(plan: Plan) -> float:
    """Completions sampled, scored and trained on in a second of the steps after the warm-up."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(plan.threads)
    clock: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # TRL has no types
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.append(time.perf_counter())

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [text.count("a") / (1 + len(text)) for text in completions]

    samples = plan.groups * plan.group_size
    with TemporaryDirectory(prefix="tpo-bench-") as folder:
        options = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=samples,
            num_generations=plan.group_size,
            max_completion_length=plan.completion_tokens,
            max_steps=plan.steps + plan.warm_up,
            learning_rate=1e-4,
            beta=0.0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_steps=10**6,
            disable_tqdm=True,
        )
        data = Dataset.from_dict({"prompt": list(plan.prompts)})
        GRPOTrainer(
            model=plan.model, reward_funcs=reward, args=options, train_dataset=data, callbacks=[Clock()]
        ).train()
    return samples * plan.steps / (clock[-1] - clock[plan.warm_up - 1])


def main() -> None:
    """Read a plan, print what came of it."""
    given = json.load(sys.stdin)
    plan = Plan(**{**given, "prompts": tuple(given["prompts"])})
    print(json.dumps({"samples_per_second": samples_per_second(plan)}))


if __name__ == "__main__":
    main()
