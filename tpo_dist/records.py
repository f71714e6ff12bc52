"""The records that travel: prompts, scored groups and frozen snapshots, as structs of numpy arrays.

Shapes: G groups, K candidates of each. Ragged text is flat, with lengths. The arrays cross Ray's object
store without a copy and arrive read-only.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tpo_dist.ragged import ScalarT as ScalarT
from tpo_dist.ragged import check_lengths, frozen, ragged_index
from tpo_dist.ragged import flatten as flatten
from tpo_dist.ragged import pad as pad

Array = NDArray[Any]

_LOGP_ROUNDING = 1e-3  # a log-prob above 0 by more than rounding is no log-prob


class StopReason(enum.IntEnum):
    """Why a candidate ended."""

    LENGTH = 0  # it reached the limit of new tokens; the text may be cut
    STOP = 1  # the policy ended it: with an end token, or with a text that stops it
    FIXED = 2  # the task asks for exactly this many tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Prompts:
    """A block of prompt draws: draw `i` is a pure function of the task and its seed."""

    ids: NDArray[np.int64]
    """[G] the number of each draw, counted from 0 over the whole run."""
    tokens: NDArray[np.int32]
    """(flat) token ids."""
    lengths: NDArray[np.int32]
    """[G] tokens of each prompt."""

    def __post_init__(self) -> None:
        check_lengths("prompt", self.tokens, self.lengths, len(self.ids))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ScoredGroups:
    """G whole groups of K candidates, complete and scored at birth; the only thing rollout hands to the learner.

    Nobody can change it: arrays that somebody could still write to are copied, read-only ones are taken as they are.
    Raises ValueError, naming the field and the reason, for a wrong shape or dtype, a score or log-prob that is not
    finite, lengths that do not add up, a token or stop reason that there is not, a group twice, or an empty block.
    """

    group_ids: NDArray[np.int64]
    """[G] the prompt draw that each group answers."""
    prompt_tokens: NDArray[np.int32]
    """(flat) the contexts."""
    prompt_lengths: NDArray[np.int32]
    """[G]"""
    tokens: NDArray[np.int32]
    """(flat) the candidates, group by group."""
    lengths: NDArray[np.int32]
    """[G, K] tokens of each candidate; 0 is an empty completion."""
    behavior_logprobs: NDArray[np.float32]
    """(flat, one per token) log-probs in nats under the snapshot that sampled it."""
    scores: NDArray[np.float32]
    """[G, K] always finite: a scorer's failure fails the group, it never becomes a number."""
    snapshot_versions: NDArray[np.int64]
    """[G] which frozen weights sampled the group."""
    snapshot_digests: NDArray[np.bytes_]
    """[G] the checksum of those weights, 32 hexadecimal digits."""
    stop_reasons: NDArray[np.int8]
    """[G, K] `StopReason` of each candidate."""
    token_rewards: NDArray[np.float32] | None = None
    """(flat, one per token) where the task gives them."""
    greedy_scores: NDArray[np.float32] | None = None
    """[G] score of the greedy completion, where the objective compares with it."""
    token_level: bool = False
    """True where candidates are single tokens: the K tokens at a position all continue the tokens of candidate 0, each
    position is a decision of its own, and `token_rewards` are the scores of its candidates."""
    token_versions: NDArray[np.int64] | None = None
    """(flat, one per token) which weights drew each token, where they changed on the way; never older than the group's
    own version. None: all tokens are of that."""
    sources: NDArray[np.bytes_] | None = None
    """[G] which task of a mixture asked, where prompts are in words."""
    parts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """The mean of each reward that makes the scores, over the candidates [G]; NaN where its task has none such."""
    info: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Small numbers per group [G], for the logs; a batch's are their sums."""

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            if isinstance(array := getattr(self, name), np.ndarray):
                object.__setattr__(self, name, frozen(array))
        for name in _BY_NAME:
            object.__setattr__(self, name, {key: frozen(np.asarray(of)) for key, of in getattr(self, name).items()})
        _check_groups(self)

    def __len__(self) -> int:
        return len(self.group_ids)

    def __repr__(self) -> str:
        return f"ScoredGroups({len(self)} groups of {self.group_size} from draw {self.group_ids[0]})"

    @property
    def group_size(self) -> int:
        """K, the candidates of each group."""
        return int(self.lengths.shape[1])

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, in bytes."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, Array]:
        """Every array by field name; those of `parts` and `info` as `parts/NAME` and `info/NAME`."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in (*_BY_NAME, "token_level")}
        for field_name in _BY_NAME:
            named.update({f"{field_name}/{name}": array for name, array in getattr(self, field_name).items()})
        return {name: array for name, array in named.items() if array is not None}

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> "ScoredGroups":
        """The groups at these positions, whole, in this order. Raises ValueError for anything but whole numbers."""
        index = np.asarray(indices)
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise ValueError(
                f"indices have dtype {index.dtype} and shape {list(index.shape)}; give the positions of groups as "
                "whole numbers, np.flatnonzero(mask) for a mask"
            )
        index = index.astype(np.int64)
        token_index = ragged_index(self.lengths.reshape(len(self), -1).sum(axis=1), index)
        prompt_index = ragged_index(self.prompt_lengths, index)
        return ScoredGroups(
            group_ids=self.group_ids[index],
            prompt_tokens=self.prompt_tokens[prompt_index],
            prompt_lengths=self.prompt_lengths[index],
            tokens=self.tokens[token_index],
            lengths=self.lengths[index],
            behavior_logprobs=self.behavior_logprobs[token_index],
            scores=self.scores[index],
            snapshot_versions=self.snapshot_versions[index],
            snapshot_digests=self.snapshot_digests[index],
            stop_reasons=self.stop_reasons[index],
            token_rewards=None if self.token_rewards is None else self.token_rewards[token_index],
            greedy_scores=None if self.greedy_scores is None else self.greedy_scores[index],
            token_level=self.token_level,
            token_versions=None if self.token_versions is None else self.token_versions[token_index],
            sources=None if self.sources is None else self.sources[index],
            parts={name: array[index] for name, array in self.parts.items()},
            info={name: array[index] for name, array in self.info.items()},
        )


def concatenate(blocks: Sequence[ScoredGroups]) -> ScoredGroups:
    """One record of all groups, in order. Raises ValueError where group sizes or optional fields differ."""
    if not blocks:
        raise ValueError("no blocks to concatenate; give at least one")
    if len(blocks) == 1:
        return blocks[0]
    if any(block.token_versions is not None for block in blocks):
        blocks = [_with_token_versions(block) for block in blocks]
    first = blocks[0].arrays()
    for block in blocks[1:]:
        if block.group_size != blocks[0].group_size:
            raise ValueError(f"groups of {blocks[0].group_size} and of {block.group_size} candidates in one record")
        if block.token_level != blocks[0].token_level:
            raise ValueError("token-level groups and groups of whole candidates in one record")
        if block.arrays().keys() != first.keys():
            raise ValueError(f"blocks differ in their fields: {sorted(block.arrays().keys() ^ first.keys())}")
    joined = {name: np.concatenate([block.arrays()[name] for block in blocks]) for name in first}
    for array in joined.values():
        array.setflags(write=False)  # nobody else has it, so the record need not copy it
    parts, info = (
        {name.partition("/")[2]: joined.pop(name) for name in first if name.startswith(f"{each}/")} for each in _BY_NAME
    )
    return ScoredGroups(**joined, token_level=blocks[0].token_level, parts=parts, info=info)


def _with_token_versions(block: ScoredGroups) -> ScoredGroups:
    """The same groups, with the version of every token spelled out."""
    if block.token_versions is not None:
        return block
    return replace(block, token_versions=np.repeat(block.snapshot_versions, block.lengths.sum(axis=1)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Snapshot:
    """Frozen policy weights: what an update publishes and rollout workers load."""

    version: int
    """Learner updates before it; 0 is the start."""
    arrays: Mapping[str, Array]
    """Parameters by name."""
    digest: str
    """`weights_digest` of the arrays."""
    probe_tokens: NDArray[np.int32] | None = None
    """[P] a short text, whose log-probs samplers find after loading: what an engine makes of weights is its own."""
    probe_logps: NDArray[np.float32] | None = None
    """[P - 1] the learner's log-probs (nats, logits undivided) of each of its tokens but the first."""

    def __repr__(self) -> str:
        return f"Snapshot(version {self.version}, {len(self.arrays)} arrays, digest {self.digest})"

    @property
    def nbytes(self) -> int:
        """Memory of all parameters, in bytes."""
        return sum(array.nbytes for array in self.arrays.values())


def weights_digest(arrays: Mapping[str, Array]) -> str:
    """128-bit XXH3 over names, dtypes, shapes and bytes, as 32 hexadecimal digits.

    It tells weights apart, at the speed of memory; it is no defence against somebody who forges them.
    """
    hasher = xxhash.xxh3_128()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        hasher.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        hasher.update(array.data)
    return hasher.hexdigest()


def _check_groups(groups: ScoredGroups) -> None:
    """Every promise of `ScoredGroups`, checked at birth."""
    count = len(groups.group_ids)
    if count == 0 or groups.lengths.ndim != 2 or groups.lengths.shape[1] == 0:
        raise ValueError(
            f"lengths has shape {list(groups.lengths.shape)} for {count} groups; "
            "a record has at least one group of at least one candidate"
        )
    by_group = ("group_ids", "prompt_lengths", "snapshot_versions", "snapshot_digests")
    wanted: dict[str, tuple[int, ...]] = dict.fromkeys(by_group, (count,))
    wanted |= dict.fromkeys(("scores", "stop_reasons"), groups.lengths.shape)
    per_token = ("behavior_logprobs", "token_rewards", "token_versions")
    wanted |= {name: groups.tokens.shape for name in per_token if getattr(groups, name) is not None}
    wanted |= {f"{each}/{name}": (count,) for each in _BY_NAME for name in getattr(groups, each)}
    arrays = groups.arrays()
    wanted |= dict.fromkeys(("greedy_scores", "sources") & arrays.keys(), (count,))
    for name, shape in wanted.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {list(arrays[name].shape)}; expected {list(shape)}")
    for name, kind in _DTYPES.items():
        if name in arrays and arrays[name].dtype != kind:
            raise ValueError(f"{name} has dtype {arrays[name].dtype}; expected {kind}")
    check_lengths("prompt", groups.prompt_tokens, groups.prompt_lengths, count)
    check_lengths("candidate", groups.tokens, groups.lengths, count)
    _check_values(groups)


def _check_values(groups: ScoredGroups) -> None:
    if not np.isfinite(groups.scores).all():
        bad = int(np.flatnonzero(~np.isfinite(groups.scores).all(axis=1))[0])
        raise ValueError(f"group {groups.group_ids[bad]} has scores {groups.scores[bad].tolist()}; all must be finite")
    if not np.isfinite(groups.behavior_logprobs).all():
        raise ValueError("behavior_logprobs holds a value that is not finite")
    if groups.behavior_logprobs.size and float(groups.behavior_logprobs.max()) > _LOGP_ROUNDING:
        raise ValueError(f"a behaviour log-prob is {float(groups.behavior_logprobs.max())}; log-probs are at most 0")
    for name in ("token_rewards", "greedy_scores"):
        if name in groups.arrays() and not np.isfinite(groups.arrays()[name]).all():
            raise ValueError(f"{name} holds a value that is not finite")
    for name in ("tokens", "prompt_tokens"):
        if groups.arrays()[name].size and int(groups.arrays()[name].min()) < 0:
            raise ValueError(f"{name} holds {int(groups.arrays()[name].min())}; token ids are 0 or more")
    if not np.isin(groups.stop_reasons, tuple(StopReason)).all():
        raise ValueError(f"stop_reasons holds {np.unique(groups.stop_reasons).tolist()}, not only those of StopReason")
    if len(np.unique(groups.group_ids)) < len(groups):
        raise ValueError("group_ids holds a group twice")
    for name, numbers in groups.info.items():
        if numbers.dtype != np.float64 or not np.isfinite(numbers).all():
            raise ValueError(f"info/{name} has to hold finite float64 numbers")
    for name, numbers in groups.parts.items():
        if numbers.dtype != np.float64 or np.isinf(numbers).any():
            raise ValueError(f"parts/{name} has to hold float64 numbers, none of them infinite")
    if groups.token_level and (groups.token_rewards is None or (groups.lengths != groups.lengths[:, :1]).any()):
        raise ValueError("token-level groups need token_rewards, and candidates of one length in each group")


_DTYPES: dict[str, np.dtype[Any]] = {
    "group_ids": np.dtype(np.int64),
    "prompt_tokens": np.dtype(np.int32),
    "prompt_lengths": np.dtype(np.int32),
    "tokens": np.dtype(np.int32),
    "lengths": np.dtype(np.int32),
    "behavior_logprobs": np.dtype(np.float32),
    "scores": np.dtype(np.float32),
    "snapshot_versions": np.dtype(np.int64),
    "snapshot_digests": np.dtype("S32"),
    "stop_reasons": np.dtype(np.int8),
    "token_rewards": np.dtype(np.float32),
    "token_versions": np.dtype(np.int64),
    "greedy_scores": np.dtype(np.float32),
    "sources": np.dtype("S64"),
}
_BY_NAME = ("parts", "info")
"""Fields that hold an array [G] for each of some names."""
