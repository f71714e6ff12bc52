"""The digits bandit of arXiv 2604.06159, section 3.3: a network sees an image, draws a class and learns only whether it
was right. All seeds advance together.

Shapes: S seeds, B samples, C classes, D pixels, N test images.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tpo_dist.components import build
from tpo_dist.errors import UsageError
from tpo_dist.objective import bandit
from tpo_dist.studies.engines.draws import draw_arms, step_indices, step_uniforms
from tpo_dist.studies.engines.stacked_mlp import Adam, StackedMLP, gradient_norm
from tpo_dist.tasks.digit_data import CLASSES, DigitSource, check_source, load_digits

Curves = dict[str, NDArray[np.float64]]
CONCENTRATION_EDGES = (0.25, 0.5, 0.75)
"""Inner edges of the mechanism's bins over [0, 1]; a value on an edge belongs to the upper bin."""
_BINS = len(CONCENTRATION_EDGES) + 1
_NUMBERS_AT_A_TIME = 2_000_000  # random numbers kept ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitsBandit:
    """The protocol of section 3.3; by default on scikit-learn's 8x8 digits."""

    method: bandit.BanditMethod = "tpo"
    source: DigitSource = "sklearn"
    """sklearn, mnist (from the hub) or folder."""
    path: str = ""
    """The folder of IDX or parquet files, for source folder."""
    width: int = 50
    """Units of each hidden layer."""
    layers: int = 2
    """Hidden layers."""
    samples: int = 100
    """Images per step, drawn with replacement; one class is drawn for each."""
    lr: float = 1e-3
    """Adam's learning rate."""
    eta: float = 1.0
    """Temperature of TPO's target and of DG's gate."""
    eval_every: int = 200
    """Steps between two measurements; the last step is always measured."""

    def __post_init__(self) -> None:
        check_source(self.source, self.path)
        for name in ("width", "layers", "samples", "eval_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)}", "1 is the least", "give 1 or more")
        for name in ("lr", "eta"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} = {getattr(self, name)}", "must be positive", "give a number above 0")


def simulate_digits(
    setting: Mapping[str, object], seeds: Sequence[int], steps: int, report: Callable[[int], None]
) -> list[Curves]:
    """For each seed, at every `eval_every` steps: `step` (updates done), `train_error` (wrong draws) and `grad_norm` of
    the update just taken, and the metrics of `_measure`. Keys of `setting`: fields of `DigitsBandit`."""
    options = build("setting", DigitsBandit, setting)
    digits = load_digits(options.source, options.path)
    images_ND, labels_N = torch.tensor(digits.train_images_ND), torch.tensor(digits.train_labels_N)
    test_ND, test_labels_N = torch.tensor(digits.test_images_ND), torch.tensor(digits.test_labels_N)
    network = StackedMLP((images_ND.shape[1], *[options.width] * options.layers, CLASSES), seeds)
    optimizer = Adam(network.parameters, options.lr)
    rows: list[list[dict[str, float]]] = [[] for _ in seeds]
    for step, index_SB, uniforms_SB in _draws(seeds, steps, options.samples, len(images_ND)):
        values = network.forward(images_ND.index_select(0, index_SB.reshape(-1)).view(*index_SB.shape, -1))
        logps_SBC = torch.log_softmax(values[-1], dim=-1)
        arms_SB = draw_arms(logps_SBC.exp(), uniforms_SB)
        rewards_SB = (arms_SB == labels_N[index_SB]).float()
        fields_SBC = bandit.sample_fields(options.method, logps_SBC, arms_SB, rewards_SB, eta=options.eta)
        gradients = network.backward(values, fields_SBC / -options.samples)
        optimizer.step(gradients)
        if step % options.eval_every == 0 or step == steps:
            for s, row in enumerate(rows):
                update = {"train_error": 1 - rewards_SB[s].mean().item(), "grad_norm": gradient_norm(s, gradients)}
                measured = _measure(network.logits_of(s, test_ND), test_labels_N, options)
                row.append({"step": step, **update, **measured})
            report(step * len(seeds))
    return [
        {name: np.array([row[name] for row in seed_rows], dtype=np.float64) for name in seed_rows[0]}
        for seed_rows in rows
    ]


def _draws(seeds: Sequence[int], steps: int, samples: int, images: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The number of each step, counted from 1, with its images [S, B] and the uniforms [S, B] of its draws."""
    block = max(1, _NUMBERS_AT_A_TIME // (samples * len(seeds)))
    for first in range(0, steps, block):
        count = min(block, steps - first)
        index_SNB = step_indices(seeds, first, count, samples, images)
        uniforms_SNB = step_uniforms(seeds, first, count, samples)
        for step in range(count):
            yield first + step + 1, index_SNB[:, step], uniforms_SNB[:, step]


def _measure(logits_NC: Tensor, labels_N: Tensor, options: DigitsBandit) -> dict[str, float]:
    """Test metrics of one network.

    `error`; `concentration`, mean over misclassified images of c = max wrong pi / (1 - p_y); and of the misclassified
    images in each bin k of c: `mechanism_count_bink`, mean `mechanism_gain_bink` in p_y to first order under the
    expected update, and `mechanism_surplus_bink` over the one-vs-rest surrogate. NaN where a bin is empty, and for
    GRPO, whose expected update depends on its batch.
    """
    wrong_N = logits_NC.argmax(dim=-1) != labels_N
    probs_NC, labels_N = torch.softmax(logits_NC[wrong_N].double(), dim=-1), labels_N[wrong_N]
    concentration_N = bandit.wrong_arm_concentration(probs_NC, labels_N)
    bins_N = torch.bucketize(concentration_N, torch.tensor(CONCENTRATION_EDGES, dtype=torch.float64), right=True)
    if options.method == "grpo":
        gains_N = surrogates_N = torch.full_like(concentration_N, torch.nan)
    else:
        gains_N, surrogates_N = bandit.first_order_gains(options.method, probs_NC, labels_N, eta=options.eta)
    measured = {"error": wrong_N.double().mean().item(), "concentration": concentration_N.mean().item()}
    for k in range(_BINS):
        inside_N = bins_N == k
        measured[f"mechanism_count_bin{k}"] = float(inside_N.sum())
        measured[f"mechanism_gain_bin{k}"] = gains_N[inside_N].mean().item()
        measured[f"mechanism_surplus_bin{k}"] = (gains_N - surrogates_N)[inside_N].mean().item()
    return measured
