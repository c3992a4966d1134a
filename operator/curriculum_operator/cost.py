"""Rented money: GPU-seconds from claim to end, at the pool's price. Owned nodes rent nothing.

Money is decimal throughout: binary fractions do not add up to cents.
"""

from datetime import datetime
from decimal import Decimal

from curriculum_api.v1alpha1.curriculum import Phase
from curriculum_api.v1alpha1.status import PhaseStatus
from curriculum_operator import observe

SECONDS_PER_HOUR = 3600


def gpu_seconds(
    observed: observe.Observed, phase: Phase, status: PhaseStatus, now: datetime
) -> int:
    """GPU-seconds that the live attempt has held: its nodes, whole, since its claim.

    A rented node is paid for as a whole, whatever share of its accelerators a phase uses. One that
    waits in a queue is pinned to no nodes, and holds none before it is formed.
    """
    since = status.claim_time if status.nodes else status.formed_time
    if since is None:
        return 0
    held = (now - datetime.fromisoformat(since)).total_seconds()
    return max(0, round(held)) * phase.nodes * _gpus(observed, phase, status)


def _gpus(observed: observe.Observed, phase: Phase, status: PhaseStatus) -> int:
    kind = observed.world.classes.get(phase.accelerator_class)
    if kind is not None:
        return kind.spec.gpus_per_node
    # The class was deleted meanwhile: what the job itself asked for is the least that is owed.
    job = observed.job(phase.name, status.attempts)
    return job.gpus_per_node if job else phase.gpus_per_node or 0


def usd(observed: observe.Observed, phase: Phase, seconds: int) -> Decimal:
    """US dollars for GPU-seconds of a phase: nothing where its nodes are owned."""
    pool = observed.world.pools.get(phase.pool) if phase.pool else None
    if pool is None:
        return Decimal(0)
    return Decimal(pool.spec.price_per_gpu_hour) * seconds / SECONDS_PER_HOUR


def add(total: str, more: Decimal) -> str:
    """A sum of money as the API carries it, to a hundredth of a cent."""
    return f"{(Decimal(total) + more):.4f}"
