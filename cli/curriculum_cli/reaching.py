"""Reaching the cluster that the user's configuration names, and saying why that fails."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from kubernetes.aio.config.config_exception import ConfigException

from curriculum_operator import cluster
from curriculum_operator.cluster import Cluster

Connect = Callable[[], Awaitable[AbstractAsyncContextManager[Cluster]]]
"""How a cluster is reached; tests reach their own."""


@asynccontextmanager
async def reached(connect: Connect) -> AsyncIterator[Cluster]:
    """The cluster.

    Raises:
        ValueError: in one line, there is none, or it does not answer.
    """
    try:
        async with await connect() as there:
            yield there
    except ConfigException as error:
        raise ValueError(f"no cluster is configured: {_line(error)}: set KUBECONFIG") from error
    except cluster.ClusterError as error:
        raise ValueError(f"the cluster does not answer: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
