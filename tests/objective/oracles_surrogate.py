"""The methods of other papers, written like `oracles.py`: float64, one candidate and one token at a time.

Each takes (logps, old, scores, reference, greedy) as nested lists.
"""

import math

from tests.objective.oracles import Ragged, Scores, centred, mean, population_std, softmax


def per_token(values: Scores, like: Ragged) -> Ragged:
    return [
        [[value] * len(candidate) for value, candidate in zip(row, group, strict=True)]
        for row, group in zip(values, like, strict=True)
    ]


def whitened(values: Ragged) -> Ragged:
    everything = [value for group in values for candidate in group for value in candidate]
    if min(everything) == max(everything):
        return [[[0.0 for _ in candidate] for candidate in group] for group in values]
    centre, std = mean(everything), population_std(everything)
    return [[[(value - centre) / (std + 1e-8) for value in candidate] for candidate in group] for group in values]


def log_ratio(logp: float, base: float) -> float:
    return min(20.0, max(-20.0, logp - base))


def surrogate(
    logps: Ragged,
    old: Ragged,
    reference: Ragged,
    advantages: Ragged,
    *,
    low=0.2,
    high=0.2,
    dual=None,
    how="token_mean",
    length=1,
    beta=0.0,
    kl="k3",
) -> float:
    """One value for each token, then the aggregation as it is written."""
    values: Ragged = []
    for g, group in enumerate(logps):
        values.append([])
        for k, candidate in enumerate(group):
            values[g].append([])
            for t, logp in enumerate(candidate):
                a = advantages[g][k][t]
                if low is None:
                    value = a * logp
                else:
                    ratio = math.exp(log_ratio(logp, old[g][k][t]))
                    value = min(ratio * a, min(1 + high, max(1 - low, ratio)) * a)
                    if dual is not None and a < 0:
                        value = max(value, dual * a)
                d = log_ratio(logp, reference[g][k][t])
                value -= beta * (d * d / 2 if kl == "k2" else math.exp(-d) + d - 1)
                values[g][k].append(value)
    return -aggregated(values, how, length)


def aggregated(values: Ragged, how: str, length: int = 1) -> float:
    candidates = [candidate for group in values for candidate in group]
    if how == "token_mean":
        return mean([value for candidate in candidates for value in candidate])
    if how == "sequence_mean":
        return mean([mean(candidate) if candidate else 0.0 for candidate in candidates])
    return mean([sum(candidate) / length for candidate in candidates])


def group_mean(scores: Scores) -> Scores:
    return [centred(row) for row in scores]


def group_standardised(scores: Scores) -> Scores:
    return [[value / (population_std(row) + 1e-8) for value in centred(row)] for row in scores]


def leave_one_out(scores: Scores) -> Scores:
    rows = []
    for row in scores:
        others = [[other for j, other in enumerate(row) if j != i] for i in range(len(row))]
        rows.append([score - mean(rest) for score, rest in zip(row, others, strict=True)])
    return rows


def mean_relative(scores: Scores) -> Scores:
    return [[c / (mean(row) + 1e-6) if mean(row) > 0 else 0.0 for c in centred(row)] for row in scores]


def with_kl_in_the_score(scores: Scores, old: Ragged, reference: Ragged, beta: float) -> Scores:
    return [
        [
            score - beta * sum(o - r for o, r in zip(old[g][k], reference[g][k], strict=True))
            for k, score in enumerate(row)
        ]
        for g, row in enumerate(scores)
    ]


def grouped(advantage, **defaults):
    """An oracle of the family from its advantages and its settings."""

    def oracle(logps, old, scores, reference, greedy, **options):
        settings = {**defaults, **options}
        scores = with_kl_in_the_score(scores, old, reference, settings.pop("reward_beta", 0.0))
        return surrogate(logps, old, reference, per_token(advantage(scores), logps), **settings)

    return oracle


def remax(logps, old, scores, reference, greedy, *, reward_beta=0.0, **options) -> float:
    scores = with_kl_in_the_score(scores, old, reference, reward_beta)
    advantages = [[score - greedy[g] for score in row] for g, row in enumerate(scores)]
    settings = {"low": None, "high": None, "how": "constant_length", **options}
    return surrogate(logps, old, reference, per_token(advantages, logps), **settings)


def reinforce_pp(logps, old, scores, reference, greedy, *, reward_beta=0.01, **options) -> float:
    returns = [
        [
            [
                scores[g][k] - reward_beta * sum(old[g][k][i] - reference[g][k][i] for i in range(t, len(candidate)))
                for t in range(len(candidate))
            ]
            for k, candidate in enumerate(group)
        ]
        for g, group in enumerate(logps)
    ]
    return surrogate(logps, old, reference, whitened(returns), **options)


def reinforce_pp_baseline(logps, old, scores, reference, greedy, **options) -> float:
    advantages = whitened(per_token(group_mean(scores), logps))
    return surrogate(logps, old, reference, advantages, **{"beta": 0.001, "kl": "k2", **options})


def gspo(logps, old, scores, reference, greedy, *, low=3e-4, high=4e-4) -> float:
    """The sequence form (Eq. 5); the token form has its value and its gradient."""
    values = []
    for g, row in enumerate(group_standardised(scores)):
        for k, a in enumerate(row):
            drifts = [now - then for now, then in zip(logps[g][k], old[g][k], strict=True)]
            if not drifts:
                values.append(0.0)  # nothing was drawn, so nothing can be pulled
                continue
            s = math.exp(mean(drifts))
            values.append(min(s * a, min(1 + high, max(1 - low, s)) * a))
    return -mean(values)


def cispo_weights(logps, old, scores, *, low=1.0, high=4.0) -> Ragged:
    """What multiplies log pi, held still."""
    advantages = group_standardised(scores)
    return [
        [
            [
                min(1 + high, max(1 - low, math.exp(log_ratio(logp, old[g][k][t])))) * advantages[g][k]
                for t, logp in enumerate(candidate)
            ]
            for k, candidate in enumerate(group)
        ]
        for g, group in enumerate(logps)
    ]


def cispo(logps, old, scores, reference, greedy, **options) -> float:
    """The value only; its gradient stops at the weight, which the gradient test states for itself."""
    weights = cispo_weights(logps, old, scores, **options)
    return -mean(
        [
            weights[g][k][t] * logp
            for g, group in enumerate(logps)
            for k, candidate in enumerate(group)
            for t, logp in enumerate(candidate)
        ]
    )


def rebel(logps, old, scores, reference, greedy, *, eta=1.0) -> float:
    losses = []
    for group, before, row in zip(logps, old, scores, strict=True):
        d = [sum(now) - sum(then) for now, then in zip(group, before, strict=True)]
        pairs = [(i, j) for i in range(len(row)) for j in range(i)]
        losses.append(mean([((d[i] - d[j]) - eta * (row[i] - row[j])) ** 2 for i, j in pairs]))
    return mean(losses)


def pmpo(logps, old, scores, reference, greedy, *, alpha=0.5, beta=0.3) -> float:
    accepted, rejected, penalties = [], [], []
    for g, row in enumerate(group_mean(scores)):
        for k, a in enumerate(row):
            if a > 0:
                accepted.append(sum(logps[g][k]))
            elif a < 0:
                rejected.append(sum(logps[g][k]))
            differences = [now - fixed for now, fixed in zip(logps[g][k], reference[g][k], strict=True)]
            penalties.append(sum(math.exp(d) - d - 1 for d in differences))
    likelihood = alpha * (mean(accepted) if accepted else 0.0) - (1 - alpha) * (mean(rejected) if rejected else 0.0)
    return -likelihood + beta * mean(penalties)


def awr(logps, old, scores, reference, greedy, *, beta=1.0, cap=20.0) -> float:
    return -mean(
        [
            min(math.exp(a / beta), cap) * sum(logps[g][k])
            for g, row in enumerate(group_standardised(scores))
            for k, a in enumerate(row)
        ]
    )


def mdpo(logps, old, scores, reference, greedy, *, step_size=1.0) -> float:
    terms = []
    for g, row in enumerate(group_standardised(scores)):
        for k, a in enumerate(row):
            for now, then in zip(logps[g][k], old[g][k], strict=True):
                ratio = math.exp(now - then)
                terms.append(-a * ratio + (ratio * math.log(ratio) - ratio + 1) / step_size)
    return mean(terms)


def vmpo_weights(scores: Scores, epsilon=0.1) -> tuple[dict[tuple[int, int], float], float]:
    """psi of the chosen candidates, and eta: the dual itself is minimised, by golden section over log eta."""
    advantages = {(g, k): a for g, row in enumerate(group_mean(scores)) for k, a in enumerate(row)}
    ranked = sorted(advantages.values(), reverse=True)
    chosen = {at: a for at, a in advantages.items() if a >= ranked[(len(ranked) - 1) // 2]}
    top = max(chosen.values())

    def dual(log_eta: float) -> float:
        eta = math.exp(log_eta)
        return eta * epsilon + top + eta * math.log(mean([math.exp((a - top) / eta) for a in chosen.values()]))

    low, high, golden = math.log(1e-5), math.log(1e5), (math.sqrt(5) - 1) / 2
    for _ in range(120):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if dual(left) < dual(right) else (left, high)
    eta = math.exp((low + high) / 2)
    return dict(zip(chosen, softmax([a / eta for a in chosen.values()]), strict=True)), eta


def vmpo(logps, old, scores, reference, greedy, *, epsilon=0.1, alpha=5.0) -> float:
    psi, _ = vmpo_weights(scores, epsilon)
    likelihood = sum(weight * sum(logps[g][k]) for (g, k), weight in psi.items())
    tokens = [
        math.exp(now - then) - (now - then) - 1
        for group, before in zip(logps, old, strict=True)
        for candidate, behaviour in zip(group, before, strict=True)
        for now, then in zip(candidate, behaviour, strict=True)
    ]
    return -likelihood + alpha * mean(tokens)


PLAIN = {"low": None, "high": None, "how": "constant_length"}
ORACLES = {
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
    "remax": remax,
    "rloo": grouped(leave_one_out, **PLAIN),
    "dr_grpo": grouped(group_mean, how="constant_length"),
    "dapo": grouped(group_standardised, high=0.28),
    "gspo": gspo,
    "cispo": cispo,
    "rebel": rebel,
    "pmpo": pmpo,
    "awr": awr,
    "mdpo": mdpo,
    "vmpo": vmpo,
    "maxrl": grouped(mean_relative, **PLAIN),
}
