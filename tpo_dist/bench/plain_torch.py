"""One TPO step as plain torch code would do it: the yardstick of `tpo-dist bench step`.

The same network, optimizer and mathematics, with a key-value cache for sampling and one batched pass over all
candidates for training, but nothing shared between candidates: prompts are repeated K times, duplicates are computed
again, groups without a preference are not left out, and the optimizer walks over the parameters one by one.

Shapes: G groups, K candidates, C = G K candidates, P prompt tokens, T sampled tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tpo_dist.learner.muon import orthogonalise
from tpo_dist.objective.scores import standardised_scores
from tpo_dist.policies.transformer import Block, Transformer


def plain_step(
    policy: Transformer, prompts_GP: Tensor, answers_GP: Tensor, reward: str, size: int, epochs: int, lr: float
) -> float:
    """Sample, score, build the target and take `epochs` steps on it; the mean score.

    `reward` is that of the token-reversal task.
    """
    groups, length = prompts_GP.shape
    rows_CP = prompts_GP.repeat_interleave(size, dim=0)
    tokens_CT, logps_CT = _sample(policy, rows_CP, length)
    scores_GK = _scores(tokens_CT.view(groups, size, length) == answers_GP[:, None], reward)
    u_GK = standardised_scores(scores_GK, torch.ones_like(scores_GK, dtype=torch.bool), torch.float32)
    target_GK = torch.softmax(logps_CT.sum(-1).view(groups, size) + u_GK, dim=-1)
    state: dict[str, list[Tensor]] = {}
    for epoch in range(epochs):
        policy.zero_grad(set_to_none=True)
        logits_GK = _logps(policy, rows_CP, tokens_CT).sum(-1).view(groups, size)
        loss = -(target_GK * torch.log_softmax(logits_GK, dim=-1)).sum(-1).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        _optimize(policy, state, epoch + 1, lr)
    return scores_GK.mean().item()


def _scores(right_GKT: Tensor, reward: str) -> Tensor:
    if reward == "terminal":
        return right_GKT.all(-1).float()
    counted = right_GKT.long().cumprod(-1) if reward == "sequential" else right_GKT
    return counted.float().mean(-1)


@torch.no_grad()
def _sample(policy: Transformer, rows_CP: Tensor, length: int) -> tuple[Tensor, Tensor]:
    caches: list[tuple[Tensor, Tensor] | None] = [None] * len(policy.blocks)
    new, position = rows_CP, 0
    tokens, logps = [], []
    for _ in range(length):
        x = policy.embedding(new) + policy.positions[position : position + new.shape[1]]
        for index, block in enumerate(policy.blocks):
            x, caches[index] = transformer_block(policy, block, x, caches[index])
        logp_CV = F.log_softmax(policy.head(policy.final_norm(x[:, -1])), dim=-1)
        drawn = torch.multinomial(logp_CV.exp(), 1)
        tokens.append(drawn)
        logps.append(logp_CV.gather(1, drawn))
        position += new.shape[1]
        new = drawn
    return torch.cat(tokens, dim=1), torch.cat(logps, dim=1)


def _logps(policy: Transformer, rows_CP: Tensor, tokens_CT: Tensor) -> Tensor:
    sequence = torch.cat([rows_CP, tokens_CT], dim=1)[:, :-1]
    x = policy.embedding(sequence) + policy.positions[: sequence.shape[1]]
    for block in policy.blocks:
        x, _ = transformer_block(policy, block, x, None)
    logp = F.log_softmax(policy.head(policy.final_norm(x)), dim=-1)[:, rows_CP.shape[1] - 1 :]
    return logp.gather(2, tokens_CT.unsqueeze(-1)).squeeze(-1)


def transformer_block(
    policy: Transformer, block: nn.Module, x: Tensor, past: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One block over a dense batch [C, T, D], and the keys and values to go on from."""
    assert isinstance(block, Block)
    count, new, width = x.shape
    qkv = block.qkv(block.attention_norm(x)).view(count, new, 3, policy.heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    if past is not None:
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
    read = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
    x = x + block.out(read.transpose(1, 2).reshape(count, new, width))
    x = x + block.down(F.gelu(block.up(block.ffn_norm(x)), approximate="tanh"))
    return x, (k, v)


@torch.no_grad()
def _optimize(policy: Transformer, state: dict[str, list[Tensor]], step: int, lr: float) -> None:
    views = policy.matrix_views()
    for name, parameter in policy.named_parameters():
        grad = parameter.grad
        assert grad is not None
        if name in views:
            (mu,) = state.setdefault(name, [torch.zeros_like(grad)])
            mu.mul_(0.95).add_(grad, alpha=0.05)
            ahead = 0.95 * mu / (1 - 0.95 ** (step + 1)) + 0.05 * grad / (1 - 0.95**step)
            view = views[name]
            rows, columns = view.shape[-2:]
            fan_in, fan_out = (columns, rows) if view.transposed else (rows, columns)
            step_size = lr * max(1.0, fan_out / fan_in) ** 0.5
            for matrix, target in zip(_matrices(ahead, view.shape), _matrices(parameter, view.shape), strict=True):
                wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
                update = orthogonalise(wide.unsqueeze(0))[0]
                target.sub_((update.T if matrix.shape[0] > matrix.shape[1] else update) * step_size)
        else:
            m, v = state.setdefault(name, [torch.zeros_like(grad), torch.zeros_like(grad)])
            m.mul_(0.9).add_(grad, alpha=0.1)
            v.mul_(0.999).addcmul_(grad, grad, value=0.001)
            ahead = 0.9 * m / (1 - 0.9 ** (step + 1)) + 0.1 * grad / (1 - 0.9**step)
            parameter.sub_(lr * ahead / ((v / (1 - 0.999**step)).sqrt() + 1e-8))


def _matrices(tensor: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tensor.view(-1, *shape[-2:]).unbind(0)
