"""A tiny random Qwen3 with a byte-level tokenizer and a chat template, for tests of language models.

from tests.tiny import tiny_model

def test_something(tmp_path):
    folder = tiny_model(tmp_path / "model", spread=0.3)   # config, weights, tokenizer: from_pretrained loads it
"""

from pathlib import Path

import pytest


def tiny_model(folder: Path, **options: object) -> Path:
    """2 layers, hidden 64, 272 rows of embedding for 259 tokens. Skips the test where transformers is not installed."""
    pytest.importorskip("transformers")
    from tpo_dist.policies.model_folders import make_tiny_qwen3

    return make_tiny_qwen3(folder, **options)
