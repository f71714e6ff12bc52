"""Weights as a sampler of language models receives them: checked, read in place, adapters merged, and probed."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tpo_dist.records import Array, Snapshot, weights_digest
from tpo_dist.rollout.contract import WrongWeights

_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}
"""Nats: far above what rounding does to a log-prob, and far below what weights do that were not taken over."""

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"  # as peft names adapters


def borrow(array: Array) -> Tensor:
    """A tensor in the array's own memory, which may be read-only and must not be written to; int16 is bfloat16."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch has no read-only tensors, and says so
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor


def checked_digest(snapshot: Snapshot) -> str:
    """The checksum of the arrays as they arrived. Raises WrongWeights where it is not the published one."""
    digest = weights_digest(snapshot.arrays)
    if digest != snapshot.digest:
        raise WrongWeights(
            f"snapshot {snapshot.version} was published with digest {snapshot.digest}, "
            f"but the weights that arrived here have {digest}"
        )
    return digest


def probe(snapshot: Snapshot, dtype: str, logps: Callable[[list[int]], Sequence[float]]) -> None:
    """Compare the engine's log-probs of the snapshot's probe with the learner's, where it has one.

    `logps`: of each token but the first. Raises WrongWeights where one differs by more than rounding: the arrays were
    right and the engine does not compute with them.
    """
    if snapshot.probe_tokens is None or snapshot.probe_logps is None:
        return
    found = np.asarray(logps(snapshot.probe_tokens.tolist()), dtype=np.float64)
    difference = float(np.abs(found - snapshot.probe_logps).max(initial=0.0))
    if not difference <= _TOLERANCE[dtype]:
        raise WrongWeights(
            f"after loading snapshot {snapshot.version}, the engine's log-probs of the probe differ from the learner's "
            f"by {difference:.3g} nats (allowed: {_TOLERANCE[dtype]:g}): it still computes with other weights"
        )


def merged(adapters: Mapping[str, Array], scale: float, base: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each adapted weight, W + scale B A. `base`: a weight without its adapter, by name."""
    for name in sorted(adapters):
        if name.endswith(_A):
            stem = name.removesuffix(_A)
            weight = stem.removeprefix(_PREFIX) + ".weight"
            down, up, plain = borrow(adapters[name]), borrow(adapters[stem + _B]), base(weight)
            yield weight, torch.addmm(plain.float(), up.float(), down.float(), alpha=scale).to(plain.dtype)
