"""Every method by name. Adding one is one file and one line here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tpo_dist.objective.contract import Objective
from tpo_dist.objective.dg import DG
from tpo_dist.objective.group_pg import GroupPG
from tpo_dist.objective.grpo import GRPO
from tpo_dist.objective.ppo import PPO
from tpo_dist.objective.reinforce import Reinforce
from tpo_dist.objective.tpo import TPO, TPONoAnchor


@dataclass(frozen=True, slots=True)
class Method:
    """A named objective: its class and the options in which it differs from the class's own defaults."""

    kind: type[Objective]
    options: Mapping[str, Any] = field(default_factory=dict)
    candidates: Literal["sequence", "token"] = "sequence"
    """What it compares: whole completions of a prompt, or single tokens that continue one trajectory."""


OBJECTIVES: dict[str, Method] = {
    "tpo": Method(TPO),
    "tpo_no_anchor": Method(TPONoAnchor),
    "group_pg": Method(GroupPG),
    "grpo": Method(GRPO),
    "grpo_no_kl": Method(GRPO, {"beta": 0.0}),
    "grpo_masked": Method(GRPO, {"mask_zero_variance": True}),
    "ppo": Method(PPO),
    "dg": Method(DG),
    "reinforce": Method(Reinforce),
    "tpo_token": Method(TPO, candidates="token"),
    "grpo_token": Method(GRPO, candidates="token"),
}
