"""One learner of a tiny language model: it learns, resumes exactly, holds on to its base, and notes engine mismatch."""

import logging

import numpy as np
import pytest
import torch

from tests.objective.batches import make_objective
from tests.tiny import tiny_model
from tpo_dist.config import LearnerConfig, OptimizerConfig
from tpo_dist.errors import UsageError
from tpo_dist.learner.batch import to_tensors
from tpo_dist.learner.checkpoint import load_checkpoint, save_checkpoint, state_digests
from tpo_dist.learner.frozen import FrozenSnapshots
from tpo_dist.learner.learner import Learner
from tpo_dist.learner.team import ALONE
from tpo_dist.policies.causal_lm import CausalLMOptions
from tpo_dist.policies.contract import CandidateBatch
from tpo_dist.policies.weights import export_weights, import_weights, to_tensor
from tpo_dist.records import ScoredGroups


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("model"), spread=0.2))


def make_learner(folder, *, objective="tpo", config=None, lr=3e-3, objective_options=None, remember=2, **options):
    config = config or LearnerConfig(optimizer=OptimizerConfig(name="adamw", lr=lr), micro_batch_tokens=200)
    policy = CausalLMOptions(path=folder, **options).load(1.0, 0)
    return Learner(policy, make_objective(objective, **(objective_options or {})), config, 100, remember=remember)


def configured(**changes):
    optimizer = changes.pop("optimizer", OptimizerConfig(name="adamw", lr=3e-3))
    return LearnerConfig(optimizer=optimizer, **changes)


@torch.no_grad()
def draw(policy, prompts, size, length, seed):
    """Tokens [G, K, T], one by one from the log-probs of all tokens, as slowly as can be."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for prompt in prompts:
        rows = torch.zeros(size, 0, dtype=torch.int64)
        for _ in range(length):
            sequences = torch.cat([prompt.expand(size, -1), rows], dim=1)
            policy.model.set_attn_implementation("sdpa")
            probs = policy.model(input_ids=sequences).logits[:, -1].softmax(dim=-1)
            policy.model.set_attn_implementation("tpo_packed")
            rows = torch.cat([rows, torch.multinomial(probs, 1, generator=generator)], dim=1)
        found.append(rows)
    return torch.stack(found)


def roll(learner, seed=0, size=6, length=5):
    """Groups whose score is the share of even tokens; prompts of 2 to 5 tokens, one candidate cut short."""
    generator = torch.Generator().manual_seed(100)
    prompt_lengths = np.array([2, 5, 3, 4], dtype=np.int32)
    prompts = [torch.randint(0, 250, (int(n),), generator=generator) for n in prompt_lengths]
    snapshot = learner.snapshot()
    tokens = draw(learner.policy, prompts, size, length, seed)
    lengths = np.full((4, size), length, dtype=np.int32)
    lengths[1, 2] = 2
    mask = torch.arange(length) < torch.from_numpy(lengths).unsqueeze(-1)
    batch = CandidateBatch(
        prompts_GP=torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True),
        tokens_GKT=tokens,
        mask_GKT=mask,
        prompt_lengths_G=torch.from_numpy(prompt_lengths).long(),
    )
    with torch.no_grad():
        logps = learner.policy.scorer(batch)()
    scores = torch.where(mask, tokens % 2 == 0, False).sum(-1) / torch.from_numpy(lengths)
    return ScoredGroups(
        group_ids=np.arange(4) + 4 * seed,
        prompt_tokens=torch.cat(prompts).numpy().astype(np.int32),
        prompt_lengths=prompt_lengths,
        tokens=tokens[mask].numpy().astype(np.int32),
        lengths=lengths,
        behavior_logprobs=logps[mask].numpy(),
        scores=scores.numpy().astype(np.float32),
        snapshot_versions=np.full(4, snapshot.version),
        snapshot_digests=np.full(4, snapshot.digest, dtype="S32"),
        stop_reasons=np.zeros((4, size), dtype=np.int8),
    )


@pytest.mark.parametrize("name", ["tpo", "grpo"])
@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}])
def test_it_learns_what_is_rewarded(folder, name, options):
    settings = {"beta": 0.0} if name == "grpo" else {"group_distribution": "ratio"}
    rate = 3e-2 if options else 5e-3
    learner = make_learner(folder, objective=name, lr=rate, objective_options=settings, **options)
    rewards = [learner.update(roll(learner, seed, size=16))["reward"].value for seed in range(15)]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.15, rewards


def test_with_adapters_nothing_else_moves(folder):
    learner = make_learner(folder, lora_rank=4)
    before = {name: p.detach().clone() for name, p in learner.policy.named_parameters()}
    learner.update(roll(learner))
    for name, parameter in learner.policy.named_parameters():
        assert torch.equal(parameter, before[name]) == ("lora_" not in name), name
    assert all("lora_" in name for name in learner.snapshot().arrays)


@pytest.mark.parametrize("micro", [None, 1, 40, 90])
@pytest.mark.parametrize("name", ["tpo", "grpo"])
def test_micro_batches_do_not_change_the_step(folder, name, micro):
    """The bound of steps is looser than that of gradients: Adam's first step is a gradient's sign."""
    norms = []
    for tokens in (None, micro):
        learner = make_learner(folder, objective=name, config=configured(micro_batch_tokens=tokens, epochs=1))
        norms.append(learner.update(roll(learner))["grad_norm_first"].value)
    assert norms[0] > 1e-3
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}, {"dtype": "bfloat16"}])
def test_a_resumed_learner_goes_on_bit_for_bit(folder, tmp_path, options):
    straight = make_learner(folder, **options)
    records = []
    for seed in range(4):
        records.append(roll(straight, seed))
        if seed == 2:
            path = save_checkpoint(tmp_path, straight, keep=1)
        straight.update(records[-1])
    resumed = make_learner(folder, **options)
    load_checkpoint(path, resumed)
    assert resumed.version == 2
    resumed.update(records[2])
    resumed.snapshot()
    resumed.update(records[3])
    ours, theirs = export_weights(resumed.policy), export_weights(straight.policy)
    assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())
    first = export_weights(make_learner(folder, **options).policy)
    assert any(not np.array_equal(array, first[name]) for name, array in ours.items())


def test_steps_too_small_for_bfloat16_add_up(folder):
    """A hundredth of the distance to the next number, each step: the copy in float32 keeps them."""
    learner = make_learner(folder, dtype="bfloat16", lr=1e-6)
    parameter = learner.policy.published_parameters()["model.norm.weight"]  # of ones: the next is 0.4 % away
    for _ in range(3):
        for each in learner.policy.published_parameters().values():
            each.grad = torch.ones_like(each)
        learner.optimizer.step()
    assert (parameter == 1).all()
    master = learner.optimizer.state[parameter]["master"]
    torch.testing.assert_close(master, torch.full_like(master, 1 - 3e-6), rtol=0, atol=2e-7)
    for _ in range(3):
        for group in learner.optimizer.param_groups:
            group["lr"] = 1e-2
        parameter.grad = torch.ones_like(parameter)
        learner.optimizer.step()
    torch.testing.assert_close(parameter, master.bfloat16(), rtol=0, atol=0)
    assert (parameter < 0.98).all()


def test_weights_decay_apart_from_the_gradient(folder):
    """By lr times decay of themselves where the gradient is zero."""
    config = configured(optimizer=OptimizerConfig(name="adamw", lr=0.1, weight_decay=0.5))
    learner = make_learner(folder, config=config)
    before = {name: p.detach().clone() for name, p in learner.policy.published_parameters().items()}
    for each in learner.policy.published_parameters().values():
        each.grad = torch.zeros_like(each)
    learner.optimizer.step()
    for name, parameter in learner.policy.published_parameters().items():
        torch.testing.assert_close(parameter.detach(), 0.95 * before[name])


def test_muon_takes_the_matrices_inside_the_blocks(folder):
    config = configured(optimizer=OptimizerConfig(name="muon", lr=1e-2))
    learner = make_learner(folder, config=config)
    matrices = {id(p) for group in learner.optimizer.param_groups if group["kind"] == "muon" for p in group["params"]}
    named = learner.policy.published_parameters()
    assert matrices == {id(p) for name, p in named.items() if name.endswith("_proj.weight")}
    learner.update(roll(learner))
    with pytest.raises(UsageError, match="muon.*no float32 copy of weights in bfloat16"):
        make_learner(folder, config=config, dtype="bfloat16")


@pytest.mark.parametrize("name", ["tpo", "grpo"])
@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}])
def test_the_reference_is_the_base_for_good(folder, name, options):
    """The KL to it is 0 before the first step, and then what the policy has moved; it has a gradient of its own."""
    held, free = (
        make_learner(
            folder, objective=name, config=configured(reference="initial", reference_kl=kl, epochs=1), **options
        )
        for kl in (5.0, 0.0)
    )
    for step in range(3):
        record = roll(held, step)
        free.published = dict(held.published)
        metrics, norm = held.update(record), free.update(record)["grad_norm_first"].value
        assert (metrics["grad_norm_first"].value == pytest.approx(norm, rel=1e-4)) == (step == 0)
        assert (metrics["reference_kl"].value < 1e-6) == (step == 0)
        import_weights(free.policy, export_weights(held.policy))
    batch = CandidateBatch(
        prompts_GP=torch.tensor([[5, 6]]), tokens_GKT=torch.tensor([[[7, 8]]]), mask_GKT=torch.ones(1, 1, 2).bool()
    )
    fresh = CausalLMOptions(path=folder).load(1.0, 0).scorer(batch)().detach()
    torch.testing.assert_close(held._reference.scorer(batch)(), fresh)
    assert not torch.allclose(held.policy.scorer(batch)(), fresh, atol=1e-2)


def test_a_resumed_learner_holds_on_to_the_base_and_not_to_its_checkpoint(folder, tmp_path):
    config = configured(reference="initial", reference_kl=5.0, epochs=1)
    learner, resumed = (make_learner(folder, config=config) for _ in range(2))
    learner.update(roll(learner))
    load_checkpoint(save_checkpoint(tmp_path, learner, keep=1), resumed)
    record = roll(learner, 1)
    resumed.snapshot()
    values = [each.update(record)["reference_kl"].value for each in (learner, resumed)]
    assert values[0] == values[1] > 1e-4


@pytest.mark.parametrize("old_logprobs", ["engine", "recompute"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_mismatch_is_what_the_engine_was_given(folder, old_logprobs, epochs):
    """Over the groups that a pass was made for: not that which has nothing to prefer, unless all are recomputed."""
    learner = make_learner(folder, config=configured(old_logprobs=old_logprobs, epochs=epochs))
    exact = learner.update(roll(learner, 0))
    assert exact["mismatch_max"].value < 1e-6
    record = roll(learner, 1)
    scores = record.scores.copy()
    scores[3] = 0.5
    noise = np.random.default_rng(0).uniform(0, 0.2, record.tokens.shape).astype(np.float32)
    noisy = with_logps(record, record.behavior_logprobs - noise, scores=scores)
    found = learner.update(noisy)
    seen = record.select([0, 1, 2]) if old_logprobs == "engine" else record
    noisy, record = noisy.select(range(len(seen))), seen
    assert found["mismatch_token"].count == record.lengths.sum()
    gaps = noisy.behavior_logprobs - record.behavior_logprobs
    sums = np.add.reduceat(gaps, np.concatenate([[0], np.cumsum(record.lengths.ravel())[:-1]]))
    assert found["mismatch_max"].value == pytest.approx(np.abs(gaps).max(), rel=1e-4)
    assert found["mismatch_token"].value == pytest.approx(np.abs(gaps).mean(), rel=1e-4)
    assert found["mismatch_sequence"].value == pytest.approx(np.abs(sums).mean(), rel=1e-4)


def with_logps(record, logps, **changes):
    arrays = {name: array for name, array in record.arrays().items() if "/" not in name}
    return ScoredGroups(**{**arrays, "behavior_logprobs": logps.astype(np.float32), **changes})


def test_recomputed_log_probs_take_the_place_of_the_engine_s(folder):
    """The step is then that of an engine without mismatch; with the engine's own, it is not."""
    exact, recomputed, engine = (
        make_learner(folder, config=configured(old_logprobs=which)) for which in ("engine", "recompute", "engine")
    )
    record = roll(exact)
    recomputed.snapshot(), engine.snapshot()
    noise = np.random.default_rng(0).uniform(0, 1.0, record.tokens.shape)
    noisy = with_logps(record, record.behavior_logprobs - noise)
    norms = [learner.update(r)["grad_norm_first"].value for learner, r in ((exact, record), (recomputed, noisy))]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert engine.update(noisy)["grad_norm_first"].value != pytest.approx(norms[0], rel=1e-2)


def a_version_behind(learner, other):
    """Groups of the weights before those that both have now; the same as a sampling engine that is off by the noise
    would give them; the noise of each token."""
    stale, fresh = roll(learner, 0), roll(learner, 1)
    other.snapshot()
    for each in (learner, other):
        each.update(fresh)
        each.snapshot()
    noise = np.random.default_rng(0).uniform(0.5, 1.0, stale.tokens.shape).astype(np.float32)
    return stale, with_logps(stale, stale.behavior_logprobs - noise), noise


@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}, {"dtype": "bfloat16"}])
def test_stale_groups_are_recomputed_by_the_weights_that_drew_them(folder, options):
    """The step is that of an engine without mismatch, and of what the engine gave, the metrics tell."""
    exact, recomputed = (
        make_learner(folder, config=configured(**which, epochs=1), remember=3, **options)
        for which in ({"mismatch_groups": 0}, {"old_logprobs": "recompute"})
    )
    stale, noisy, noise = a_version_behind(exact, recomputed)
    found = recomputed.update(noisy)
    expected = exact.update(stale)
    assert found["staleness_max"].value == 1
    assert found["mismatch_token"].count == stale.lengths.sum()
    assert found["mismatch_token"].value == pytest.approx(noise.mean(), rel=0.05)
    for name in ("grad_norm_first", "ratio_ess", "loss_first"):
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-3), name
    assert "mismatch_token" not in expected  # of weights that are gone, without another pass, nobody knows


@pytest.mark.parametrize(("given", "compared"), [({}, 1), ({"mismatch_groups": 3}, 3)])
def test_the_engine_s_mismatch_shows_where_all_groups_are_stale(folder, given, compared):
    """On the first groups, by the weights that drew them; the step is what it is without."""
    learner, plain = (
        make_learner(folder, config=configured(epochs=2, **options), remember=3)
        for options in (given, {"mismatch_groups": 0})
    )
    stale, noisy, noise = a_version_behind(learner, plain)
    found, expected = learner.update(noisy), plain.update(noisy)
    tokens = stale.lengths[:compared].sum()
    assert found["mismatch_token"].count == tokens
    assert found["mismatch_token"].value == pytest.approx(noise[:tokens].mean(), rel=1e-3)
    assert "mismatch_token" not in expected
    assert state_digests(learner) == state_digests(plain)


def test_each_token_is_recomputed_by_its_own_weights(folder):
    """Of weights that are not kept, the sampler's word is what there is."""
    policy = CausalLMOptions(path=folder, lora_rank=4).load(1.0, 0)
    learner = make_learner(folder)
    record = roll(learner)
    versions = np.arange(len(record.tokens)) % 3
    record = with_logps(record, record.behavior_logprobs, token_versions=versions)
    batch = to_tensors(record, torch.device("cpu"))
    frozen, by_version = FrozenSnapshots(policy), []
    for version in range(2):
        frozen.keep(version, 0)
        by_version.append(policy.scorer(batch.candidates)().detach())
        with torch.no_grad():
            for parameter in policy.published_parameters().values():
                parameter += 0.1
    before = export_weights(policy)
    found, known = frozen.recomputed(batch, record, 7, (None, None, ALONE))
    mask = batch.candidates.mask_GKT
    got = found.groups.old_logps_GKT[mask].numpy()
    want = [*(logps[mask].numpy() for logps in by_version), record.behavior_logprobs]
    np.testing.assert_allclose(got, np.choose(versions, want), rtol=0, atol=1e-5)
    assert not np.allclose(want[0], want[1], atol=1e-2)
    assert known[mask].tolist() == (versions < 2).tolist()
    assert all(np.array_equal(array, before[name]) for name, array in export_weights(policy).items())


def test_only_groups_of_the_current_weights_are_recomputed(folder):
    """Where none are stale by design, no weights are kept; and a new policy is no mismatch."""
    config = configured(old_logprobs="recompute", epochs=1)
    learner, same = (make_learner(folder, objective="grpo", config=config) for _ in range(2))
    old = roll(learner, 0)
    same.snapshot()
    learner.update(old), same.update(old)
    both = with_logps(roll(learner, 1), roll(learner, 1).behavior_logprobs - 0.5)
    stamp = {name: both.arrays()[name].copy() for name in ("snapshot_versions", "snapshot_digests")}
    stamp["snapshot_versions"][:2], stamp["snapshot_digests"][:2] = 0, old.snapshot_digests[:2]
    same.snapshot()
    found = learner.update(with_logps(both, both.behavior_logprobs, **stamp))
    assert found["mismatch_token"].value == pytest.approx(0.5, rel=1e-4)
    assert found["mismatch_token"].count == both.lengths[2:].sum()
    all_fresh = same.update(both)
    assert found["grad_norm_first"].value != pytest.approx(all_fresh["grad_norm_first"].value, rel=1e-3)


@pytest.mark.parametrize(
    ("distribution", "old_logprobs", "warns"),
    [("sequence", "engine", True), ("ratio", "engine", False), ("sequence", "recompute", False)],
)
def test_a_mismatch_that_distorts_the_anchor_is_told_once(folder, caplog, distribution, old_logprobs, warns):
    config = configured(old_logprobs=old_logprobs)
    learner = make_learner(folder, config=config, objective_options={"group_distribution": distribution})
    with caplog.at_level(logging.WARNING):
        for seed in range(2):
            record = roll(learner, seed)
            learner.update(with_logps(record, record.behavior_logprobs - 0.05))
    told = [each.getMessage() for each in caplog.records if "differ by" in each.getMessage()]
    assert len(told) == (1 if warns else 0)
    assert all("differ by 0.24 nats" in each and "learner.old_logprobs=recompute" in each for each in told)


def test_snapshots_carry_a_probe_that_any_engine_can_repeat(folder):
    transformers = pytest.importorskip("transformers")
    learner = make_learner(folder)
    learner.update(roll(learner))
    learner.policy.temperature = 0.5  # does not count
    snapshot = learner.snapshot()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(to_tensor(snapshot.arrays[name], parameter.dtype))
        row = torch.from_numpy(snapshot.probe_tokens).long().unsqueeze(0)
        logps = model(input_ids=row).logits[0, :-1].log_softmax(-1).gather(1, row[0, 1:, None]).squeeze(1)
    np.testing.assert_allclose(snapshot.probe_logps, logps.numpy(), atol=1e-5)
    assert snapshot.probe_tokens.dtype == np.int32
    assert len(snapshot.probe_tokens) == len(snapshot.probe_logps) + 1 > 8
