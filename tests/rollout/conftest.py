"""A small language model, and versions of it, for every test of a module."""

import pytest

from tests.rollout.language_models import changed
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with opinions."""
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny", spread=0.15)


@pytest.fixture(scope="module")
def models(folder):
    """Versions 1 to 3: a model and its snapshot each."""
    return {version: changed(folder, version) for version in (1, 2, 3)}
