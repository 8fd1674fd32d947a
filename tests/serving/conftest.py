"""One well-behaved upstream, one small router."""

import pytest
from mock_upstream import MockUpstream
from running_gateway import running, small_router, tables


@pytest.fixture
def mock():
    found = MockUpstream()
    yield found
    found.stop()


@pytest.fixture(scope="session")
def router_folder(tmp_path_factory):
    return small_router(tmp_path_factory.mktemp("router"))


@pytest.fixture
def served(mock, router_folder, tmp_path):
    """(base URL, gateway, mock) without keys and budgets."""
    with running({"upstreams": tables(mock.url)}, router_folder, path=tmp_path) as (base, gateway):
        yield base, gateway, mock
