"""What tests of several folders share: one real API server per run, made when first asked for."""

import os
from collections.abc import Iterator

# Before torch is imported: workers share the processors, and a training process with a thread on
# each of them waits at every barrier for those that others hold: 17 seconds became 377.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from .cluster.apiserver import serving


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep what shares a cluster or an API server in one worker, so that each is made once.

    At collection: pytest-xdist reads the groups in a `pytest_collection_modifyitems` of its own,
    which runs before one that stands here.
    """
    for shared in ("e2e", "apiserver"):
        if item.get_closest_marker(shared):
            item.add_marker(pytest.mark.xdist_group(shared))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole curricula first: they take longest, and beside them there is work for other workers."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Path of an administrator's kubeconfig of an API server that serves our kinds and jobs."""
    with serving(tmp_path_factory.mktemp("apiserver")) as server:
        yield str(server.kubeconfig("admin", "system:masters"))
