"""Studies of ours: long outputs, and why runs at small K stall or spike."""

from collections.abc import Iterator, Mapping
from typing import Any

from tpo_dist.studies.definition import Figure, Reported, Setting, Study
from tpo_dist.studies.sequences import sequence_options

FINAL = Reported(name="final error", scale=100, unit="%")
_DISTRIBUTIONS = ("sequence", "length_mean", "ratio")


def _long(length: int, vocab: int) -> Iterator[Setting]:
    methods: list[tuple[str, str, Mapping[str, Any]]] = [
        (f"tpo {distribution}", "tpo", {"objective.group_distribution": distribution})
        for distribution in _DISTRIBUTIONS
    ]
    methods += [("grpo", "grpo", {}), ("gspo", "gspo", {})]
    for label, name, options in methods:
        job = sequence_options(name, length=length, vocab=vocab, reward="bag_of_tokens", prompts=32)
        yield Setting(
            labels={"method": label, "length": length, "vocab": vocab},
            engine="training",
            options={
                **job,
                "learner.optimizer.name": "adamw",
                "learner.epochs": 2,
                # One score for each candidate: what the token rewards add up to, and nothing finer.
                **options,
            },
            steps=400,
        )


LONG_OUTPUTS = Study(
    name="long_outputs",
    title="Group distributions on outputs of 10 to 96 tokens, scored once for each candidate",
    source="ours",
    seeds=5,
    settings=tuple(setting for length in (10, 24, 48, 96) for vocab in (2, 4) for setting in _long(length, vocab)),
    reported=(
        FINAL,
        Reported(name="effective group size, last steps", curve="effective_group_size"),
        Reported(name="target distance, last steps", curve="target_distance"),
    ),
    figures=(
        Figure(panels=("length", "vocab")),
        Figure(panels=("length", "vocab"), curves=("effective_group_size", "target_distance")),
    ),
    note="Reverse copy, score = fraction of right tokens, 32 prompts, K=8, AdamW 1e-3, 2 epochs.",
)

REACHED = Reported(name="solved at the end", kind="reached", threshold=0.05, scale=100, unit="% of seeds")
SPIKE = Reported(name="highest error after solving", kind="highest_after", threshold=0.01, scale=100, unit="%")
FIRST = Reported(name="steps to 1 % error", kind="steps_to", threshold=0.01)


def _robust() -> Iterator[Setting]:
    def setting(name: str, label: str, options: Mapping[str, Any]) -> Setting:
        job = sequence_options(name, length=5)
        return Setting(labels={"method": label}, engine="training", options={**job, **options}, steps=300)

    def tpo(label: str, options: Mapping[str, Any]) -> Setting:
        return setting("tpo", f"tpo {label}", options)

    damped = {"learner.optimizer.damping": 0.999}
    for distribution in _DISTRIBUTIONS:
        chosen = {"objective.group_distribution": distribution}
        yield tpo(distribution, chosen)
        yield tpo(f"{distribution} 1 epoch", {**chosen, "learner.epochs": 1})
        yield tpo(f"{distribution} adamw", {**chosen, "learner.optimizer.name": "adamw"})
        yield tpo(f"{distribution} adamw 1 epoch", {**chosen, "learner.optimizer.name": "adamw", "learner.epochs": 1})
        yield tpo(f"{distribution} damped", {**chosen, **damped})
        yield tpo(f"{distribution} decay", {**chosen, "learner.schedule.name": "linear"})
    yield tpo("ratio damped eta 2", {**damped, "objective.group_distribution": "ratio", "objective.eta": 2.0})
    for eta in (0.5, 2.0, 4.0):
        yield tpo(f"sequence eta {eta:g}", {"objective.eta": eta})
    for name in ("grpo", "ppo", "dg"):
        yield setting(name, name, {})
    yield setting("grpo", "grpo damped", damped)


ROBUSTNESS = Study(
    name="robustness",
    title="Stalls and spikes at small K",
    source="ours; section 3.6's setting at H=5, K=8",
    seeds=10,
    settings=tuple(_robust()),
    reported=(FINAL, REACHED, FIRST, SPIKE),
    figures=(Figure(log=True, panels=("method",), lines=()),),
    note=(
        "decay: learning rate falls linearly to 0; damped: learner.optimizer.damping=0.999; the others are the paper's "
        "Muon at a constant rate with 4 epochs unless they say otherwise. tpo_steady is `length_mean damped`."
    ),
)
