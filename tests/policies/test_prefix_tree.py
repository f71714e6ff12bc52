"""The forest has one node for each distinct prefix that predicts a token, and no more."""

import torch

from tpo_dist.policies.prefix_tree import build_prefix_tree


def prefixes(prompts, tokens, mask):
    found = set()
    for prompt, candidates, present in zip(prompts.tolist(), tokens.tolist(), mask.tolist(), strict=True):
        found |= {(*tuple(prompt[: i + 1]), "prompt", tuple(prompt)) for i in range(len(prompt))}
        for candidate, live in zip(candidates, present, strict=True):
            found |= {(tuple(prompt), tuple(candidate[: t + 1])) for t in range(sum(live) - 1)}
    return found


def test_one_node_for_each_distinct_prefix():
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 2, (9, 2), generator=generator)
    tokens = torch.randint(0, 2, (9, 6, 4), generator=generator)
    lengths = torch.randint(0, 5, (9, 6, 1), generator=generator)
    mask = torch.arange(4) < lengths
    tree = build_prefix_tree(prompts, tokens, mask)
    assert len(tree.tokens_N) == len(prefixes(prompts, tokens, mask))
    covered = torch.cat([part.nodes_M for part in tree.paths])
    assert covered.sort().values.tolist() == list(range(len(tree.tokens_N)))


def test_a_solved_batch_collapses_to_one_path_for_each_prompt():
    prompts = torch.tensor([[0, 1]] * 50)
    tokens = torch.tensor([1, 0, 1]).expand(50, 32, 3)
    tree = build_prefix_tree(prompts, tokens, torch.ones(50, 32, 3, dtype=torch.bool))
    assert len(tree.tokens_N) == 4  # two of the prompt, two that predict; the last token predicts nothing
    assert (tree.outputs_GKT == torch.tensor([1, 2, 3])).all()
