"""What a cluster offers to a plan: its classes, what training on them has shown, and its pools.

Imported only where a cluster is asked for: the API client takes longer to load than a plan to make.
"""

import asyncio
from dataclasses import replace

from curriculum_cli.plan_files import Given
from curriculum_cli.reaching import Connect, reached
from curriculum_operator import cluster, kinds, project
from curriculum_operator.cluster import Cluster, Raw


def of(given: Given, connect: Connect = cluster.connect) -> Given:
    """The curricula of the files, on the classes and pools of the cluster.

    Raises:
        ValueError: there is no cluster, it does not answer, or it does not show them.
    """
    return asyncio.run(_of(given, connect))


async def _of(given: Given, connect: Connect) -> Given:
    async with reached(connect) as there:
        found = [project.accelerator_class(raw) for raw in await _all(there, kinds.CLASSES)]
        pools = [project.rented_pool(raw) for raw in await _all(there, kinds.POOLS)]
    return replace(
        given,
        classes={one.name: one.spec for one in found},
        pools={pool.name: pool.spec for pool in pools},
        measurements={one.name: one.measurements for one in found},
    )


async def _all(there: Cluster, kind: kinds.Kind) -> list[Raw]:
    try:
        items, _ = await there.list(kind)
    except cluster.NotFound as error:
        raise ValueError(f"the cluster serves no {kind.plural}: install the operator") from error
    except cluster.Refused as error:
        raise ValueError(f"the cluster does not list its {kind.plural}: {error.message}") from error
    return items
