"""What `curriculum doctor --calibrate` measures: the trainer's probe prints `Figures` as JSON.

Rates are those of one process while all of them work, so that what processes share is shared here
as well.
"""

from typing import Literal

from curriculum_api.wire import OptimizerName, Precision, Strategy, Wire


class Product(Wire):
    """A matrix product: operations a second at one inner width."""

    precision: Precision
    width: int
    rate: float
    fastest: float
    """Of any single try."""


class Attention(Wire):
    """Fused causal attention, forward and backward: operations a second at one length."""

    precision: Precision
    length: int
    rate: float


class Trial(Wire):
    """Seconds of one block of a model, forward and backward."""

    hidden: int
    intermediate: int
    tokens: int
    document: int
    """Tokens of each of their documents."""

    seconds: float


class Loss(Wire):
    """Seconds of an output matrix and its loss, forward and backward."""

    width: int
    vocab: int
    tokens: int
    seconds: float


class Held(Wire):
    """What a process came to hold for a small model and three steps of it."""

    hidden: int
    intermediate: int
    layers: int
    vocab: int
    tokens: int
    grown_bytes: int


class Update(Wire):
    """Parameters a second that an optimizer measures, clips and updates."""

    optimizer: OptimizerName
    rate: float


class Step(Wire):
    """Seconds of a whole step of a small model over a few tokens, which its states decide."""

    strategy: Strategy
    """DDP's without an all-reduce."""

    hidden: int
    intermediate: int
    layers: int
    vocab: int
    seconds: float


class Figures(Wire):
    """What one process of this machine does while all of them work."""

    device: Literal["cpu", "cuda"]
    device_name: str
    capability: str | None = None
    processes: int
    """On this machine, as many as trained at once."""

    threads: int
    """Of one process."""

    products: tuple[Product, ...]
    attention: tuple[Attention, ...]
    trials: tuple[Trial, ...] = ()
    """In FP32, on a CPU; where a device works by itself they would say nothing of a single part."""

    loss: Loss | None = None
    """In FP32, on a CPU."""

    copied: float
    """Bytes a second that copying reads and writes."""

    fastest_copy: float
    updates: tuple[Update, ...]
    steps: tuple[Step, ...] = ()
    """In FP32 with AdamW, on a CPU: each strategy's that differs, of one block and of more."""

    link: float | None = None
    """Bytes a second of an all-reduce among the processes, as `estimate.communication` counts
    them."""

    reduce: float | None = None
    """Of reductions of each process's part to it."""

    scatter: float | None = None

    gather: float | None = None

    latency_seconds: float | None = None
    """Of the smallest all-reduce."""

    storage: float
    """Bytes a second to where checkpoints lie."""

    process_bytes: int
    """Of a training process before its model."""

    engine_bytes: int = 0
    """What DeepSpeed's engine takes besides."""

    held: Held | None = None
    """In FP32 under DDP, on a CPU."""

    memory_bytes: int
    """That one process can have."""
