"""Shape and type checks on every public signature, for the tests only; random numbers from a fixed seed."""

import jaxtyping
import numpy as np
import pytest
from jaxtyping import install_import_hook

install_import_hook("corollary", "typechecker.typechecker")


@pytest.fixture
def rng():
    return np.random.default_rng(20250711)


@pytest.fixture
def as_shipped():
    """Without the type checks of the tests: what a user who passes nonsense meets."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
