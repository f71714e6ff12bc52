"""Classifying digits by trial and error (arXiv 2604.06159, section 3.3)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpo_dist.records import Prompts
from tpo_dist.tasks.contexts import draw_contexts, score_arms
from tpo_dist.tasks.contract import Scores
from tpo_dist.tasks.digit_data import CLASSES, Digits, DigitSource, check_source, load_digits

_SHADES = " ░▒▓█"


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitBandit:
    """The prompt is the number of a training image, the answer its class."""

    source: DigitSource = "sklearn"
    """sklearn: 8x8 images that need no download. mnist: from the Hugging Face hub. folder: IDX or parquet files."""
    path: str = ""
    """The folder, for source folder."""

    def __post_init__(self) -> None:
        check_source(self.source, self.path)

    @property
    def vocab_size(self) -> int:
        """Ten classes."""
        return CLASSES

    @property
    def prompt_length(self) -> int:
        """1."""
        return 1

    @property
    def completion_length(self) -> int:
        """1."""
        return 1

    @property
    def digits(self) -> Digits:
        """The images. Raises UsageError for data that is missing or damaged."""
        return load_digits(self.source, self.path)

    def context_count(self) -> int:
        """Training images."""
        return len(self.digits.train_labels_N)

    def features(self) -> NDArray[np.float32]:
        """The training images [N, D]."""
        return self.digits.train_images_ND

    def prompts(self, seed: int, ids: NDArray[np.int64]) -> Prompts:
        """One uniform training image for each draw."""
        return draw_contexts(seed, ids, self.context_count())

    def answers(self, prompts: Prompts) -> NDArray[np.int32]:
        """The right class of each prompt's image [G, 1]."""
        return self.digits.train_labels_N[prompts.tokens].astype(np.int32)[:, None]

    def read_prompt(self, tokens: NDArray[np.int32]) -> str:
        """The image by its number, and as far as letters can draw it."""
        pixels_D = self.digits.train_images_ND[int(tokens[0])]
        side = math.isqrt(len(pixels_D))
        shades = np.clip(pixels_D / max(float(pixels_D.max()), 1e-6) * (len(_SHADES) - 1), 0, None).round().astype(int)
        rows = ("".join(2 * _SHADES[shade] for shade in row) for row in shades.reshape(side, side))
        return f"image {int(tokens[0])}\n" + "\n".join(rows)

    def read_candidate(self, tokens: NDArray[np.int32]) -> str:
        """The class."""
        return str(int(tokens[0]))

    def score(self, prompts: Prompts, tokens_GKT: NDArray[np.int32], lengths_GK: NDArray[np.int32]) -> Scores:
        """1 for the right class, else 0."""
        return score_arms(self.digits.train_labels_N, prompts, tokens_GKT, lengths_GK)
