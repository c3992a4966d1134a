"""What is measured of a node and of a pair of nodes: the checks, their units, the documents."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from curriculum_api.wire import Count, Precision, Wire


class Check(StrEnum):
    """One thing that is measured. A quarantined node's taint has it for a value."""

    MATMUL = "matmul"
    """A large matrix product, by one accelerator."""

    CLOCK = "clock"
    """The accelerator's, or the processor's, while it multiplies."""

    MEMORY = "memory"
    """What the host can still give, before the model is built."""

    SPEED = "speed"
    """Of the slowest interface that the fabric names, as the kernel shows it."""

    MTU = "mtu"
    """The smallest of the interfaces that the fabric names."""

    ERRORS = "errors"
    """Frames that these interfaces could not take or send while the node was measured."""

    WRITE = "write"
    READ = "read"
    """To and from the checkpoint volume, past the page cache."""

    LOSS = "loss"
    """Segments that a pair had to send again."""

    LINK = "link"
    """What a pair exchanges, each way, both ways at once; by one accelerator."""

    LATENCY = "latency"
    """Of a pair, one way."""

    REDUCE = "reduce"
    """The bus bandwidth of an all-reduce over all nodes; by one accelerator."""


UNITS = {
    Check.MATMUL: "TFLOPS",
    Check.CLOCK: "MHz",
    Check.MEMORY: "GiB",
    Check.SPEED: "Gb/s",
    Check.MTU: "bytes",
    Check.ERRORS: "%",
    Check.WRITE: "GB/s",
    Check.READ: "GB/s",
    Check.LOSS: "%",
    Check.LINK: "GB/s",
    Check.LATENCY: "ms",
    Check.REDUCE: "GB/s",
}

OWN = (
    Check.MATMUL,
    Check.CLOCK,
    Check.MEMORY,
    Check.SPEED,
    Check.MTU,
    Check.ERRORS,
    Check.WRITE,
    Check.READ,
)
"""Of one node alone."""

PAIR = (Check.LOSS, Check.LINK, Check.LATENCY)
"""Of two nodes. What is lost explains a slow link, so it is named first."""

AT_MOST = frozenset({Check.ERRORS, Check.LOSS, Check.LATENCY})
"""The less, the better; the floors of these are ceilings."""

Figures = dict[Check, float]


def measured_as(precision: Precision) -> Precision:
    """The format that a phase's matrix product is measured in.

    The scaled formats are measured in BF16: what slows one, a clock or a neighbour, slows both,
    and a plain product needs no library that may be missing.
    """
    return Precision.FP32 if precision is Precision.FP32 else Precision.BF16


def digits(value: float) -> str:
    """A figure for people: three digits, or all of them before the point."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def better(check: Check, one: float, other: float) -> float:
    """The better of two figures of one check."""
    return min(one, other) if check in AT_MOST else max(one, other)


def worse(check: Check, one: float, other: float) -> float:
    """The worse of two figures of one check."""
    return max(one, other) if check in AT_MOST else min(one, other)


class RunPreflight(Wire):
    """What a phase's processes measure before the model is built, and what they expect."""

    floors: Figures = {}
    """What is expected, by check; what is not here is not judged but beside its peers."""

    seconds: Count = 120
    """Everything together takes no longer."""

    rounds: Count = 3
    """Rounds of pairs; gangs of four nodes and fewer meet all of their pairs."""


class NodeFigures(Wire):
    """What was measured of one node."""

    node: str
    boot: str = ""
    """The kernel's boot ID: after a reboot nothing of this need hold."""

    figures: Figures = {}


class PairFigures(Wire):
    """What was measured between two nodes. A link of 0 exchanged nothing in its time."""

    nodes: tuple[str, str]
    figures: Figures = {}


class Measured(Wire):
    """Everything that one preflight measured."""

    precision: Precision
    """The format of the matrix product."""

    nodes: tuple[NodeFigures, ...] = ()
    pairs: tuple[PairFigures, ...] = ()
    together: Figures = {}
    """All nodes at once: `reduce` and its latency."""

    seconds: float = 0.0
    """What it took."""


class Suspect(Wire):
    """A node that is worse than it may be."""

    node: str
    check: Check
    value: float
    floor: float
    """What was expected: the class's floor, or half of what the node's peers reach."""

    unit: str
    relative: bool = False
    """Whether `floor` comes from its peers."""

    peer: str | None = None
    """The best of its partners, for a figure of pairs."""


class SlowPair(Wire):
    """Two nodes whose link is worse than it may be, and nothing says whose fault it is."""

    nodes: tuple[str, str]
    check: Check
    value: float
    floor: float
    unit: str


class Findings(Wire):
    """What a preflight found; empty where all is well."""

    suspects: Annotated[tuple[Suspect, ...], Field(max_length=8)] = ()
    pairs: Annotated[tuple[SlowPair, ...], Field(max_length=4)] = ()
    more: int = 0
    """Suspects and pairs that found no place here: a termination message is short."""


class Proof(Wire):
    """What nodes were measured to do by hand, and what follows from it."""

    measured: Measured
    floors: Figures = {}
    """What was expected, by check."""

    findings: Findings = Findings()
    remarks: tuple[str, ...] = ()
    """What is worth a line and no node's fault."""

    fabric: str = ""
    """What joins the processes, by their own account; empty where there is one."""
