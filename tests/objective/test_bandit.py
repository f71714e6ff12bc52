"""Bandit fields against the paper's losses and closed forms, written sample by sample in float64."""

import math

import pytest
import torch

from tests.objective.oracles import softmax, standardise
from tpo_dist.objective import bandit

METHODS = bandit.BANDIT_METHODS


def random_logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def feedback(seed=0, samples=7, arms=5):
    generator = torch.Generator().manual_seed(seed)
    logits = random_logits(samples, arms, seed=seed)
    drawn = torch.randint(0, arms, (samples,), generator=generator)
    rewards = (torch.rand(samples, generator=generator) < 0.5).double()
    rewards[0], rewards[1] = 0, 1
    return logits, drawn, rewards


def oracle_loss(method, logits, drawn, rewards, eta):
    """The mean loss of a batch as section 2 writes it; whatever is frozen there is a float here."""
    values = rewards.tolist()
    centre = sum(values) / len(values)
    deviation = math.sqrt(sum((r - centre) ** 2 for r in values) / len(values))
    total = 0.0
    for row, a, r in zip(logits, drawn.tolist(), values, strict=True):
        logps = row - row.exp().sum().log()
        pi = logps.detach().exp().tolist()
        advantage = r - sum(p * p for p in pi)
        u = standardise([advantage if arm == a else 0.0 for arm in range(len(pi))])
        if method == "tpo":
            q = softmax([math.log(p) + x / eta for p, x in zip(pi, u, strict=True)])
            total = total - sum(weight * logp for weight, logp in zip(q, logps, strict=True))
            continue
        weight = {
            "pg": advantage,
            "dg": advantage / (1 + math.exp(advantage * math.log(pi[a]) / eta)),
            "grpo": (r - centre) / (deviation + 1e-8),
            "group_pg": u[a],
        }[method]
        total = total - weight * logps[a]
    return total / len(values)


@pytest.mark.parametrize("eta", [1.0, 0.3, 4.0])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", METHODS)
def test_fields_are_minus_the_gradient_of_the_loss(method, seed, eta):
    logits, drawn, rewards = feedback(seed)
    leaf = logits.clone().requires_grad_()
    oracle_loss(method, leaf, drawn, rewards, eta).backward()
    fields = bandit.sample_fields(method, torch.log_softmax(logits, -1), drawn, rewards, eta=eta)
    torch.testing.assert_close(fields / len(drawn), -leaf.grad, rtol=1e-10, atol=1e-12)
    assert fields.abs().max() > 0.01


@pytest.mark.parametrize("method", [method for method in METHODS if method != "grpo"])
def test_a_sure_and_right_policy_has_no_field(method):
    logps = torch.log_softmax(torch.tensor([[60.0, 0.0, 0.0]]), -1)
    fields = bandit.sample_fields(method, logps, torch.tensor([0]), torch.tensor([1.0]))
    assert (fields == 0).all()


@pytest.mark.parametrize("method", ["tpo", "group_pg"])
def test_scores_that_hardly_deviate_carry_no_preference(method):
    """The deviation of (A, 0, 0, 0) is |A| sqrt(3) / 4."""
    logps, drawn = torch.log_softmax(random_logits(2, 4), -1), torch.tensor([1, 1])
    edge = 1e-6 * 4 / math.sqrt(3)
    fields = bandit.advantage_fields(method, logps, drawn, torch.tensor([0.99 * edge, 1.01 * edge]).double())
    assert (fields[0] == 0).all()
    assert fields[1].abs().max() > 0.01


def test_equal_rewards_give_grpo_no_field():
    logits, drawn, _ = feedback()
    fields = bandit.sample_fields("grpo", torch.log_softmax(logits, -1), drawn, torch.ones(len(drawn)).double())
    assert (fields == 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("eta", [1e-3, 1.0])
def test_extreme_policies_stay_finite_in_float32(method, eta):
    logps = torch.log_softmax(torch.tensor([[80.0, 0.0, -300.0]] * 6), -1)
    drawn, rewards = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0.0, 0, 0, 1, 1, 1])
    fields = bandit.sample_fields(method, logps, drawn, rewards, eta=eta)
    assert fields.isfinite().all()
    if method == "tpo":
        assert fields.abs().max() <= 1  # a difference of two distributions


@pytest.mark.parametrize("method", METHODS)
def test_a_row_keeps_its_bits_whatever_stands_beside_it(method):
    logps = torch.log_softmax(random_logits(9, 13, 11, seed=5).float(), -1)
    drawn = torch.randint(0, 11, (9, 13), generator=torch.Generator().manual_seed(1))
    rewards = (drawn % 3 == 0).float()
    together = bandit.sample_fields(method, logps, drawn, rewards)
    for s in range(9):
        alone = bandit.sample_fields(
            method, logps[s : s + 1].clone(), drawn[s : s + 1].clone(), rewards[s : s + 1].clone()
        )
        assert torch.equal(alone[0], together[s])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"log-probs \[7, 5\], arms \[7\] and values \[6\]"):
        bandit.sample_fields("pg", torch.zeros(7, 5), torch.zeros(7, dtype=torch.long), torch.zeros(6))
    with pytest.raises(ValueError, match="2 arms or more"):
        bandit.sample_fields("pg", torch.zeros(7, 1), torch.zeros(7, dtype=torch.long), torch.zeros(7))
    with pytest.raises(ValueError, match="counts_C has shape"):
        bandit.pooled_field("pg", torch.zeros(2, 3), torch.zeros(3), torch.zeros(3))


def pooled_oracle(method, pi, drawn, right, baseline, eta):
    """Section 3.1, one sample at a time."""
    rewards = [float(a == right) for a in drawn]
    centre = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((r - centre) ** 2 for r in rewards) / len(rewards) + 1e-8)
    scores, field = [0.0] * len(pi), [0.0] * len(pi)
    for a, r in zip(drawn, rewards, strict=True):
        advantage = r - baseline
        scores[a] += advantage / len(drawn)
        gate = 1 / (1 + math.exp(advantage * math.log(pi[a]) / eta))
        weight = {"pg": advantage, "dg": gate * advantage, "grpo": (r - centre) / deviation, "tpo": 0.0}[method]
        for arm in range(len(pi)):
            field[arm] += weight * ((arm == a) - pi[arm]) / len(drawn)
    if method == "tpo":
        u = standardise(scores)
        q = softmax([math.log(p) + x / eta for p, x in zip(pi, u, strict=True)])
        field = [a - b for a, b in zip(q, pi, strict=True)]
    return field


@pytest.mark.parametrize("method", bandit.POOLED_METHODS)
@pytest.mark.parametrize(("baseline", "eta"), [(0.5, 1.0), (0.2, 2.5)])
def test_pooled_fields(method, baseline, eta):
    logps = torch.log_softmax(random_logits(3, 6, seed=2), -1)
    drawn = torch.randint(0, 6, (3, 20), generator=torch.Generator().manual_seed(3))
    counts = torch.stack([torch.bincount(row, minlength=6) for row in drawn]).double()
    rewards = bandit.one_hot(torch.tensor(4), logps)
    got = bandit.pooled_field(method, logps, counts, rewards, baseline=baseline, eta=eta)
    for s in range(3):
        want = pooled_oracle(method, logps[s].exp().tolist(), drawn[s].tolist(), 4, baseline, eta)
        assert got[s].tolist() == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("method", "value"), [("tpo", 0.73), ("grpo", 0.33), ("dg", 0.09), ("pg", 0.1), ("ce", 1.0)])
def test_population_weights_of_the_paper(method, value):
    assert bandit.population_weights(method, torch.tensor(0.1).double(), 10).item() == pytest.approx(value, abs=0.005)


@pytest.mark.parametrize("method", bandit.POPULATION_METHODS)
@pytest.mark.parametrize("arms", [2, 10])
def test_population_fields_from_their_definitions(method, arms):
    """Expectation over arms of what each method does with reward 1{a = y}; TPO targets softmax(log pi + z(e_y))."""
    pi = torch.softmax(random_logits(arms, seed=arms, scale=1.0), -1).tolist()
    p, y = pi[1], 1
    right = [float(arm == y) for arm in range(arms)]
    if method == "tpo":
        q = softmax([math.log(x) + u for x, u in zip(pi, standardise(right), strict=True)])
        want = [a - b for a, b in zip(q, pi, strict=True)]
    elif method == "ce":
        want = [r - x for r, x in zip(right, pi, strict=True)]
    else:
        weight = {
            "pg": lambda a: right[a],
            "dg": lambda a: right[a] / (1 + math.exp(right[a] * math.log(pi[a]))),
            "grpo": lambda a: (right[a] - p) / math.sqrt(p * (1 - p)),
        }[method]
        want = [sum(pi[a] * weight(a) * ((arm == a) - pi[arm]) for a in range(arms)) for arm in range(arms)]
    beta = bandit.population_weights(method, torch.tensor(p).double(), arms).item()
    assert [beta * (r - x) for r, x in zip(right, pi, strict=True)] == pytest.approx(want, rel=1e-6)


def closed_form(method, pi, y):
    """Appendix C: the expected update of one example and the coefficient of its symmetric approximation."""
    arms, p = len(pi), pi[y]
    tilt, b, even = math.exp(10 / 3), sum(x * x for x in pi), (1 - p) / (len(pi) - 1)
    v = [(arm == y) - pi[arm] for arm in range(arms)]
    wrong = [arm for arm in range(arms) if arm != y]
    plus = p * (tilt - 1) / (1 - p + tilt * p)

    def gamma(r):
        return r * (tilt - 1) / (tilt * (1 - r) + r)

    def gate(x):
        return 1 / (1 + math.exp(-x))

    if method == "pg":
        return [p * x for x in v], p
    if method == "group_pg":
        return [6 * p * x for x in v], 6 * p
    if method == "tpo":
        field = [p * plus * x for x in v]
        for j in wrong:
            field = [f + pi[j] * gamma(pi[j]) * (pi[i] - (i == j)) for i, f in enumerate(field)]
        return field, p * plus + p * gamma(even)
    field = [p * (1 - b) * gate((1 - b) * math.log(1 / p)) * x for x in v]
    for j in wrong:
        pull = b * pi[j] * gate(-b * math.log(1 / pi[j]))
        field = [f - pull * ((i == j) - pi[i]) for i, f in enumerate(field)]
    b = p * p + (arms - 1) * even**2
    return field, p * (1 - b) * gate((1 - b) * math.log(1 / p)) + p * b * gate(-b * math.log(1 / even))


@pytest.mark.parametrize("method", [method for method in METHODS if method != "grpo"])
def test_expected_fields_and_gains_of_appendix_c(method):
    probs = torch.softmax(random_logits(8, 10, seed=4), -1)
    labels = torch.arange(8)
    fields = bandit.expected_field(method, probs, labels)
    exact, surrogate = bandit.first_order_gains(method, probs, labels)
    for n, y in enumerate(labels.tolist()):
        pi = probs[n].tolist()
        field, beta = closed_form(method, pi, y)
        assert fields[n].tolist() == pytest.approx(field, rel=1e-8, abs=1e-12)
        v = [(arm == y) - pi[arm] for arm in range(10)]
        assert surrogate[n].item() == pytest.approx(pi[y] * beta * sum(x * x for x in v), rel=1e-6)
        ahead = torch.softmax(probs[n].log() + 1e-6 * fields[n], -1)[y] - probs[n, y]
        assert exact[n].item() == pytest.approx(ahead.item() / 1e-6, rel=1e-3)


def test_only_methods_that_see_which_arm_was_wrong_gain_from_concentration():
    concentrated = torch.tensor([[0.2] + [0.72] + [0.01] * 8], dtype=torch.float64)
    diffuse = torch.tensor([[0.2] + [0.8 / 9] * 9], dtype=torch.float64)
    label = torch.tensor([0])

    def surplus(method, probs):
        exact, surrogate = bandit.first_order_gains(method, probs, label)
        return (exact - surrogate).item()

    assert surplus("tpo", concentrated) > 0.05
    assert abs(surplus("tpo", diffuse)) < 1e-12
    assert abs(surplus("pg", concentrated)) < 1e-12
    assert abs(surplus("group_pg", concentrated)) < 1e-12
    assert surplus("dg", concentrated) < 0


def test_grpo_has_no_expected_field():
    with pytest.raises(ValueError, match="depends on the rest of its batch"):
        bandit.expected_field("grpo", torch.ones(1, 4) / 4, torch.tensor([0]))


def test_concentration():
    probs = torch.tensor([[0.4, 0.6, 0.0], [0.4, 0.3, 0.3], [0.0, 0.9, 0.1]], dtype=torch.float64)
    assert bandit.wrong_arm_concentration(probs, torch.tensor([0, 0, 0])).tolist() == pytest.approx([1, 0.5, 0.9])
    assert bandit.wrong_arm_concentration(probs, torch.tensor([1, 1, 1])).tolist() == pytest.approx([1, 4 / 7, 1])


def test_misalignment_and_normalised_steps():
    field = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    oracle = torch.tensor([[4.0, -3.0], [1.0, 0.0]], dtype=torch.float64)
    assert bandit.misalignment(field, oracle, (-1,)).tolist() == pytest.approx([1, 1])
    assert bandit.misalignment(field, 2 * field, (-1,))[0].item() == pytest.approx(0, abs=1e-10)
    moved = bandit.normalised_step(torch.zeros(2, 2).double(), field, 0.1, (-1,))
    torch.testing.assert_close(moved, torch.tensor([[0.06, 0.08], [0.0, 0.0]], dtype=torch.float64))
