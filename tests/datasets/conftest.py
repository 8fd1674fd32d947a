import pytest

from corollary.datasets import text_domains


@pytest.fixture(scope="session")
def domains():
    """The default domains, made once."""
    return text_domains()


@pytest.fixture(scope="session")
def small():
    return text_domains(train_bytes=60_000, documents=60, seed=3)
