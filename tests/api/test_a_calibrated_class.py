"""What a probe measures becomes a class, and the class's figures decide the plan."""

from dataclasses import replace
from typing import Any

import pytest

from curriculum_api import calibration, crd
from curriculum_api.calibration import block_shape
from curriculum_api.calibration_figures import Figures
from curriculum_api.estimate import flops, hardware, memory, recipe, throughput
from curriculum_api.estimate.hardware import GIB, Hardware, Room
from curriculum_api.estimate.layout import Layout
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClass
from curriculum_api.wire import OptimizerName, Precision, Strategy

from .verdict import verdict

FP32 = Precision.FP32
BEST, HALF, RATE, BLOCK, LOGIT, KEPT = 120e9, 40.0, 8e9, 2e-3, 30e-9, 0.5
ATTENTION, LENGTH = 50e9, 400.0
UPDATED, SHARDED, GATHERING = 2e8, 6e-9, 9e-3
ALL_REDUCE, REDUCE, SCATTER, GATHER = 1.5e9, 0.7e9, 0.4e9, 2e9
"""A made-up processor: products, memory, a block's own time, a logit's; what the allocator keeps;
attention and the length at which it reaches half of it; parameters updated, and what a sharded one
and a gathered block take besides; what is sent among two processes."""


def figures(**changes: Any) -> Figures:
    """What a probe of that processor would find."""
    rates = {width: BEST * width / (width + HALF) for width in (64, 128, 256, 512, 1024)}
    values: dict[str, Any] = {
        "device": "cpu",
        "device_name": "CPU",
        "processes": 2,
        "threads": 1,
        "products": [
            {"precision": "FP32", "width": width, "rate": rate, "fastest": 1.05 * rate}
            for width, rate in rates.items()
        ],
        "attention": [
            {"precision": "FP32", "length": n, "rate": ATTENTION * n / (n + LENGTH)}
            for n in (256, 2048)
        ],
        "trials": [trial(128, 128), trial(128, 1024), trial(256, 128), trial(256, 2048)],
        "loss": loss(128, 4096, 512),
        "held": held(),
        "copied": 12e9,
        "fastest_copy": 14e9,
        "updates": [{"optimizer": "AdamW", "rate": UPDATED}],
        "steps": tried_steps(),
        "link": ALL_REDUCE,
        "reduce": REDUCE,
        "scatter": SCATTER,
        "gather": GATHER,
        "latency_seconds": 1e-4,
        "storage": 4e8,
        "process_bytes": 700 << 20,
        "memory_bytes": 10 << 30,
    }
    return Figures.model_validate(values | changes)


def trial(hidden: int, tokens: int) -> dict[str, Any]:
    """A block's seconds on that processor."""
    intermediate = 8 * hidden // 3
    shape = block_shape(hidden, intermediate, vocab=0)
    layout = Layout(1, 1, Strategy.DDP, context=tokens)
    work = flops.of(shape, layout, length=128)
    moved = throughput.elementwise_bytes(
        shape, recipe.of_phase(FP32, OptimizerName.ADAMW, Strategy.DDP), layout, FP32
    )
    product = BEST * hidden / (hidden + HALF)
    attention = ATTENTION * 128 / (128 + LENGTH)
    each = work.blocks / product + work.attention / attention + moved / RATE
    return {
        "hidden": hidden, "intermediate": intermediate, "tokens": tokens,
        "document": 128, "seconds": tokens * each + BLOCK,
    }  # fmt: skip


def loss(width: int, vocab: int, tokens: int) -> dict[str, Any]:
    """An output matrix's seconds on that processor."""
    product = BEST * width / (width + HALF)
    each = 6 * width / product + LOGIT
    return {"width": width, "vocab": vocab, "tokens": tokens, "seconds": tokens * vocab * each}


def step(strategy: str, layers: int) -> dict[str, Any]:
    """A small model's whole step on that processor, two processes sharing the work."""
    count = block_shape(384, 1024, layers, vocab=256).parameters
    sent, own = 4 * count / 2, count / 2
    sharded = own * (1 / UPDATED + SHARDED) + sent / GATHER
    taken = 7e-3 + layers * 5e-3
    taken += {
        "DDP": count / UPDATED,
        "ZeRO1": sharded + sent / REDUCE,
        # a small model's weights are gathered once for both passes
        "ZeRO3": sharded + sent / SCATTER + layers * GATHERING,
    }[strategy]
    return {
        "strategy": strategy, "hidden": 384, "intermediate": 1024, "layers": layers, "vocab": 256,
        "seconds": taken,
    }  # fmt: skip


def tried_steps() -> list[dict[str, Any]]:
    """As the probe tries them."""
    few, many = 1, 3
    tried = [("DDP", few), ("DDP", many), ("ZeRO1", many), ("ZeRO3", few), ("ZeRO3", many)]
    return [step(strategy, layers) for strategy, layers in tried]


def held() -> dict[str, Any]:
    """What a process grows by on that machine: 16 bytes a parameter, and what comes and goes."""
    shape = block_shape(256, 682, 6, vocab=2048)
    layout = Layout(1, 1, Strategy.DDP, context=1024)
    bytes_each = recipe.of_phase(FP32, OptimizerName.ADAMW, Strategy.DDP)
    found = memory.of(shape, bytes_each, layout, Room(0.0, False, 0.0, process=0.0))
    grown = 16 * shape.parameters + (1 + KEPT) * found.passing
    return {
        "hidden": 256, "intermediate": 682, "layers": 6, "vocab": 2048, "tokens": 1024,
        "grown_bytes": round(grown),
    }  # fmt: skip


def made(**changes: Any) -> AcceleratorClass:
    """The class that follows."""
    return calibration.accelerator_class(
        figures(**changes), name="cpu", host="laptop", architecture="x86_64", date="2026-01-31"
    )


def machine(**changes: Any) -> Hardware:
    """Its numbers."""
    return hardware.of_class("cpu", made(**changes).spec)


def test_a_curve_is_found_again_from_its_points() -> None:
    best, half = calibration.saturation([(w, BEST * w / (w + HALF)) for w in (64, 256, 1024)])

    assert best == pytest.approx(BEST)
    assert half == pytest.approx(HALF)


def test_rates_that_do_not_grow_have_no_half_width() -> None:
    assert calibration.saturation([(64, 5.0), (256, 4.0)]) == (5.0, 0.0)


def test_a_blocks_own_time_is_told_from_its_memory() -> None:
    rate, block = calibration.elementwise(figures())

    assert rate == pytest.approx(RATE, rel=1e-6)
    assert block == pytest.approx(BLOCK, rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 3.0])
def test_noise_never_makes_a_rate_or_a_time_negative(share: float) -> None:
    """Short trials that took more than long ones, and blocks faster than their own products."""
    trials = [trial(128, 128), trial(128, 1024), trial(256, 128), trial(256, 2048)]
    for one in trials[1::2]:
        one["seconds"] *= share
    trials[0]["seconds"] = max(1e-9, trials[0]["seconds"] * (1 - share))
    for one in trials:
        one["seconds"] = max(1e-9, one["seconds"])
    rate, block = calibration.elementwise(figures(trials=trials))

    assert rate > 0
    assert block >= 0
    assert made(trials=trials).spec.performance is not None


def test_what_the_allocator_keeps_is_told_from_tensors() -> None:
    found = figures().held
    assert found is not None

    assert calibration.fragmentation(found) == pytest.approx(KEPT, rel=1e-3)


def test_a_logit_is_told_from_its_product() -> None:
    assert calibration.logit_seconds(figures()) == pytest.approx(LOGIT, rel=1e-6)


def test_what_sharding_takes_besides_is_told_from_what_is_sent_and_updated() -> None:
    assert calibration.sharding_seconds(figures()) == pytest.approx((SHARDED, GATHERING))


def test_sharding_that_seems_to_save_time_takes_nothing_besides() -> None:
    """Noise: a sharded step that was faster than its parts."""
    quick = tried_steps()
    for one in quick[2:]:
        one["seconds"] = 1e-3

    assert calibration.sharding_seconds(figures(steps=quick)) == (0.0, 0.0)
    assert hardware.of_class("cpu", made(steps=quick).spec).sharded_update == 0.0


def test_the_class_matches_this_node_alone_and_names_its_source() -> None:
    spec = made().spec
    assert spec.performance is not None

    assert [rule.labels for rule in spec.match] == [{"kubernetes.io/hostname": "laptop"}]
    assert spec.cpu_architecture == "amd64"
    source = "measured by curriculum doctor --calibrate on 2026-01-31"
    assert all(rate.source.startswith(source) for rate in spec.performance.matmul)


def test_a_gpus_class_matches_its_capability_and_keeps_what_gpus_have_in_common() -> None:
    gpu = made(
        device="cuda", capability="12.1", trials=[], loss=None, held=None, steps=[],
        products=[{"precision": "BF16", "width": 8192, "rate": 9e13, "fastest": 9.2e13}],
    )  # fmt: skip
    found = hardware.of_class("gpu", gpu.spec)

    assert [rule.compute_capability for rule in gpu.spec.match] == ["12.1"]
    assert (found.block, found.gathering, found.sharded_update) == (0.0, 0.0, 0.0)
    assert found.half_width == {}
    assert found.bandwidth.measured == 12e9


def test_the_document_is_read_back_the_same() -> None:
    one = made()

    assert AcceleratorClass.model_validate(one.model_dump(mode="json", by_alias=True)) == one


def test_the_crd_takes_it() -> None:
    document = made().model_dump(mode="json", by_alias=True, exclude_none=True)
    definition = crd.definition(AcceleratorClass, AcceleratorClass.resource)

    assert verdict(definition, document) == []


def seconds(hardware_: Hardware, **changes: Any) -> throughput.Seconds:
    """A step of two small blocks."""
    shape = block_shape(256, 682, 2, vocab=1000)
    layout = replace(Layout(1, 1, Strategy.DDP, context=512), **changes)
    bytes_each = recipe.of_phase(FP32, OptimizerName.ADAMW, layout.strategy)
    return throughput.of(shape, bytes_each, layout, hardware_, precision=FP32, length=512).seconds


def test_each_measured_figure_decides_its_part_of_a_step() -> None:
    shape = block_shape(256, 682, 2, vocab=1000)
    found = seconds(machine())
    work = flops.of(shape, Layout(1, 1, Strategy.DDP, context=512), length=512)

    product = BEST * 256 / (256 + HALF)
    assert found.products == pytest.approx(512 * (work.blocks + work.head) / product, rel=1e-3)
    attention = ATTENTION * 512 / (512 + LENGTH)
    assert found.attention == pytest.approx(512 * work.attention / attention, rel=1e-3)
    moved = throughput.elementwise_bytes(
        block_shape(256, 682, 2, vocab=0), recipe.of_phase(FP32, OptimizerName.ADAMW, Strategy.DDP),
        Layout(1, 1, Strategy.DDP, context=512), FP32,
    )  # fmt: skip
    assert found.elementwise == pytest.approx(512 * (moved / RATE + 1000 * LOGIT), rel=1e-3)
    assert found.starting == pytest.approx(3 * BLOCK, rel=1e-3)
    assert found.optimizer == pytest.approx(shape.parameters / UPDATED, rel=1e-3)


def test_sharding_among_processes_goes_by_what_was_measured_of_it() -> None:
    count = block_shape(256, 682, 2, vocab=1000).parameters
    one, three = (
        seconds(machine(), gpus_per_node=2, strategy=strategy)
        for strategy in (Strategy.ZERO1, Strategy.ZERO3)
    )

    for found, reduction in ((one, REDUCE), (three, SCATTER)):
        assert found.optimizer == pytest.approx(count / 2 * (1 / UPDATED + SHARDED), rel=1e-3)
        sent = 4 * count / 2 * (1 / reduction + 1 / GATHER)
        assert found.communication == pytest.approx(throughput.EXPOSED * sent, rel=1e-3)
    assert three.starting - one.starting == pytest.approx(3 * GATHERING, rel=1e-3)


def test_an_all_reduce_goes_by_its_own_rate() -> None:
    count = block_shape(256, 682, 2, vocab=1000).parameters
    found = seconds(machine(), gpus_per_node=2)

    assert found.communication == pytest.approx(throughput.EXPOSED * 4 * count / ALL_REDUCE, 1e-3)


def test_a_tiled_loss_makes_its_logits_twice() -> None:
    whole, tiled = seconds(machine()), seconds(machine(), tile_tokens=256)

    assert tiled.elementwise - whole.elementwise == pytest.approx(512 * 1000 * LOGIT / 3, rel=1e-3)


def test_passes_start_their_operations_each() -> None:
    assert seconds(machine(), passes=4).starting == pytest.approx(4 * seconds(machine()).starting)


def test_an_optimizer_that_was_not_measured_goes_by_its_bytes() -> None:
    unknown = seconds(machine(updates=[], steps=[]))
    shape = block_shape(256, 682, 2, vocab=1000)

    # gradients, weights and moments, each read and written
    assert unknown.optimizer == pytest.approx(shape.parameters * 2 * 16 / RATE, rel=1e-3)


def test_a_measured_process_stands_for_everything_beside_the_model() -> None:
    """`memoryGiB` is what was left then: no system, page cache or shared memory on top."""
    shape = block_shape(256, 682, 2, vocab=1000)
    bytes_each = recipe.of_phase(FP32, OptimizerName.ADAMW, Strategy.DDP)
    found = memory.of(shape, bytes_each, Layout(1, 1, Strategy.DDP, context=512), machine())

    assert found.host == 0.0
    assert found.framework == pytest.approx((700 << 20) + KEPT * found.passing, rel=1e-3)
    assert machine().memory == 10 * GIB


def test_gradients_of_several_passes_are_summed_apart_under_ddp() -> None:
    shape = block_shape(256, 682, 2, vocab=1000)
    bytes_each = recipe.of_phase(FP32, OptimizerName.ADAMW, Strategy.DDP)
    one = Layout(1, 1, Strategy.DDP, context=512)
    more = replace(one, passes=2)

    once, twice = (
        memory.of(shape, bytes_each, layout, machine()).buffers for layout in (one, more)
    )
    assert (once, twice) == (0.0, 4 * shape.parameters)
