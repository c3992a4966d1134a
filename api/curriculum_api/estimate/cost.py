"""Energy and money: what owned nodes cost to run, what rented ones are billed.

US dollars, kWh, hours. An owned node costs its price over the hours of its life that it works, and
its electricity; a rented one is billed whole, from when it is asked for, for a least time.
"""

from dataclasses import dataclass

from curriculum_api.estimate.hardware import Hardware, Ownership
from curriculum_api.v1alpha1.rented_pool import RentedPoolSpec

HOURS_PER_MONTH = 730.0
"""365 days of 24 hours over 12."""


@dataclass(frozen=True, slots=True)
class Rent:
    """A pool's terms: dollars an accelerator and hour, seconds."""

    price: float
    lead_seconds: float = 0.0
    minimum_seconds: float = 0.0


def rent_of(pool: RentedPoolSpec) -> Rent:
    """A pool's terms."""
    return Rent(
        price=float(pool.price_per_gpu_hour),
        lead_seconds=float(pool.lead_time_seconds),
        minimum_seconds=float(pool.minimum_seconds),
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars of a phase by what they are for; `total` is their sum."""

    hardware: float = 0.0
    electricity: float = 0.0
    rent: float = 0.0
    idle: float = 0.0
    """Of a rented node: waiting for the others, and what is left of the least time."""

    @property
    def total(self) -> float:
        """Dollars of everything."""
        return self.hardware + self.electricity + self.rent + self.idle


def energy(hardware: Hardware, *, nodes: int, hours: float) -> float:
    """kWh from the wall under load."""
    return hardware.load_watts * nodes * hours / 1000


def owned(hardware: Hardware, *, nodes: int, hours: float) -> Cost | None:
    """Nodes that were bought; None where the class does not tell what they cost."""
    terms = hardware.ownership
    if terms is None:
        return None
    return Cost(
        hardware=hourly_price(terms) * nodes * hours,
        electricity=energy(hardware, nodes=nodes, hours=hours) * terms.kwh_price,
    )


def hourly_price(terms: Ownership) -> float:
    """Dollars of one node for each hour that it works, without electricity."""
    if not 0 < terms.utilization <= 1:
        raise ValueError(
            f"ownership.utilization must be above 0 and at most 1, not {terms.utilization:g}"
        )
    return terms.price / (terms.months * HOURS_PER_MONTH * terms.utilization)


def rented(hardware: Hardware, rent: Rent, *, nodes: int, hours: float) -> Cost:
    """Nodes of a pool, whole ones whatever share of them a phase uses.

    While the last node comes up, those before it are paid for: half the lead time each, on
    average, and nothing for a single node.
    """
    gpus = nodes * hardware.gpus_per_node
    waiting = rent.lead_seconds / 3600 / 2 if nodes > 1 else 0.0
    left = max(0.0, rent.minimum_seconds / 3600 - hours - waiting)
    return Cost(rent=rent.price * gpus * hours, idle=rent.price * gpus * (waiting + left))


def breakeven_months(*, bought: float, owned_monthly: float, cloud_monthly: float) -> float | None:
    """Months after which buying has cost less than renting all; None where it never does.

    `owned_monthly` is what owning costs each month beside the price: electricity, and what is
    still rented.
    """
    saved = cloud_monthly - owned_monthly
    return bought / saved if saved > 0 else None
