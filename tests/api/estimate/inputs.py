"""Layouts, shapes and classes for the estimates' tests."""

from hypothesis import strategies as st

from curriculum_api.classes import CLASSES
from curriculum_api.estimate import hardware
from curriculum_api.estimate.hardware import Hardware
from curriculum_api.estimate.layout import Kernels, Layout, Recompute
from curriculum_api.estimate.recipe import Recipe, of_phase
from curriculum_api.estimate.shape import Shape, of_preset
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.wire import OptimizerName, Precision, Strategy


def kind(name: str) -> AcceleratorClassSpec:
    """One of the chart's classes."""
    return AcceleratorClassSpec.model_validate({"image": "trainer", **CLASSES[name]})


def machine(name: str) -> Hardware:
    """Its numbers."""
    return hardware.of_class(name, kind(name))


MACHINES = {name: machine(name) for name in CLASSES}
SHAPES: dict[str, Shape] = {
    name: of_preset(name) for name in ("llama-3.1-8b", "qwen3-4b", "qwen3-8b", "tiny-4m")
}

machines = st.sampled_from(sorted(MACHINES)).map(MACHINES.__getitem__)
shapes = st.sampled_from(sorted(SHAPES)).map(SHAPES.__getitem__)
precisions = st.sampled_from((Precision.FP32, Precision.BF16, Precision.FP8, Precision.NVFP4))


@st.composite
def layouts(draw: st.DrawFn, *, gpus: int = 8) -> Layout:
    """A layout on nodes of `gpus` accelerators."""
    strategy = draw(st.sampled_from(list(Strategy)))
    nodes = draw(st.integers(1, 32))
    degrees = [d for d in (1, 2, 4, 8) if strategy is not Strategy.DDP and nodes * gpus % d == 0]
    recompute = draw(st.sampled_from(list(Recompute)))
    everything = recompute is Recompute.EVERYTHING
    return Layout(
        nodes=nodes,
        gpus_per_node=gpus,
        strategy=strategy,
        context=draw(st.sampled_from((512, 4096, 32768, 524288))),
        micro_batch=draw(st.integers(1, 8)),
        sequence_parallel=draw(st.sampled_from(degrees or [1])),
        passes=draw(st.integers(1, 64)),
        recompute=recompute,
        kernels=draw(st.sampled_from(list(Kernels))),
        tile_tokens=draw(st.sampled_from((None, 1024, 4096))),
        tiled_mlp=draw(st.booleans()),
        offload_activations=everything and draw(st.booleans()),
        offload_optimizer=strategy is not Strategy.DDP and draw(st.booleans()),
        offload_parameters=strategy is Strategy.ZERO3 and draw(st.booleans()),
    )


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """The trainer's recipe under some precision, optimizer and strategy."""
    return of_phase(
        draw(precisions),
        draw(st.sampled_from(list(OptimizerName))),
        draw(st.sampled_from(list(Strategy))),
        recomputed=draw(st.booleans()),
    )
