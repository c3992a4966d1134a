"""What one training process does by itself: products, attention, blocks, updates, memory.

Every figure is a median after a first try that is thrown away. Shapes are those of a training
step: a product stands for the three of a layer, forward and for both gradients.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from curriculum_api.calibration import HEAD_WIDTH, block_shape
from curriculum_api.calibration_figures import Attention, Held, Loss, Product, Trial, Update
from curriculum_api.run import PhaseRun, RunOptimizer
from curriculum_api.wire import OptimizerName, Precision, Strategy, Wire
from curriculum_trainer import machine, memory, sequence_parallel, sharding
from curriculum_trainer.model import TokenScores
from curriculum_trainer.precision import FP8_FROM, Device
from curriculum_trainer.tiling import Head
from curriculum_trainer.weights import Take

ATTENTION_OPERATIONS = 7.0
"""Of causal attention, forward and backward, by token, width and attended token: 2 and 2.5 times
2 (see `curriculum_api.estimate.flops`)."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large and how long the probe's trials are."""

    seconds: float = 0.4
    """Of one figure in one round."""

    rounds: int = 3
    """Of all figures, one after the other."""

    tokens: int = 1024
    widths: tuple[int, ...] = (128, 256, 512, 1024)
    attention_tokens: tuple[int, ...] = (256, 2048)
    blocks: tuple[tuple[int, int], ...] = ((128, 128), (128, 2048), (256, 128), (256, 1024))
    """Width and tokens, in documents of `document` tokens: attention takes little of them."""

    document: int = 128
    loss: tuple[int, int, int] = (128, 16384, 1024)
    """Width, vocabulary and tokens: 64 MiB of logits."""

    held: tuple[int, int, int] = (256, 6, 1024)
    """Width, blocks and tokens of the model whose memory is held against its tensors."""

    update_width: int = 512
    side: int = 8192
    """Of the square product on a GPU."""

    copy_bytes: int = 1 << 26
    collective_bytes: int = 1 << 25
    step: tuple[int, int, int] = (384, 1, 3)
    """Width of a model that is sharded, and its blocks: fewer and more."""

    file_bytes: int = 1 << 28


def middle(rounds: Sequence[Any]) -> Any:
    """The rounds' median, number by number; of what is the fastest try, the fastest."""
    first = rounds[0]
    if isinstance(first, float):
        return statistics.median(rounds)
    if isinstance(first, tuple):
        return tuple(middle(column) for column in zip(*rounds, strict=True))
    if isinstance(first, dict):
        return {
            name: (max if name.startswith("fastest") else middle)([each[name] for each in rounds])
            for name in first
        }
    if isinstance(first, Wire):
        numbers = middle([dict(each) for each in rounds])
        return first.model_copy(update=numbers)
    return first


def products(device: Device, sizes: Sizes) -> Iterator[Product]:
    """Matrix products in the formats that the device multiplies."""
    if device.kind == "cuda":
        yield from _products_on_a_gpu(device, sizes)
        return
    for width in sizes.widths:
        yield _product(Precision.FP32, torch.float32, width, device, sizes)
    # emulated on most processors, and as slow at every width
    for width in sizes.widths[:2]:
        yield _product(Precision.BF16, torch.bfloat16, width, device, sizes)


def attention(device: Device, sizes: Sizes) -> Iterator[Attention]:
    """Fused causal attention by format and length."""
    for length in sizes.attention_tokens:
        yield _attention(Precision.FP32, torch.float32, length, device, sizes)
    lengths = sizes.attention_tokens if device.kind == "cuda" else sizes.attention_tokens[:1]
    for length in lengths:
        yield _attention(Precision.BF16, torch.bfloat16, length, device, sizes)


def trials(device: Device, sizes: Sizes) -> Iterator[Trial]:
    """Blocks of a model, forward and backward: what three take beyond one, halved."""
    for hidden, tokens in sizes.blocks:
        intermediate = 8 * hidden // 3
        taken = [
            _decoder_seconds(hidden, intermediate, layers, tokens, device, sizes)
            for layers in (1, 3)
        ]
        yield Trial(
            hidden=hidden,
            intermediate=intermediate,
            tokens=tokens,
            document=min(tokens, sizes.document),
            seconds=max(1e-9, (taken[1] - taken[0]) / 2),
        )


def loss(device: Device, sizes: Sizes) -> Loss:
    """An output matrix and its loss, untiled."""
    width, vocab, tokens = sizes.loss
    head = Head(torch.nn.Linear(width, vocab, bias=False).to(device.name), tokens=tokens)
    given = torch.randn(1, tokens, width, device=device.name, requires_grad=True)
    targets = torch.randint(vocab, (1, tokens), device=device.name)

    def work() -> None:
        head(given, targets).sum().backward()

    median, _ = seconds(work, device, sizes.seconds)
    return Loss(width=width, vocab=vocab, tokens=tokens, seconds=median)


def held(device: Device, sizes: Sizes, run: PhaseRun) -> tuple[int, int, Held | None]:
    """What a process holds before its model, what DeepSpeed takes besides, and what a process comes
    to hold with a small model.

    Before: after a step of next to nothing, so that libraries are loaded and threads are started.
    On a GPU the framework itself counts what it cannot use, so nothing is trained.
    """
    _steps(small_model(HEAD_WIDTH, HEAD_WIDTH, 1, 256, device), run, 8, 1, device)
    if device.kind == "cuda":
        free, total = torch.cuda.mem_get_info(device.index)
        return int(total - free - torch.cuda.memory_reserved(device.index)), 0, None
    alone = machine.resident_bytes()
    sharded = run.model_copy(update={"strategy": Strategy.ZERO1})
    _steps(small_model(HEAD_WIDTH, HEAD_WIDTH, 1, 256, device), sharded, 8, 1, device)
    before = machine.resident_bytes()
    hidden, layers, tokens = sizes.held
    vocab = hidden * 8
    scores = small_model(hidden, 8 * hidden // 3, layers, vocab, device)
    _steps(scores, run, tokens, 3, device)
    peak = machine.peak_resident_bytes()
    return (
        alone,
        max(0, before - alone),
        Held(
            hidden=hidden,
            intermediate=8 * hidden // 3,
            layers=layers,
            vocab=vocab,
            tokens=tokens,
            grown_bytes=peak - before,
        ),
    )


def updates(device: Device, sizes: Sizes, run: PhaseRun) -> Iterator[Update]:
    """Parameters a second of each optimizer, with the norm and the clipping before it."""
    for name in OptimizerName:
        asked = run.model_copy(update={"optimizer": RunOptimizer(name=name, learning_rate=1e-4)})
        scores = small_model(sizes.update_width, 8 * sizes.update_width // 3, 1, 256, device)
        made = sharding.shard(scores, asked, device=device, passes=1, fill=as_drawn)
        count = sum(parameter.numel() for parameter in scores.parameters())
        taken: list[float] = []
        deadline = time.perf_counter() + 2 * sizes.seconds
        while len(taken) < 2 or time.perf_counter() < deadline:
            # not the last pass: ranks stop by their own clocks, so none may wait for another here
            made.backward(made.scores(*row(256, 8, device), last=False).sum())
            wait(device)
            began = time.perf_counter()
            made.norm()
            made.step(1e-4)
            wait(device)
            taken.append(time.perf_counter() - began)
        yield Update(optimizer=name, rate=count / statistics.median(taken[1:]))


def copying(device: Device, sizes: Sizes) -> tuple[float, float]:
    """Bytes a second that copying reads and writes: the median, and the fastest try."""
    source = torch.ones(sizes.copy_bytes // 4, device=device.name)
    target = torch.empty_like(source)
    median, fastest = seconds(lambda: target.copy_(source), device, sizes.seconds)
    return 2 * sizes.copy_bytes / median, 2 * sizes.copy_bytes / fastest


def storage(folder: Path, sizes: Sizes) -> float:
    """Bytes a second that reach the disk."""
    block, path = os.urandom(1 << 22), folder / "written"
    began = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(max(1, sizes.file_bytes // len(block))):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    taken = time.perf_counter() - began
    written = path.stat().st_size
    path.unlink()
    return written / taken


def seconds(work: Callable[[], object], device: Device, budget: float) -> tuple[float, float]:
    """Median and least seconds of tries for as long as `budget`.

    The first try counts only where it alone is longer: a format that the processor has to
    emulate takes seconds.
    """
    taken: list[float] = []
    deadline = time.perf_counter() + budget
    while len(taken) < 2 or time.perf_counter() < deadline:
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - began)
        if taken[0] > budget:
            break
    tries = taken[1:] or taken
    return statistics.median(tries), min(tries)


def _steps(scores: Any, run: PhaseRun, tokens: int, count: int, device: Device) -> None:
    made = sharding.shard(scores, run, device=device, passes=1, fill=as_drawn)
    vocab = scores.decoder.config.vocab_size
    for _ in range(count):
        made.backward(made.scores(*row(vocab, tokens, device)).sum())
        made.norm()
        made.step(1e-4)


def _attention(
    precision: Precision, dtype: torch.dtype, length: int, device: Device, sizes: Sizes
) -> Attention:
    heads = 4
    shape = (1, heads, length, HEAD_WIDTH)
    query, key, value = (
        torch.randn(shape, device=device.name, dtype=dtype, requires_grad=True) for _ in range(3)
    )
    upstream = torch.randn(shape, device=device.name, dtype=dtype)

    def work() -> None:
        functional.scaled_dot_product_attention(query, key, value, is_causal=True).backward(
            upstream
        )

    median, _ = seconds(work, device, sizes.seconds)
    operations = ATTENTION_OPERATIONS * heads * HEAD_WIDTH * length * length
    return Attention(precision=precision, length=length, rate=operations / median)


def _product(
    precision: Precision, dtype: torch.dtype, width: int, device: Device, sizes: Sizes
) -> Product:
    wide = 8 * width // 3
    given = torch.randn(sizes.tokens, width, device=device.name).to(dtype)
    weight = torch.randn(wide, width, device=device.name).to(dtype)
    upstream = torch.randn(sizes.tokens, wide, device=device.name).to(dtype)

    def work() -> None:
        functional.linear(given, weight)
        upstream @ weight
        upstream.t() @ given

    operations = 6.0 * sizes.tokens * width * wide
    median, fastest = seconds(work, device, sizes.seconds)
    return Product(
        precision=precision, width=width, rate=operations / median, fastest=operations / fastest
    )


def _products_on_a_gpu(device: Device, sizes: Sizes) -> Iterator[Product]:
    side = sizes.side
    one, other = (torch.randn(side, side, device=device.name) for _ in range(2))

    def rate(precision: Precision, work: Callable[[], object]) -> Product:
        median, fastest = seconds(work, device, sizes.seconds)
        operations = 2.0 * side**3
        return Product(
            precision=precision, width=side, rate=operations / median, fastest=operations / fastest
        )

    yield rate(Precision.FP32, lambda: one @ other)
    low, lower = one.bfloat16(), other.bfloat16()
    yield rate(Precision.BF16, lambda: low @ lower)
    if device.capability is not None and device.capability >= FP8_FROM:
        eight, columns = (x.to(torch.float8_e4m3fn) for x in (one, other))
        scale = torch.ones((), device=device.name)
        # the second operand lies by columns, as the kernel wants it
        yield rate(
            Precision.FP8,
            lambda: torch._scaled_mm(eight, columns.t(), scale, scale, out_dtype=torch.bfloat16),
        )


def _decoder_seconds(
    hidden: int, intermediate: int, layers: int, tokens: int, device: Device, sizes: Sizes
) -> float:
    scores = small_model(hidden, intermediate, layers, 256, device)
    given = row(256, tokens, device, document=sizes.document)

    def work() -> None:
        scores(*given).sum().backward()

    median, _ = seconds(work, device, sizes.seconds)
    return median


def as_drawn(_take: Take) -> None:
    """Weights that a model has already."""


def small_model(hidden: int, intermediate: int, layers: int, vocab: int, device: Device) -> Any:
    """A `TokenScores` of a few blocks in FP32, as drawn, nothing of it computed again."""
    shape = block_shape(hidden, intermediate, layers, vocab)
    sequence_parallel.register(None)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    decoder = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=sequence_parallel.NAME
    )
    assert len(list(memory.blocks(decoder))) == layers
    made = TokenScores(
        decoder, precision=Precision.FP32, device_type=device.kind, tile_tokens=1 << 30
    )
    return made.to(device.name)


def row(vocab: int, tokens: int, device: Device, *, document: int | None = None) -> tuple[Any, ...]:
    """One row, of one document or of several that are alike."""
    length = min(tokens, document or tokens)
    row = torch.randint(vocab, (1, tokens), device=device.name)
    positions = torch.arange(length, device=device.name).repeat(tokens // length)[None]
    return row, positions, row, ((length,) * (tokens // length),)


def wait(device: Device) -> None:
    """Until the device has done what it was given."""
    if device.kind == "cuda":
        torch.cuda.synchronize(device.index)
