"""Sampling from a torch policy of our own, in batches of whole blocks."""

from dataclasses import dataclass

import numpy as np
import torch

from tpo_dist.policies.contract import GREEDY, SamplingPolicy
from tpo_dist.policies.weights import import_weights, view_weights
from tpo_dist.randomness import draw_uniforms
from tpo_dist.records import Prompts, Snapshot, StopReason, pad, weights_digest
from tpo_dist.rollout.contract import Candidates, WrongWeights


@dataclass(frozen=True, slots=True)
class PolicySampling:
    """The policy itself draws, in batches of whole blocks: for policies of our own."""


class TorchSampler:
    """Draws candidates of a fixed length; the random numbers belong to the draws, not to this sampler."""

    def __init__(
        self,
        policy: SamplingPolicy,
        completion_length: int,
        seed: int,
        device: str = "cpu",
        *,
        token_level: bool = False,
        greedy: bool = False,
        verify_blocks: bool = False,
    ) -> None:
        """`completion_length`: tokens of every candidate. `seed`: of the run. `token_level`: the K tokens at a position
        all continue the first candidate. `greedy`: complete each prompt greedily as well. `verify_blocks`: take the
        checksum anew after every block, so that weights which changed in memory after loading show in its digest."""
        self._token_level, self._greedy, self._verify_blocks = token_level, greedy, verify_blocks
        self._device = torch.device(device)
        self._policy = policy.to(self._device).eval()
        self._length, self._seed = completion_length, seed
        self._version: int | None = None
        self._digest = ""

    @property
    def version(self) -> int | None:
        """The version of the loaded snapshot; None before the first."""
        return self._version

    @property
    def digest(self) -> str:
        """The checksum of the weights, taken from the policy itself after loading, or after the last block."""
        return self._digest

    def load(self, snapshot: Snapshot) -> None:
        """Copy the weights in and check what arrived. Raises WrongWeights where the digest differs."""
        import_weights(self._policy, snapshot.arrays)
        self._digest = weights_digest(view_weights(self._policy))
        if self._digest != snapshot.digest:
            raise WrongWeights(
                f"snapshot {snapshot.version} was published with digest {snapshot.digest}, "
                f"but the weights loaded here have {self._digest}"
            )
        self._version = snapshot.version

    def sample(self, prompts: Prompts, group_size: int) -> Candidates:
        """K candidates for each prompt. Raises RuntimeError before the first snapshot."""
        if self._version is None:
            raise RuntimeError("the sampler has no weights yet; load a snapshot first")
        uniforms = draw_uniforms(self._seed, "sample", prompts.ids, group_size * self._length)
        shape = (len(prompts.ids), group_size, self._length)
        uniforms = uniforms.reshape(shape)
        if self._greedy:  # one more candidate beside the others, so that it shares their prefixes
            uniforms = np.concatenate([uniforms, np.full((shape[0], 1, shape[2]), GREEDY)], axis=1)
        tokens, logps = self._policy.sample(
            torch.from_numpy(pad(prompts.tokens, prompts.lengths)).long().to(self._device),
            torch.from_numpy(uniforms).to(self._device),
            follow_first=self._token_level,
        )
        if self._verify_blocks:  # afterwards: what changed while sampling counts too
            self._digest = weights_digest(view_weights(self._policy))
        drawn = tokens.cpu().numpy().astype(np.int32)
        return Candidates(
            tokens_GKT=drawn[:, :group_size],
            lengths_GK=np.full(shape[:2], self._length, dtype=np.int32),
            logps_GKT=logps[:, :group_size].cpu().numpy().astype(np.float32),
            stop_reasons_GK=np.full(shape[:2], StopReason.FIXED, dtype=np.int8),
            greedy_GT=drawn[:, group_size] if self._greedy else None,
        )
