"""ScoredGroups promises whole, finite, consistent groups, and keeps the promise through every operation."""

import dataclasses

import numpy as np
import pytest

from tpo_dist.records import (
    Prompts,
    ScoredGroups,
    Snapshot,
    concatenate,
    flatten,
    pad,
    weights_digest,
)


def make_groups(count=3, size=2, seed=0, **changes):
    """Ragged groups of known content."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, (count, size)).astype(np.int32)
    prompt_lengths = rng.integers(1, 3, count).astype(np.int32)
    total = int(lengths.sum())
    fields = {
        "group_ids": np.arange(100 * seed, 100 * seed + count),
        "prompt_tokens": rng.integers(0, 9, int(prompt_lengths.sum())).astype(np.int32),
        "prompt_lengths": prompt_lengths,
        "tokens": rng.integers(0, 9, total).astype(np.int32),
        "lengths": lengths,
        "behavior_logprobs": -rng.random(total, dtype=np.float32),
        "scores": rng.random((count, size), dtype=np.float32),
        "snapshot_versions": np.full(count, 7),
        "snapshot_digests": np.full(count, b"d" * 32),
        "stop_reasons": np.zeros((count, size), dtype=np.int8),
        "token_rewards": rng.random(total, dtype=np.float32),
        "info": {"sample_seconds": rng.random(count)},
    }
    return ScoredGroups(**{**fields, **changes})


def test_groups_cannot_be_changed():
    groups = make_groups()
    with pytest.raises(dataclasses.FrozenInstanceError):
        groups.scores = np.zeros((3, 2))
    for name, array in groups.arrays().items():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0 if array.dtype.kind != "S" else b"x"
        assert not array.flags.writeable, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.array([[1, 2], [np.nan, 0], [0, 0]], dtype=np.float32)}, r"group 1 has scores \[nan, 0.0\]"),
        ({"scores": np.array([[1, 2], [np.inf, 0], [0, 0]], dtype=np.float32)}, "must be finite"),
        ({"scores": np.zeros((3, 3), dtype=np.float32)}, r"scores has shape \[3, 3\]; expected \[3, 2\]"),
        ({"scores": np.zeros((3, 2))}, "scores has dtype float64"),
        ({"lengths": np.zeros((3, 0), dtype=np.int32)}, "at least one candidate"),
        ({"lengths": np.full((3, 2), -1, dtype=np.int32)}, "a candidate length is -1"),
        ({"lengths": np.full((3, 2), 9, dtype=np.int32)}, "add up to 54 tokens"),
        ({"prompt_lengths": np.array([1, 1], dtype=np.int32)}, r"prompt_lengths has shape \[2\]; expected \[3\]"),
        ({"prompt_lengths": np.ones((3, 1), dtype=np.int32)}, r"prompt_lengths has shape \[3, 1\]"),
        ({"stop_reasons": np.full((3, 2), 3, dtype=np.int8)}, r"stop_reasons holds \[3\]"),
        ({"stop_reasons": np.full((3, 2), -1, dtype=np.int8)}, r"stop_reasons holds \[-1\]"),
        ({"group_ids": np.array([5, 6, 5])}, "group_ids holds a group twice"),
        ({"info": {"seconds": np.array([1.0, np.nan, 2.0])}}, "info/seconds has to hold finite"),
        ({"info": {"seconds": np.array(["a", "b", "c"])}}, "info/seconds has to hold finite float64"),
        ({"snapshot_versions": np.zeros(2, dtype=np.int64)}, "snapshot_versions has shape"),
        ({"stop_reasons": np.zeros(3, dtype=np.int8)}, "stop_reasons has shape"),
        ({"token_rewards": np.zeros(1, dtype=np.float32)}, "token_rewards has shape"),
        ({"token_versions": np.zeros(1, dtype=np.int64)}, "token_versions has shape"),
        ({"token_versions": np.zeros(9, dtype=np.int32)}, "token_versions has dtype int32"),
        ({"token_versions": np.array([7, 8, 7, 7, 7, 7, 7, 7, 6])}, "older than that of its group"),
        ({"info": {"seconds": np.zeros(5)}}, "info/seconds has shape"),
        ({"tokens": np.zeros(3, dtype=np.int64)}, "dtype int64|has shape"),
    ],
)
def test_broken_promises_are_refused_at_birth(changes, message):
    with pytest.raises(ValueError, match=message):
        make_groups(**changes)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite"), (-np.inf, "not finite"), (0.5, "at most 0")])
def test_log_probs_are_finite_and_not_positive(value, message):
    logprobs = make_groups().behavior_logprobs.copy()
    logprobs[0] = value
    with pytest.raises(ValueError, match=message):
        make_groups(behavior_logprobs=logprobs)


@pytest.mark.parametrize("name", ["tokens", "prompt_tokens"])
def test_negative_tokens_are_refused(name):
    tokens = getattr(make_groups(), name).copy()
    tokens[1] = -4
    with pytest.raises(ValueError, match=f"^{name} holds -4; token ids are 0 or more"):
        make_groups(**{name: tokens})


def test_a_record_cannot_be_changed_through_the_arrays_it_was_made_of():
    scores, whole = np.zeros((3, 2), dtype=np.float32), np.zeros((5, 2), dtype=np.float32)
    watched = whole[:3]
    watched.setflags(write=False)  # read-only itself, but not its base
    for given, owner in ((scores, scores), (whole[:3], whole), (watched, whole)):
        groups = make_groups(scores=given, info={"seconds": np.ones(3)})
        owner[...] = 0.5  # the caller's own array stays the caller's
        assert not groups.scores.any()
        assert not groups.scores.flags.writeable
        owner[...] = 0.0


def test_read_only_memory_is_taken_without_a_copy():
    buffer = np.frombuffer(bytes(24), dtype=np.float32).reshape(3, 2)  # as Ray's object store hands it out
    assert np.shares_memory(make_groups(scores=buffer).scores, buffer)
    blocks = [make_groups(seed=1), make_groups(seed=2)]
    assert all(not array.flags.writeable for array in concatenate(blocks).arrays().values())


def test_only_positions_select():
    groups = make_groups()
    for wrong in (np.array([True, False, True]), [0.0, 1.0], np.array([[0], [1]])):
        with pytest.raises(ValueError, match="give the positions of groups as whole numbers"):
            groups.select(wrong)
    with pytest.raises(ValueError, match="holds a group twice"):
        groups.select([0, 0])


def test_a_nan_token_reward_is_refused():
    rewards = make_groups().token_rewards.copy()
    rewards[0] = np.nan
    with pytest.raises(ValueError, match="token_rewards"):
        make_groups(token_rewards=rewards)


def test_no_groups_is_no_record():
    empty = np.zeros(0, dtype=np.int64)
    with pytest.raises(ValueError, match="at least one group"):
        make_groups(group_ids=empty, lengths=np.zeros((0, 2), dtype=np.int32))


def content(groups):
    """Each group as plain lists, by its id."""
    tokens = pad(groups.tokens, groups.lengths)
    logprobs = pad(groups.behavior_logprobs, groups.lengths)
    prompts = pad(groups.prompt_tokens, groups.prompt_lengths)
    return {
        int(group): (
            prompts[i, : groups.prompt_lengths[i]].tolist(),
            [tokens[i, k, :n].tolist() for k, n in enumerate(groups.lengths[i])],
            [logprobs[i, k, :n].tolist() for k, n in enumerate(groups.lengths[i])],
            groups.scores[i].tolist(),
            groups.info["sample_seconds"][i],
        )
        for i, group in enumerate(groups.group_ids)
    }


def test_selection_takes_whole_groups_in_the_order_asked():
    groups = make_groups(count=6, size=3)
    picked = groups.select([4, 0, 3])
    assert picked.group_ids.tolist() == [4, 0, 3]
    everything = content(groups)
    assert content(picked) == {i: everything[i] for i in (0, 3, 4)}
    assert len(picked) == 3
    assert picked.group_size == 3


def test_concatenation_keeps_every_group():
    parts = [make_groups(count=2, seed=1), make_groups(count=3, seed=2), make_groups(count=1, seed=3)]
    joined = concatenate(parts)
    assert content(joined) == {**content(parts[0]), **content(parts[1]), **content(parts[2])}
    assert joined.nbytes == sum(part.nbytes for part in parts)
    assert concatenate(parts[:1]) is parts[0]


def test_concatenation_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="groups of 2 and of 3"):
        concatenate([make_groups(size=2), make_groups(size=3)])
    with pytest.raises(ValueError, match="token_rewards"):
        concatenate([make_groups(), make_groups(token_rewards=None)])
    with pytest.raises(ValueError, match="no blocks"):
        concatenate([])


def test_versions_of_tokens_follow_their_groups():
    mixed = make_groups(count=3, size=2, seed=1)
    versions = np.arange(len(mixed.tokens)) + 7
    mixed = dataclasses.replace(mixed, token_versions=versions)
    first = int(mixed.lengths[:2].sum())
    assert mixed.select([2, 0]).token_versions.tolist() == [
        *versions[first:].tolist(),
        *versions[: int(mixed.lengths[0].sum())].tolist(),
    ]
    plain = make_groups(count=2, size=2, seed=2, snapshot_versions=np.array([8, 9]))
    joined = concatenate([mixed, plain])  # what is not spelled out is the group's own
    tail = [8] * int(plain.lengths[0].sum()) + [9] * int(plain.lengths[1].sum())
    assert joined.token_versions.tolist() == [*versions.tolist(), *tail]
    assert concatenate([plain, make_groups(seed=3)]).token_versions is None


def test_pad_and_flatten_are_inverse():
    lengths = np.array([[0, 3], [2, 1]], dtype=np.int32)
    flat = np.arange(1, 7, dtype=np.int32)
    padded = pad(flat, lengths)
    assert padded.tolist() == [[[0, 0, 0], [1, 2, 3]], [[4, 5, 0], [6, 0, 0]]]
    assert flatten(padded, lengths).tolist() == flat.tolist()


def test_prompts_are_checked():
    with pytest.raises(ValueError, match="add up to 3"):
        Prompts(ids=np.arange(1), tokens=np.zeros(2, dtype=np.int32), lengths=np.array([3], dtype=np.int32))


def test_representations_stay_short():
    arrays = {"w": np.zeros((500, 500))}
    assert len(repr(make_groups(count=50))) < 100
    assert len(repr(Snapshot(version=1, arrays=arrays, digest=weights_digest(arrays)))) < 120


def test_digest_sees_every_difference():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(1, dtype=np.float32)}
    digest = weights_digest(arrays)
    assert digest == weights_digest(dict(reversed(arrays.items())))
    assert len(digest) == 32
    changed = arrays["a"].copy()
    changed[1, 1] = np.nextafter(changed[1, 1], np.float32(10))
    for other in (
        {**arrays, "a": changed},
        {**arrays, "a": arrays["a"].reshape(3, 2)},
        {**arrays, "a": arrays["a"].astype(np.float64)},
        {"a": arrays["a"], "c": arrays["b"]},
    ):
        assert weights_digest(other) != digest
