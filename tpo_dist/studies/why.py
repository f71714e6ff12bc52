"""Why it works (arXiv 2604.06159, section 4): H=8, V=2, K=32, 256 prompts, one reward for the whole answer."""

from collections.abc import Mapping
from typing import Any

from tpo_dist.studies.definition import Figure, Reported, Setting, Study
from tpo_dist.studies.sequences import epochs_key, sequence_options

FINAL = Reported(name="final error", scale=100, unit="%")
AT_400 = Reported(name="error at step 400", kind="at", step=400, scale=100, unit="%")
_LENGTH, _PROMPTS, _GROUP_SIZE, _STEPS = 8, 256, 32, 2000


def _setting(
    method: str,
    labels: Mapping[str, Any],
    error: float | None,
    *,
    group_size: int = _GROUP_SIZE,
    epochs: int | None = None,
    paper: Mapping[str, float] | None = None,
) -> Setting:
    options = sequence_options(method, length=_LENGTH, prompts=_PROMPTS, group_size=group_size)
    return Setting(
        labels={"method": method, **labels},
        engine="training",
        options={**options, "learner.epochs": epochs_key(method, epochs)},
        steps=_STEPS,
        paper={**({} if error is None else {FINAL.name: error}), **(paper or {})},
    )


GRADIENTS = Study(
    name="gradients",
    title="First-epoch gradient norm, all-fail groups, and where the signal goes",
    source="sections 4.1 to 4.3, figures 10, 11 and 14",
    seeds=10,
    settings=(
        _setting("tpo", {"epochs": 4}, 0.05, paper={AT_400.name: 0.2}),
        _setting("tpo", {"epochs": 1}, 0.02, epochs=1, paper={AT_400.name: 1.1}),
        _setting("grpo", {"epochs": 4}, 12.7),
        _setting("grpo_no_kl", {"epochs": 4}, None),
        _setting("ppo", {"epochs": 4}, None),
        _setting("dg", {"epochs": 1}, 14.0),
    ),
    reported=(
        FINAL,
        AT_400,
        Reported(name="final first-epoch gradient norm", curve="grad_norm_first"),
        Reported(name="final all-fail groups", curve="all_fail", scale=100, unit="%"),
    ),
    figures=(
        Figure(
            lines=("method", "epochs"),
            curves=("error", "grad_norm_first", "all_fail", "signal_on_winners", "signal_on_losers"),
            x_log=True,
        ),
    ),
)

_GROUP_SIZES = (4, 8, 16, 32, 64)
_BY_SIZE = {"tpo": (8.9, 5.2, 5.1, 2.6, 0.36), "grpo": (19.4, 19.8, 9.2, 4.4, 5.6)}

GROUP_SIZES = Study(
    name="group_sizes",
    title="Candidates for each prompt",
    source="section 4.2, figure 12",
    seeds=30,
    settings=tuple(
        _setting(method, {"group size": size}, errors[column], group_size=size)
        for method, errors in _BY_SIZE.items()
        for column, size in enumerate(_GROUP_SIZES)
    ),
    reported=(FINAL,),
    figures=(Figure(kind="sweep", x="group size"), Figure(panels=("method",), lines=("group size",))),
)

_EPOCHS = (1, 2, 4, 8, 16)
_BY_EPOCHS: dict[str, tuple[float | None, ...]] = {
    "tpo": (0.02, None, 0.05, None, None),
    "grpo": (4.3, 37.6, 6.3, 3.3, 1.1),
}

EPOCHS = Study(
    name="epochs",
    title="Gradient epochs for each batch",
    source="section 4.3, figure 15",
    seeds=30,
    settings=tuple(
        _setting(method, {"epochs": epochs}, errors[column], epochs=epochs)
        for method, errors in _BY_EPOCHS.items()
        for column, epochs in enumerate(_EPOCHS)
    ),
    reported=(FINAL,),
    figures=(Figure(kind="sweep", x="epochs"), Figure(panels=("method",), lines=("epochs",))),
    note="The paper keeps TPO below 2.3 % everywhere.",
)

MASKING = Study(
    name="masking",
    title="GRPO with groups of equal scores masked out",
    source="section 4.2, figure 13",
    seeds=30,
    settings=(
        _setting("tpo", {}, 0.05),
        _setting("grpo", {}, 6.3),
        _setting("grpo_masked", {}, 29.7),
    ),
    reported=(FINAL,),
    figures=(Figure(),),
)
