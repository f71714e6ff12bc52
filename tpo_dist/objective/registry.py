"""Every method by name. Adding one is one file and one entry here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tpo_dist.objective.awr import AWR
from tpo_dist.objective.cispo import CISPO
from tpo_dist.objective.contract import Objective
from tpo_dist.objective.dg import DG
from tpo_dist.objective.group_pg import GroupPG
from tpo_dist.objective.grpo import GRPO
from tpo_dist.objective.gspo import GSPO
from tpo_dist.objective.mdpo import MDPO
from tpo_dist.objective.pmpo import PMPO
from tpo_dist.objective.ppo import PPO
from tpo_dist.objective.rebel import REBEL
from tpo_dist.objective.reinforce import Reinforce
from tpo_dist.objective.surrogate_presets import DAPO, RLOO, DrGRPO, MaxRL, ReinforcePP, ReinforcePPBaseline, ReMax
from tpo_dist.objective.tpo import TPO, TPONoAnchor
from tpo_dist.objective.vmpo import VMPO

TPO_PAPER = "Kaddour 2026, arXiv 2604.06159"
GROUP_SUM = "sum over candidates, mean over groups"
CANDIDATE_SUM = "sum over tokens, mean over candidates"
TOKEN_MEAN = "mean over the tokens of the batch"


@dataclass(frozen=True, slots=True)
class Method:
    """A named objective: its class, the options in which it differs from the class's own defaults, and what it is."""

    kind: type[Objective]
    options: Mapping[str, Any] = field(default_factory=dict)
    in_words: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Defaults that are others where a language model answers in words."""
    paper: str = field(kw_only=True)
    """Authors, year, arXiv id."""
    rule: str = field(kw_only=True)
    """The update rule in one line; l is a summed log-prob, A an advantage, ρ the ratio to the snapshot."""
    when: str = field(kw_only=True)
    """When to use it, in a clause."""
    scale: str = field(kw_only=True)
    """What the loss sums and what it averages over."""
    candidates: Literal["sequence", "token"] = field(default="sequence", kw_only=True)
    """What it compares: whole completions of a prompt, or single tokens that continue one trajectory."""


OBJECTIVES: dict[str, Method] = {
    "tpo": Method(
        TPO,
        paper=TPO_PAPER,
        rule="-Σ q log p, q ∝ p_old exp(u/η)",
        when="several epochs per batch, sparse rewards; ratio for long outputs",
        scale=GROUP_SUM,
    ),
    "tpo_steady": Method(
        TPO,
        {"group_distribution": "length_mean"},
        paper="ours; target of Kaddour 2026, arXiv 2604.06159",
        rule="-Σ q log p, p = softmax(l / length)",
        when="small groups; with learner.optimizer.damping=0.999 it neither stalls nor spikes",
        scale=GROUP_SUM,
    ),
    "tpo_no_anchor": Method(
        TPONoAnchor,
        paper=TPO_PAPER,
        rule="-Σ q log p, q ∝ exp(u/η)",
        when="ablation: what the snapshot in the target is worth",
        scale=GROUP_SUM,
    ),
    "group_pg": Method(
        GroupPG, paper=TPO_PAPER, rule="-Σ u l", when="ablation: TPO's scores without a target", scale=GROUP_SUM
    ),
    "grpo": Method(
        GRPO,
        paper="Shao et al. 2024, arXiv 2402.03300",
        rule="-Σ (min(ρA, clip(ρ)A) - β k3), A = (r - mean)/std",
        when="the usual group baseline, as the TPO paper runs it",
        scale=GROUP_SUM,
    ),
    "grpo_no_kl": Method(
        GRPO,
        {"beta": 0.0},
        paper=TPO_PAPER,
        rule="-Σ min(ρA, clip(ρ)A), A = (r - mean)/std",
        when="ablation: GRPO free of its snapshot",
        scale=GROUP_SUM,
    ),
    "grpo_masked": Method(
        GRPO,
        {"mask_zero_variance": True},
        paper=TPO_PAPER,
        rule="grpo, groups of equal scores left out",
        when="ablation: what the anchor of all-fail groups is worth",
        scale="sum over candidates, mean over the groups that are left",
    ),
    "ppo": Method(
        PPO,
        paper="Schulman et al. 2017, arXiv 1707.06347",
        rule="-Σ min(ρA, clip(ρ)A), A = r - batch mean",
        when="single samples, several epochs",
        scale=CANDIDATE_SUM,
    ),
    "dg": Method(
        DG,
        in_words={"gate": "candidate"},
        paper="Osband 2026, arXiv 2603.14608",
        rule="-Σ sg[σ(-A log π/η) A] log π, A = r - batch mean",
        when="single samples, one epoch",
        scale=CANDIDATE_SUM,
    ),
    "reinforce": Method(
        Reinforce,
        paper="Williams 1992, as in arXiv 2604.06159",
        rule="-Σ A log π, A = r - batch mean",
        when="the plainest baseline, one epoch",
        scale=CANDIDATE_SUM,
    ),
    "reinforce_pp": Method(
        ReinforcePP,
        paper="Hu et al. 2025, arXiv 2501.03262",
        rule="-min(ρA, clip(ρ)A), A = whiten(r - β Σ log π_old/π_ref)",
        when="one sample per prompt, with a reference policy",
        scale=TOKEN_MEAN,
    ),
    "reinforce_pp_baseline": Method(
        ReinforcePPBaseline,
        paper="Hu et al. 2025, arXiv 2501.03262",
        rule="-min(ρA, clip(ρ)A) + β k2, A = whiten(r - mean)",
        when="groups whose reward scales differ between prompts",
        scale=TOKEN_MEAN,
    ),
    "remax": Method(
        ReMax,
        paper="Li et al. 2023, arXiv 2310.10505",
        rule="-A l, A = r - r(greedy)",
        when="one sample per prompt and one greedy completion to spare",
        scale=CANDIDATE_SUM,
    ),
    "rloo": Method(
        RLOO,
        paper="Ahmadian et al. 2024, arXiv 2402.14740",
        rule="-A l, A = r - mean of the others",
        when="on policy with small groups: the unbiased group baseline",
        scale=CANDIDATE_SUM,
    ),
    "dr_grpo": Method(
        DrGRPO,
        paper="Liu et al. 2025, arXiv 2503.20783",
        rule="-Σ min(ρA, clip(ρ)A) / length, A = r - mean",
        when="GRPO without its bias to long answers and easy prompts",
        scale="sum over tokens / constant, mean over candidates",
    ),
    "dapo": Method(
        DAPO,
        paper="Yu et al. 2025, arXiv 2503.14476",
        rule="-min(ρA, clip(ρ, 0.8, 1.28)A), A = (r - mean)/std",
        when="long reasoning, where entropy collapses",
        scale=TOKEN_MEAN,
    ),
    "gspo": Method(
        GSPO,
        paper="Zheng et al. 2025, arXiv 2507.18071",
        rule="-min(sA, clip(s)A), s = exp(mean log ρ)",
        when="mixtures of experts, engines whose token ratios are noisy",
        scale="mean over tokens, then over candidates",
    ),
    "cispo": Method(
        CISPO,
        paper="MiniMax 2025, arXiv 2506.13585; bounds of arXiv 2510.13786",
        rule="-sg[clip(ρ, 0, 5)] A log π, A = (r - mean)/std",
        when="stale batches: no token loses its gradient",
        scale=TOKEN_MEAN,
    ),
    "rebel": Method(
        REBEL,
        paper="Gao et al. 2024, arXiv 2404.16767",
        rule="((d_i - d_j) - η (r_i - r_j))², d = l - l_old",
        when="rewards with a meaningful unit, several epochs",
        scale="mean over pairs, mean over groups",
    ),
    "pmpo": Method(
        PMPO,
        paper="Abdolmaleki et al. 2024, arXiv 2410.04166",
        rule="-α l[A > 0] + (1 - α) l[A < 0] + β KL(ref|π)",
        when="only better or worse than average can be trusted",
        scale="sum over tokens, mean over accepted, mean over rejected",
    ),
    "awr": Method(
        AWR,
        paper="Peng et al. 2019, arXiv 1910.00177",
        rule="-min(exp(A/β), cap) l, A = (r - mean)/std",
        when="old data, where only imitation is safe",
        scale=CANDIDATE_SUM,
    ),
    "mdpo": Method(
        MDPO,
        paper="Tomar et al. 2020, arXiv 2005.09814",
        rule="-ρA + KL(π|π_old)/t, A = (r - mean)/std",
        when="many epochs per batch with a soft trust region",
        scale=TOKEN_MEAN,
    ),
    "vmpo": Method(
        VMPO,
        paper="Song et al. 2019, arXiv 1909.12238",
        rule="-Σ ψ l + α KL(π_old|π), ψ = softmax(A/η) of the top half",
        when="noisy scores: imitates the better half",
        scale="weights sum to 1 over the batch",
    ),
    "maxrl": Method(
        MaxRL,
        paper="Tajwar et al. 2026, arXiv 2602.02710",
        rule="-A l, A = (r - mean)/mean",
        when="0/1 rewards and hard prompts: rare successes weigh most",
        scale=CANDIDATE_SUM,
    ),
    "tpo_token": Method(
        TPO,
        paper=TPO_PAPER,
        rule="tpo over K tokens at each position of one trajectory",
        when="rewards for single tokens",
        scale="sum over candidates, mean over positions",
        candidates="token",
    ),
    "grpo_token": Method(
        GRPO,
        paper=TPO_PAPER,
        rule="grpo over K tokens at each position of one trajectory",
        when="baseline of tpo_token",
        scale="sum over candidates, mean over positions",
        candidates="token",
    ),
}
