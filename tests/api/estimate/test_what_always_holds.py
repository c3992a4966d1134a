"""What holds for every layout, shape and class: sums, monotony, physical limits."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from curriculum_api.estimate import communication, cost, failures, flops, memory, recipe, throughput
from curriculum_api.estimate.cost import Rent
from curriculum_api.estimate.hardware import Hardware
from curriculum_api.estimate.layout import Layout, Recompute
from curriculum_api.estimate.recipe import Recipe
from curriculum_api.estimate.shape import Shape
from curriculum_api.wire import OptimizerName, Precision, Strategy

from .inputs import MACHINES, SHAPES, layouts, machines, precisions, recipes, shapes

FEW = settings(max_examples=200, deadline=None)


@FEW
@given(shapes, recipes(), layouts(), machines)
def test_memory_is_the_sum_of_parts_that_are_never_negative(
    shape: Shape, bytes_each: Recipe, layout: Layout, hardware: Hardware
) -> None:
    found = memory.of(shape, bytes_each, layout, hardware)

    assert found.total == pytest.approx(sum(found.parts().values()))
    assert all(size >= 0 for size in found.parts().values())


@FEW
@given(shapes, recipes(), layouts(), machines, st.integers(1, 8))
def test_more_nodes_never_need_more_memory_of_one_gpu(
    shape: Shape, bytes_each: Recipe, layout: Layout, hardware: Hardware, times: int
) -> None:
    assume(layout.gpus > 1)  # the first neighbour brings the buffers of collectives
    more = replace(layout, nodes=layout.nodes * times)

    before = memory.of(shape, bytes_each, layout, hardware).total
    assert memory.of(shape, bytes_each, more, hardware).total <= before * (1 + 1e-12)


@FEW
@given(shapes, recipes(), layouts(), machines, st.integers(2, 16))
def test_a_longer_context_never_needs_less_memory_or_work(
    shape: Shape, bytes_each: Recipe, layout: Layout, hardware: Hardware, times: int
) -> None:
    longer = replace(layout, context=layout.context * times)

    before = memory.of(shape, bytes_each, layout, hardware).total
    # a head in tiles sums its gradient apart; it first appears where a second tile does
    slack = bytes_each.gradients * shape.embedding if layout.tile_tokens else 0
    assert memory.of(shape, bytes_each, longer, hardware).total >= before - slack
    assert (
        flops.of(shape, longer, length=longer.context).model
        >= flops.of(shape, layout, length=layout.context).model
    )


@FEW
@given(shapes, recipes(), layouts(), machines)
def test_recomputing_never_needs_more_memory_nor_less_work(
    shape: Shape, bytes_each: Recipe, layout: Layout, hardware: Hardware
) -> None:
    kept = replace(layout, recompute=Recompute.NOTHING, offload_activations=False)
    again = replace(kept, recompute=Recompute.EVERYTHING)
    work, more = (flops.of(shape, one, length=one.context) for one in (kept, again))

    assume(shape.layers > 1)
    needed, less = (memory.of(shape, bytes_each, one, hardware).total for one in (kept, again))
    assert less <= needed
    assert more.executed >= work.executed
    assert more.model == work.model


@FEW
@given(shapes, recipes(), layouts(), precisions)
def test_no_step_is_faster_than_any_part_of_the_machine(
    shape: Shape, bytes_each: Recipe, layout: Layout, precision: Precision
) -> None:
    hardware = MACHINES["b200-sm100"]
    made = throughput.of(
        shape, bytes_each, layout, hardware, precision=precision, length=layout.context
    )
    seconds = made.seconds.total

    assert seconds == pytest.approx(sum(made.seconds.parts().values()))
    assert 0 < made.mfu < 1
    assert made.flops_per_second < hardware.product(precision).peak
    traffic = communication.of(shape, bytes_each, layout)
    link = communication.states_link(layout, hardware)
    if link is not None:
        assert traffic.states / seconds <= link.peak


def test_a_result_beyond_the_hardware_is_an_error_in_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Products at ten times the measured rate would beat the published peak."""
    monkeypatch.setattr(throughput, "PRODUCT_SHARE", 10.0)
    layout = Layout(1, 1, Strategy.DDP, context=4096, passes=64)
    with pytest.raises(throughput.Impossible, match="above its peak"):
        throughput.of(
            SHAPES["llama-3.1-8b"],
            recipe.MIXED,
            layout,
            replace(MACHINES["b200-sm100"], attention=1e18, gpus_per_node=1),
            precision=Precision.BF16,
            length=1,
        )


@FEW
@given(
    machines,
    st.integers(1, 64),
    st.floats(0, 10_000),
    st.floats(0.1, 50),
    st.floats(0, 50),
    st.floats(0, 7200),
    st.floats(0, 1e6),
)
def test_rent_never_falls_when_its_price_rises_and_is_whole_nodes(
    hardware: Hardware,
    nodes: int,
    hours: float,
    price: float,
    more: float,
    lead: float,
    least: float,
) -> None:
    here = cost.rented(hardware, Rent(price, lead, least), nodes=nodes, hours=hours)
    there = cost.rented(hardware, Rent(price + more, lead, least), nodes=nodes, hours=hours)

    assert there.total >= here.total
    assert here.total == pytest.approx(here.hardware + here.electricity + here.rent + here.idle)
    whole = price * nodes * hardware.gpus_per_node
    assert here.total >= whole * max(hours, least / 3600) * (1 - 1e-12)


@FEW
@given(
    shapes,
    layouts(),
    machines,
    st.floats(60, 1e7),
    st.one_of(st.none(), st.floats(60, 1e6)),
    st.booleans(),
)
def test_hours_have_a_range_around_the_likely_ones(
    shape: Shape,
    layout: Layout,
    hardware: Hardware,
    seconds: float,
    interval: float | None,
    snapshot: bool,
) -> None:
    saved = failures.checkpoints(
        shape, layout, hardware, seconds=seconds, interval=interval, snapshot=snapshot
    )
    found = failures.hours(saved, seconds=seconds)

    assert seconds / 3600 <= found.least <= found.likely <= found.most
    assert saved.held <= saved.save or snapshot


def test_the_best_interval_between_saves_is_youngs() -> None:
    """Of all intervals, sqrt(2 C M) costs least, for a job long enough to fail often."""
    hardware = MACHINES["b200-sm100"]
    layout = Layout(64, 8, Strategy.ZERO3, context=8192)
    seconds = 60 * 86400.0

    def hours(interval: float | None) -> float:
        saved = failures.checkpoints(
            SHAPES["llama-3.1-8b"],
            layout,
            hardware,
            seconds=seconds,
            interval=interval,
            snapshot=False,
        )
        return failures.hours(saved, seconds=seconds).likely

    best = hours(None)
    assert all(best <= hours(interval) for interval in (60, 600, 1200, 6000, 12000, 86400))


def test_attention_costs_the_squares_of_documents_not_of_rows() -> None:
    assert flops.attended([8192], row=8192) == 8192
    assert flops.attended([1024] * 8, row=8192) == 1024
    assert flops.attended([1, 3], row=8192) == pytest.approx(10 / 4)
    assert flops.attended([10], row=4) == pytest.approx((16 + 16 + 4) / 10)
    assert flops.mixed([(80, 524288), (20, 4096)]) == pytest.approx(0.8 * 524288 + 0.2 * 4096)


@FEW
@given(shapes, layouts(), machines, st.sampled_from(list(Strategy)))
def test_blocks_computed_again_leave_no_copies_of_the_weights(
    shape: Shape, layout: Layout, hardware: Hardware, strategy: Strategy
) -> None:
    def copies(*, recomputed: bool) -> float:
        each = recipe.of_phase(Precision.BF16, OptimizerName.ADAMW, strategy, recomputed=recomputed)
        return memory.of(shape, each, layout, hardware).copies

    assert copies(recomputed=False) == 2 * shape.parameters
    assert copies(recomputed=True) == 0
