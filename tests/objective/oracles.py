"""Objectives as the papers write them: float64, one candidate and one token at a time, no broadcasting, no tricks.

`logps[g][k]` is the list of token log-probs of candidate k of group g; candidates and tokens that are not there are
simply not in the lists.
"""

import math

Ragged = list[list[list[float]]]
Scores = list[list[float]]


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def centred(values: list[float]) -> list[float]:
    centre = values[0] if min(values) == max(values) else mean(values)  # equal values have their own mean, exactly
    return [value - centre for value in values]


def population_std(values: list[float]) -> float:
    return math.sqrt(mean([value**2 for value in centred(values)]))


def standardise(scores: list[float]) -> list[float]:
    std = population_std(scores)
    if std <= 1e-6:
        return [0.0] * len(scores)
    return [score / std for score in centred(scores)]


def softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def log_softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    total = top + math.log(sum(math.exp(logit - top) for logit in logits))
    return [logit - total for logit in logits]


def group_logits(logps: list[list[float]], old: list[list[float]], distribution: str) -> list[float]:
    if distribution == "sequence":
        return [sum(candidate) for candidate in logps]
    if distribution == "length_mean":
        return [sum(candidate) / max(1, len(candidate)) for candidate in logps]
    return [sum(candidate) - sum(before) for candidate, before in zip(logps, old, strict=True)]


def tpo(logps: Ragged, old: Ragged, scores: Scores, *, eta=1.0, distribution="sequence", anchor=True) -> float:
    losses = []
    for group, before, score in zip(logps, old, scores, strict=True):
        log_old = log_softmax(group_logits(before, before, distribution))
        tilt = [u / eta for u in standardise(score)]
        q = softmax([a + b for a, b in zip(log_old, tilt, strict=True)]) if anchor else softmax(tilt)
        log_p = log_softmax(group_logits(group, before, distribution))
        losses.append(-sum(a * b for a, b in zip(q, log_p, strict=True)))
    return mean(losses)


def group_pg(logps: Ragged, old: Ragged, scores: Scores) -> float:
    return mean(
        [
            -sum(u * sum(candidate) for u, candidate in zip(standardise(score), group, strict=True))
            for group, score in zip(logps, scores, strict=True)
        ]
    )


def grpo(logps: Ragged, old: Ragged, scores: Scores, *, clip=0.2, beta=0.04, masked=False) -> float:
    losses = []
    for group, before, score in zip(logps, old, scores, strict=True):
        std = population_std(score)
        if masked and std <= 1e-6:
            continue
        total = 0.0
        for candidate, behaviour, s in zip(group, before, centred(score), strict=True):
            advantage = s / (std + 1e-8)
            d = min(20.0, max(-20.0, sum(candidate) - sum(behaviour)))
            ratio = math.exp(d)
            clipped = min(1 + clip, max(1 - clip, ratio))
            total += min(ratio * advantage, clipped * advantage) - beta * (math.exp(-d) + d - 1)
        losses.append(-total)
    return mean(losses) if losses else 0.0


def batch_baseline(rewards: Ragged) -> list[float]:
    """Mean reward at each position over all candidates that reach it."""
    longest = max(len(candidate) for group in rewards for candidate in group)
    return [
        mean([candidate[t] for group in rewards for candidate in group if len(candidate) > t]) for t in range(longest)
    ]


def token_rewards(logps: Ragged, scores: Scores) -> Ragged:
    """A score counts for every token of its candidate."""
    return [
        [[s] * len(candidate) for candidate, s in zip(group, score, strict=True)]
        for group, score in zip(logps, scores, strict=True)
    ]


def reinforce(logps: Ragged, old: Ragged, scores: Scores) -> float:
    rewards = token_rewards(logps, scores)
    baseline = batch_baseline(rewards)
    return -mean(
        [
            sum((rewards[g][k][t] - baseline[t]) * logp for t, logp in enumerate(candidate))
            for g, group in enumerate(logps)
            for k, candidate in enumerate(group)
        ]
    )


def ppo(logps: Ragged, old: Ragged, scores: Scores, *, clip=0.2) -> float:
    rewards = token_rewards(logps, scores)
    baseline = batch_baseline(rewards)
    totals = []
    for g, group in enumerate(logps):
        for k, candidate in enumerate(group):
            total = 0.0
            for t, logp in enumerate(candidate):
                advantage = rewards[g][k][t] - baseline[t]
                ratio = math.exp(logp - old[g][k][t])
                total += min(ratio * advantage, min(1 + clip, max(1 - clip, ratio)) * advantage)
            totals.append(total)
    return -mean(totals)


def dg_weights(logps: Ragged, scores: Scores, *, eta=1.0, gate="token") -> Ragged:
    """What multiplies log pi, held still: the advantage times the gate of the token's delight, or the candidate's."""
    rewards = token_rewards(logps, scores)
    baseline = batch_baseline(rewards)
    weights: Ragged = []
    for g, group in enumerate(logps):
        weights.append([])
        for k, candidate in enumerate(group):
            advantages = [rewards[g][k][t] - baseline[t] for t in range(len(candidate))]
            delights = [a * -logp for a, logp in zip(advantages, candidate, strict=True)]
            if gate == "candidate":
                delights = [sum(delights)] * len(candidate)
            weights[g].append([a / (1 + math.exp(-d / eta)) for a, d in zip(advantages, delights, strict=True)])
    return weights


def dg(logps: Ragged, old: Ragged, scores: Scores, **options) -> float:
    """The value only; its gradient stops at the gate, which the gradient test states for itself."""
    weights = dg_weights(logps, scores, **options)
    return -mean(
        [
            sum(weights[g][k][t] * logp for t, logp in enumerate(candidate))
            for g, group in enumerate(logps)
            for k, candidate in enumerate(group)
        ]
    )


ORACLES = {
    "tpo": tpo,
    "tpo_steady": lambda *a: tpo(*a, distribution="length_mean"),
    "tpo_no_anchor": lambda *a: tpo(*a, anchor=False),
    "group_pg": group_pg,
    "grpo": grpo,
    "grpo_no_kl": lambda *a: grpo(*a, beta=0.0),
    "grpo_masked": lambda *a: grpo(*a, masked=True),
    "ppo": ppo,
    "dg": dg,
    "reinforce": reinforce,
    "tpo_token": tpo,
    "grpo_token": grpo,
}
