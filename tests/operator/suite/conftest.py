"""Fixtures of the suite: where a play runs."""

import pytest

from .backends import Backend, Memory
from .server import Server


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """The backend that a scenario is marked with."""
    if request.param == "memory":
        return Memory()
    return Server(request.getfixturevalue("apiserver"))
